//! What each run says of each image: read, or measured first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::counted;
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::train::evaluate::predictions::Predictions;

use super::runs::{Arm, Run};
use crate::cli::Which;
use crate::process;
use crate::table::thousands;

/// A size, or the ensemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Size(u32),
    Ensemble,
}

impl Column {
    pub fn size(&self) -> Option<u32> {
        match self {
            Column::Size(size) => Some(*size),
            Column::Ensemble => None,
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Size(size) => size.fmt(f),
            Column::Ensemble => f.write_str("ensemble"),
        }
    }
}

/// Whether a run is right, image by image in the order of [`Images`], at each size.
pub type Right = BTreeMap<Column, Vec<bool>>;

/// The validation images, which all runs have in common.
pub struct Images {
    /// The path of the run whose images these are.
    of: PathBuf,
    /// The class of each image, and its place in the order, by its name.
    known: HashMap<String, (usize, String)>,
}

impl Images {
    pub fn count(&self) -> usize {
        self.known.len()
    }
}

/// The predictions of a run. Those of a run directory are kept in it, and measured where they are not there yet.
///
/// # Errors
/// They cannot be read, or the run cannot be evaluated.
pub fn predictions(run: &Run, which: Which, tell: impl Fn(&str)) -> Result<Predictions> {
    let Some(checkpoint) = &run.checkpoint else {
        return Predictions::read(&run.path);
    };
    let kind = match which {
        Which::Last => "last",
        Which::Best => "best",
    };
    let folder = run.path.join("predictions");
    let file = folder.join(format!("{kind}-{}.csv", run.identity));
    if !file.is_file() {
        tell(&format!("evaluating {}", run.path.shown()));
        std::fs::create_dir_all(&folder).with_context(|| {
            format!(
                "cannot make {}; `rsflow eval --predictions` writes predictions elsewhere, and compare takes the files",
                folder.shown()
            )
        })?;
        evaluate(checkpoint, &file, &tell)
            .with_context(|| {
                format!(
                    "{0} cannot be evaluated; compare takes files, too: `rsflow eval {0} --data FOLDER --predictions \
                     FILE` writes one",
                    run.path.shown()
                )
            })?;
        if Checkpoint::open(checkpoint)?.identity() != run.identity {
            let _ = std::fs::remove_file(&file);
            bail!(
                "{} was written anew while it was evaluated; compare the run when it has ended",
                checkpoint.shown()
            );
        }
    }
    Predictions::read(&file)
}

fn evaluate(checkpoint: &Path, predictions: &Path, tell: &impl Fn(&str)) -> Result<()> {
    let options = [
        "eval".as_ref(),
        "--checkpoint".as_ref(),
        checkpoint.as_os_str(),
    ];
    // Another comparison may be writing the same.
    let more = [
        "--force".as_ref(),
        "--predictions".as_ref(),
        predictions.as_os_str(),
    ];
    let output = process::this_program(options.iter().chain(&more))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        said.lines()
            .filter(|line| line.contains("WARN "))
            .for_each(tell);
        return Ok(());
    }
    let error = said.lines().skip_while(|line| !line.starts_with("error"));
    let error: Vec<&str> = error.collect();
    match error.as_slice() {
        [] => bail!("`rsflow eval` ended with {}", output.status),
        lines => bail!("{}", lines.join("\n").trim_start_matches("error: ")),
    }
}

/// Whether the runs of the arms are right: for each arm its runs, with all sizes of those that are joined.
///
/// # Errors
/// Runs that cannot be compared: other images or classes, a size twice in what is joined.
pub fn of_arms(
    arms: &[Arm],
    mut load: impl FnMut(&Run) -> Result<Predictions>,
) -> Result<(Images, Vec<Vec<Right>>)> {
    let mut images: Option<Images> = None;
    let mut all = Vec::new();
    for arm in arms {
        let seeds = arm.parts.first().map_or(0, Vec::len);
        let mut runs: Vec<Right> = vec![Right::new(); seeds];
        for run in arm.parts.iter().flat_map(|runs| runs.iter().zip(0..)) {
            let (run, at): (&Run, usize) = run;
            let predictions = load(run)?;
            let images = match &images {
                Some(images) => images,
                None => images.insert(Images::of(run, &predictions)),
            };
            for (column, right) in images.right(run, &predictions)? {
                let there = runs[at].insert(column, right);
                // The ensemble of one network is not that of the arm.
                ensure!(
                    there.is_none() || column == Column::Ensemble,
                    "{} and another part that is joined with it have the same size",
                    run.path.shown()
                );
            }
        }
        if arm.parts.len() > 1 {
            runs.iter_mut().for_each(|right| {
                right.remove(&Column::Ensemble);
            });
        }
        all.push(runs);
    }
    let images = images.context("there is no run to compare")?;
    Ok((images, all))
}

