//! What a network took images for: accuracy by class, confusions, the worst mistakes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::train::evaluate::predictions::{Predicted, Predictions};

use super::latency::find;
use super::run::Found;

/// The name of such a file in a run directory.
pub const FILE: &str = "predictions.csv";
/// The folder in it where `rsflow compare` keeps such files.
const FOLDER: &str = "predictions";
/// Upper bound of the file, in bytes.
const MAX_FILE: u64 = 2 << 30;
/// The most mistakes that are kept.
pub const MOST_MISTAKES: usize = 24;

/// Predictions, counted.
#[derive(Debug)]
pub struct Answers {
    /// Where they were read.
    pub file: PathBuf,
    pub images: u64,
    /// The largest size first, the ensemble last.
    pub columns: Vec<Option<u32>>,
    /// Of each column, in percent.
    pub top1: Vec<f64>,
    /// In the order of the data; those that were only predicted follow.
    pub classes: Vec<Class>,
    /// At the largest size: how many images of a class were taken for another, the most first. Indices into
    /// `classes`.
    pub confused: Vec<Confused>,
    /// At the largest size, the most certain first.
    pub mistakes: Vec<Mistake>,
    /// Why their pictures are not shown.
    pub without_pictures: Option<String>,
}

#[derive(Debug)]
pub struct Class {
    pub name: String,
    pub images: u64,
    /// Of each column how many were right.
    pub right: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confused {
    pub class: usize,
    pub taken_for: usize,
    pub images: u64,
}

#[derive(Debug)]
pub struct Mistake {
    pub image: String,
    pub class: String,
    pub taken_for: String,
    /// From 0 to 1.
    pub probability: f64,
    /// The other columns that were right.
    pub right_at: Vec<Option<u32>>,
    /// As a JPEG file.
    pub picture: Option<Vec<u8>>,
}

impl Answers {
    /// Of the file that was named, else of one in the run directory.
    ///
    /// # Errors
    /// The file that was named cannot be read.
    pub fn find(run_dir: &Path, named: Option<&Path>) -> Result<Found<Self>> {
        let usual = Some(run_dir.join(FILE)).filter(|path| path.exists());
        let usual = usual.or_else(|| newest_of_compare(run_dir));
        let usual = usual.unwrap_or_else(|| run_dir.join(FILE));
        find(usual, named, |path| {
            let length = std::fs::metadata(path).map_or(0, |file| file.len());
            ensure!(
                length <= MAX_FILE,
                "{} has {length} bytes, the limit is {MAX_FILE}",
                path.shown()
            );
            Ok(Answers::of(&Predictions::read(path)?, path))
        })
    }

    fn of(predictions: &Predictions, file: &Path) -> Self {
        let mut order: Vec<usize> = (0..predictions.columns.len()).collect();
        let key =
            |at: &usize| predictions.columns[*at].map_or(u32::MAX, |size| u32::MAX - 1 - size);
        order.sort_by_key(key);
        let columns: Vec<_> = order.iter().map(|&at| predictions.columns[at]).collect();
        let counts = counts(predictions, &order);
        let images = predictions.images.len() as u64;
        let right = |at: usize| counts.classes.iter().map(|it| it.right[at]).sum::<u64>();
        Answers {
            file: file.to_owned(),
            images,
            top1: (0..columns.len())
                .map(|at| 100.0 * right(at) as f64 / images.max(1) as f64)
                .collect(),
            mistakes: mistakes(predictions, &order),
            classes: counts.classes,
            confused: counts.confused,
            columns,
            without_pictures: None,
        }
    }

    /// Those with the lowest accuracy at the largest size first; without classes that have no image.
    pub fn worst_first(&self) -> Vec<&Class> {
        let mut classes: Vec<&Class> = self.classes.iter().filter(|it| it.images > 0).collect();
        classes.sort_by(|one, other| one.share(0).total_cmp(&other.share(0)));
        classes
    }
}

impl Class {
    /// Of its images, the share that is right in a column.
    pub fn share(&self, column: usize) -> f64 {
        let right = self.right.get(column).copied().unwrap_or(0);
        right as f64 / self.images.max(1) as f64
    }
}

/// The last one that `rsflow compare` has written.
fn newest_of_compare(run_dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(run_dir.join(FOLDER)).ok()?.flatten();
    let files = entries.filter_map(|entry| {
        let path = entry.path();
        let is_csv = path.extension().is_some_and(|extension| extension == "csv");
        let modified = entry.metadata().and_then(|file| file.modified()).ok()?;
        is_csv.then_some((modified, path))
    });
    files.max().map(|(_, path)| path)
}

struct Counts {
    classes: Vec<Class>,
    confused: Vec<Confused>,
}

/// `order` are the columns, that of the largest size first.
fn counts(predictions: &Predictions, order: &[usize]) -> Counts {
    let mut classes: Vec<Class> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let named = predictions.images.iter().map(|it| it.class.as_str());
    let first = order.first().copied().unwrap_or(0);
    let predicted = predictions.images.iter().filter_map(|it| it.at.get(first));
    for name in named.chain(predicted.map(|(name, _)| name.as_str())) {
        known.entry(name).or_insert_with(|| {
            classes.push(Class {
                name: name.to_owned(),
                images: 0,
                right: vec![0; order.len()],
            });
            classes.len() - 1
        });
    }
    let mut pairs: HashMap<(usize, usize), u64> = HashMap::new();
    for image in &predictions.images {
        let at = known[image.class.as_str()];
        classes[at].images += 1;
        for (place, &column) in order.iter().enumerate() {
            let is_right = image
                .at
                .get(column)
                .is_some_and(|(name, _)| *name == image.class);
            classes[at].right[place] += u64::from(is_right);
        }
        if let Some((taken_for, _)) = image.at.get(first)
            && *taken_for != image.class
        {
            *pairs.entry((at, known[taken_for.as_str()])).or_default() += 1;
        }
    }
    let pairs = pairs
        .into_iter()
        .map(|((class, taken_for), images)| Confused {
            class,
            taken_for,
            images,
        });
    let mut confused: Vec<Confused> = pairs.collect();
    confused.sort_by_key(|it| (std::cmp::Reverse(it.images), it.class, it.taken_for));
    Counts { classes, confused }
}

fn mistakes(predictions: &Predictions, order: &[usize]) -> Vec<Mistake> {
    let Some((&first, others)) = order.split_first() else {
        return Vec::new();
    };
    let is_wrong = |image: &&Predicted| {
        image
            .at
            .get(first)
            .is_some_and(|(it, _)| *it != image.class)
    };
    let mut wrong: Vec<&Predicted> = predictions.images.iter().filter(is_wrong).collect();
    let certainty = |image: &Predicted| image.at.get(first).map_or(0.0, |(_, p)| *p);
    wrong.sort_by(|one, other| certainty(other).total_cmp(&certainty(one)));
    let mistakes = wrong.into_iter().take(MOST_MISTAKES).filter_map(|image| {
        let (taken_for, probability) = image.at.get(first)?;
        let is_right = |at: &&usize| image.at.get(**at).is_some_and(|(it, _)| *it == image.class);
        let right_at = others.iter().filter(is_right);
        Some(Mistake {
            image: image.image.clone(),
            class: image.class.clone(),
            taken_for: taken_for.clone(),
            probability: *probability,
            right_at: right_at.map(|&at| predictions.columns[at]).collect(),
            picture: None,
        })
    });
    mistakes.collect()
}
