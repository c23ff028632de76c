//! What was predicted of each image: a CSV file, by which runs are compared.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_base::{input_file, whole_file};
use tch::Kind;

use crate::train::validation::Answers;

/// What was predicted of all images of an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// The sizes, in pixels; `None` is the ensemble.
    pub columns: Vec<Option<u32>>,
    /// In the order of the data.
    pub images: Vec<Predicted>,
    /// Names of all images, where they have some.
    names: Option<Vec<String>>,
    /// Images of the batches so far, also those that were left out.
    pub(super) seen: usize,
}

/// What was predicted of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Its path `CLASS/IMAGE`, or its number where images have no names.
    pub image: String,
    pub class: String,
    /// For each column the class that was predicted, and its probability, from 0 to 1.
    pub at: Vec<(String, f64)>,
}

impl Predictions {
    /// None so far; `names` are those of all images to come.
    pub(super) fn new(columns: Vec<Option<u32>>, names: Option<Vec<String>>) -> Self {
        Predictions {
            columns,
            images: Vec::new(),
            names,
            seen: 0,
        }
    }

    /// Adds images of a batch, each with its position there and its label, by the answers for each column. Waits for
    /// the device.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn add(
        &mut self,
        labels: impl Iterator<Item = (usize, i64)>,
        answers: &[Answers],
        names: &[String],
    ) -> Result<()> {
        let columns = answers.iter().map(|Answers { classes, logits }| {
            let probabilities = logits.f_to_kind(Kind::Double)?.f_softmax(-1, None)?;
            let of_classes = probabilities.f_gather(-1, &classes.f_unsqueeze(-1)?, false)?;
            let classes: Vec<i64> =
                Vec::try_from(&classes.f_to_kind(Kind::Int64)?.f_contiguous()?)?;
            let of_classes = Vec::<f64>::try_from(&of_classes.f_view([-1])?.f_contiguous()?)?;
            Ok((classes, of_classes))
        });
        let columns: Vec<(Vec<i64>, Vec<f64>)> = columns.collect::<Result<_>>()?;
        for (at, (position, label)) in labels.enumerate() {
            let number = self.seen + position;
            let name = self.names.as_ref().and_then(|names| names.get(number));
            let predicted = columns.iter().filter_map(|(classes, probabilities)| {
                Some((
                    class_name(*classes.get(at)?, names),
                    *probabilities.get(at)?,
                ))
            });
            let at = predicted.collect();
            self.images.push(Predicted {
                image: name.cloned().unwrap_or_else(|| number.to_string()),
                class: class_name(label, names),
                at,
            });
        }
        Ok(())
    }

    /// Writes them, whole or not at all: a row for each image, with the columns `image`, `class`, and for each size
    /// S `prediction_S` and `probability_S`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        whole_file::write(path, |file| {
            let mut csv = csv::Writer::from_writer(file);
            let pairs = self.columns.iter().map(|column| column_name(*column));
            let pairs = pairs.flat_map(|name| {
                [
                    format!("{PREDICTION}{name}"),
                    format!("{PROBABILITY}{name}"),
                ]
            });
            let header = ["image", "class"].map(str::to_owned).into_iter();
            csv.write_record(header.chain(pairs))?;
            for Predicted { image, class, at } in &self.images {
                let at = at
                    .iter()
                    .flat_map(|(class, probability)| [class.clone(), format!("{probability:.6}")]);
                csv.write_record([image.clone(), class.clone()].into_iter().chain(at))?;
            }
            Ok(csv.flush()?)
        })
        .with_context(|| format!("cannot write the predictions to {}", path.shown()))
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It cannot be read, or is not such a file; the message names the line.
    pub fn read(path: &Path) -> Result<Self> {
        let mut images = Vec::new();
        let columns = Self::read_each(path, |_, image| images.push(image))?;
        Ok(Predictions {
            seen: images.len(),
            columns,
            images,
            names: None,
        })
    }

    /// The same without keeping them: `take` gets the columns and each image. Returns the columns.
    ///
    /// # Errors
    /// As [`Predictions::read`]; `take` may have got the images before.
    pub fn read_each(
        path: &Path,
        take: impl FnMut(&[Option<u32>], Predicted),
    ) -> Result<Vec<Option<u32>>> {
        read(path, take).with_context(|| format!("cannot read the predictions in {}", path.shown()))
    }
}

const PREDICTION: &str = "prediction_";
const PROBABILITY: &str = "probability_";
const ENSEMBLE: &str = "ensemble";

fn column_name(column: Option<u32>) -> String {
    column.map_or_else(|| ENSEMBLE.to_owned(), |size| size.to_string())
}

/// A class by its index; its number where it has no name.
fn class_name(index: i64, names: &[String]) -> String {
    let name = usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index));
    match name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => index.to_string(),
    }
}

fn read(path: &Path, mut take: impl FnMut(&[Option<u32>], Predicted)) -> Result<Vec<Option<u32>>> {
    let mut csv = csv::Reader::from_reader(input_file::open(path)?);
    let header = csv.headers()?.clone();
    let mut cells = header.iter();
    ensure!(
        cells.next() == Some("image") && cells.next() == Some("class"),
        "its first columns must be `image` and `class`, as `rsflow eval --predictions` writes them"
    );
    let column = |name: &str| {
        let size = name.strip_prefix(PREDICTION)?;
        match size {
            ENSEMBLE => Some(None),
            size => Some(Some(size.parse().ok()?)),
        }
    };
    let columns: Option<Vec<Option<u32>>> = cells.clone().step_by(2).map(column).collect();
    let is_distinct = |columns: &[Option<u32>]| {
        let distinct: HashSet<_> = columns.iter().collect();
        !columns.is_empty() && distinct.len() == columns.len()
    };
    let columns = columns.filter(|columns| is_distinct(columns));
    let columns = columns.context(
        "it needs columns `prediction_SIZE` and `probability_SIZE` in turn, each size once",
    )?;
    let mut seen = HashSet::new();
    for record in csv.records() {
        let record = record?;
        let line = record.position().map_or(0, |at| at.line());
        let cell = |at: usize| record.get(at).unwrap_or_default().to_owned();
        let at = (0..columns.len()).map(|column| {
            let probability = cell(3 + 2 * column).parse::<f64>().ok();
            let probability = probability.filter(|p| (0.0..=1.0).contains(p));
            let probability = probability.with_context(|| {
                format!(
                    "line {line}: column {} is not a probability",
                    4 + 2 * column
                )
            })?;
            Ok((cell(2 + 2 * column), probability))
        });
        let image = cell(0);
        ensure!(
            seen.insert(image.clone()),
            "line {line}: the image {} is there twice",
            image.shown()
        );
        let predicted = Predicted {
            image,
            class: cell(1),
            at: at.collect::<Result<_>>()?,
        };
        take(&columns, predicted);
    }
    ensure!(!seen.is_empty(), "it has no images");
    Ok(columns)
}