impl Images {
    fn of(run: &Run, predictions: &Predictions) -> Self {
        let images = predictions.images.iter().enumerate();
        let known: HashMap<_, _> = images
            .map(|(at, image)| (image.image.clone(), (at, image.class.clone())))
            .collect();
        Images {
            of: run.path.clone(),
            known,
        }
    }

    fn right(&self, run: &Run, predictions: &Predictions) -> Result<Right> {
        self.check(run, predictions)?;
        let columns = predictions.columns.iter().enumerate();
        let of_column = columns.map(|(at, column)| {
            let mut right = vec![false; self.count()];
            for image in &predictions.images {
                if let (Some((place, class)), Some((predicted, _))) =
                    (self.known.get(&image.image), image.at.get(at))
                {
                    right[*place] = predicted == class;
                }
            }
            let column = column.map_or(Column::Ensemble, Column::Size);
            (column, right)
        });
        Ok(of_column.collect())
    }

    /// Makes sure that the run was measured on these images, with these classes.
    fn check(&self, run: &Run, predictions: &Predictions) -> Result<()> {
        let (own, other) = (self.of.shown(), run.path.shown());
        let way_out = "write predictions on the same images (`rsflow eval --data DIR --predictions FILE`) and \
                       compare the files";
        let cannot = |why: String| bail!("{own} and {other} cannot be compared: {why}; {way_out}");
        let file = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let counts = |names: &mut dyn Iterator<Item = &String>| {
            let mut counts: HashMap<String, usize> = HashMap::new();
            names.for_each(|name| *counts.entry(file(name)).or_default() += 1);
            counts
        };
        let there = counts(&mut predictions.images.iter().map(|image| &image.image));
        let here = counts(&mut self.known.keys());
        let is_unique = |name: &str| [&there, &here].iter().all(|of| of.get(name) == Some(&1));
        let by_file = self
            .known
            .iter()
            .map(|(name, (_, class))| (file(name), class.as_str()));
        let by_file: HashMap<String, &str> = by_file.filter(|(name, _)| is_unique(name)).collect();
        // An image in another class folder has another name, and the same file name.
        let mut relabelled = Vec::new();
        let mut unknown = Vec::new();
        for image in &predictions.images {
            let class = match self.known.get(&image.image) {
                Some((_, class)) => Some(class.as_str()),
                None => by_file.get(&file(&image.image)).copied(),
            };
            match class {
                Some(class) if class == image.class => {
                    if !self.known.contains_key(&image.image) {
                        unknown.push(image);
                    }
                }
                Some(class) => relabelled.push((image, class)),
                None => unknown.push(image),
            }
        }
        let of = format!("of {} images", thousands(predictions.images.len() as u64));
        if let Some((image, class)) = relabelled.first() {
            return cannot(format!(
                "{} {of} have another class there ({} is of class {}, and in {own} of class {class})",
                relabelled.len(),
                image.image.shown(),
                image.class.shown()
            ));
        }
        if let Some(image) = unknown.first() {
            return cannot(format!(
                "{other} was measured on other images ({} {of}, such as {})",
                unknown.len(),
                image.image.shown()
            ));
        }
        if predictions.images.len() != self.count() {
            let counts = [predictions.images.len(), self.count()].map(|n| counted(n, "image"));
            return cannot(format!(
                "{other} was measured on {} and {own} on {}",
                counts[0], counts[1]
            ));
        }
        Ok(())
    }
}
