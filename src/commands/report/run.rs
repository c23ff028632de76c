//! A run as its report shows it: what is in its directory, however far it got.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rsflow_base::input_file;
use rsflow_base::run_files::{BEST, CHECKPOINTS, LAST, LOG, METRICS, RECIPE, epochs_of};
use rsflow_base::shown::{Shown as _, lines};
use rsflow_graph::{Plan, Preprocess, Recipe, Text};
use rsflow_model::checkpoint::Checkpoint;

use super::answers::Answers;
use super::charts::needs_steps;
use super::latency::Evaluated;
use super::times::Times;
use crate::catalogue::CATALOGUE;
use crate::commands::recipes::the_trainer;
use crate::commands::usage::Usage;
use crate::program_log::ProgramLog;
use crate::run_dir::is_locked;
use crate::run_log::RunLog;

/// Upper bound of a recipe, in bytes.
const MAX_RECIPE: u64 = 16 << 20;

/// Something that a run directory may have: `None` if it has not, the reason if it cannot be read.
pub type Found<T> = Option<Result<T, String>>;

/// What a run did so far.
pub struct Run {
    pub path: PathBuf,
    /// What distinguishes it from the others of the report.
    pub name: String,
    pub state: State,
    /// With its steps where the charts show them.
    pub log: RunLog,
    /// As it ran; empty if it is not there.
    pub recipe: String,
    pub about: About,
    /// How long it took so far.
    pub seconds: Option<f64>,
    /// The ensemble's weights in the checkpoints that are kept, in the order of training.
    pub weights: Vec<WeightsAt>,
    pub answers: Found<Answers>,
    pub latency: Found<Evaluated>,
    pub times: Found<Times>,
    /// What could not be read, a sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Ended,
    /// Or killed: nothing has it open, and its log has no end.
    Interrupted,
}

/// What was trained.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// As a recipe has it.
    pub network: Option<String>,
    pub classes: Option<u64>,
    /// The largest first.
    pub sizes: Vec<u32>,
    /// Training images in an epoch.
    pub images: Option<u64>,
    /// How validation images are made.
    pub preprocess: Preprocess,
}

/// The weights of an ensemble at a time of the training.
#[derive(Clone, Debug)]
pub struct WeightsAt {
    /// Epochs that were over, a part of one included.
    pub epoch: f64,
    /// Of each resolution; their sum is 1.
    pub of: Vec<(u32, f64)>,
}

/// The files beside the run's own; see the options of these names.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    pub predictions: Option<&'a Path>,
    pub latency: Option<&'a Path>,
    pub profile: Option<&'a Path>,
}

/// Refuses what is no run directory.
///
/// # Errors
/// The message says what is missing, and what to name.
pub fn check(path: &Path) -> Result<()> {
    if [METRICS, RECIPE, LOG]
        .iter()
        .any(|name| path.join(name).is_file())
    {
        return Ok(());
    }
    let place = path.shown();
    let text = match () {
        () if path.is_file() => {
            format!("{place} is a file; name the run directory that it is in")
        }
        () if path.is_dir() => format!(
            "{place} is not a run directory, and no folder of some: it has no {METRICS}, {RECIPE} or {LOG}; name one, \
             such as runs/RECIPE/START_TIME"
        ),
        () => format!("there is no run directory {place}"),
    };
    Err(Usage(text).into())
}

impl Run {
    /// Reads a run directory. What cannot be read but is not needed becomes a note.
    ///
    /// # Errors
    /// The metrics cannot be read, or a file that was named.
    pub fn read(path: &Path, name: String, extra: Extra) -> Result<Self> {
        let log = match RunLog::read_epochs(path)? {
            log if needs_steps(&log) => RunLog::read(path)?,
            log => log,
        };
        let mut notes = notes_of(&log);
        let mut note = |text: String| notes.push(text);
        let recipe_file = path.join(RECIPE);
        let recipe = match input_file::read_to_string(&recipe_file, MAX_RECIPE) {
            Ok(text) => text,
            Err(error) => {
                note(format!("{RECIPE} cannot be read: {error}."));
                String::new()
            }
        };
        let checkpoints = checkpoints(path, &mut note);
        let newest = checkpoints.last();
        let program_log = ProgramLog::read(&path.join(LOG));
        let state = match () {
            () if log.end.is_some() => State::Ended,
            () if is_locked(path) => State::Running,
            () => State::Interrupted,
        };
        let end = log.end.as_ref().map(|end| end.seconds);
        let plan = plan(&recipe);
        Ok(Run {
            name,
            about: about(&recipe_file, plan.as_ref(), newest, &log),
            seconds: program_log.seconds(end),
            weights: checkpoints
                .iter()
                .filter_map(|checkpoint| WeightsAt::of(checkpoint, &mut note))
                .collect(),
            answers: Answers::find(path, extra.predictions)?,
            latency: Evaluated::find(path, extra.latency)?,
            times: Times::find(path, extra.profile, &program_log, plan.as_ref())?,
            path: path.to_owned(),
            state,
            log,
            recipe,
            notes,
        })
    }

    /// The sizes of its validations, the largest first.
    pub fn sizes(&self) -> Vec<u32> {
        let rows = self.log.newest().map(|newest| newest.rows.as_slice());
        let rows = rows.unwrap_or_default().iter();
        let mut sizes: Vec<u32> = rows.filter_map(|row| row.resolution).collect();
        if sizes.is_empty() {
            sizes.clone_from(&self.about.sizes);
        }
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        sizes.dedup();
        sizes
    }

    /// The sizes that its ensemble is of, `64, 48`; `None` if it has no ensemble.
    pub fn ensemble(&self) -> Option<String> {
        let newest = self.log.newest()?;
        let is_there = newest.rows.iter().any(|row| row.resolution.is_none());
        let sizes: Vec<String> = self.sizes().iter().map(u32::to_string).collect();
        is_there.then(|| sizes.join(", "))
    }
}

/// Whether the ensembles of runs are of different sizes: then each needs its sizes beside it.
pub fn ensembles_differ(runs: &[Run]) -> bool {
    let mut all = runs.iter().filter_map(Run::ensemble);
    let first = all.next();
    all.any(|other| Some(other) != first)
}

/// What the log says of itself.
fn notes_of(log: &RunLog) -> Vec<String> {
    let mut notes = log.notes();
    if log.is_cut {
        notes.push(format!(
            "The last line of {METRICS} lacks its end: the run was writing it, or was killed while it did."
        ));
    }
    notes
}

fn plan(recipe: &str) -> Option<Plan> {
    let recipe = Recipe::parse(Text::new(RECIPE, recipe), CATALOGUE, &[]).ok()?;
    Plan::with_unread(recipe).ok()
}

/// From the recipe, where this version understands it, else from a checkpoint.
fn about(
    recipe: &Path,
    plan: Option<&Plan>,
    checkpoint: Option<&Checkpoint>,
    log: &RunLog,
) -> About {
    let metadata = checkpoint.map(Checkpoint::metadata);
    let preprocess = metadata.and_then(|it| it.preprocess).unwrap_or_default();
    let samples = metadata.and_then(|it| it.samples_per_epoch);
    let trained = plan.and_then(|plan| {
        let (planned, trainer) = the_trainer(plan, recipe).ok()?;
        let sizes = trainer.resolutions(&plan.incoming(planned)).ok()?;
        Some((trainer, sizes))
    });
    let mut about = match (trained, metadata) {
        (_, Some(metadata)) => About {
            network: Some(metadata.network.to_string()),
            classes: Some(metadata.classes.len() as u64),
            sizes: metadata.resolutions.clone(),
            images: samples,
            preprocess,
        },
        (Some((trainer, sizes)), None) => About {
            network: Some(trainer.architecture().to_string()),
            classes: trainer.classes().map(u64::from),
            sizes,
            images: samples,
            preprocess,
        },
        (None, None) => {
            let rows = log.newest().map(|newest| newest.rows.as_slice());
            let rows = rows.unwrap_or_default().iter();
            About {
                sizes: rows.filter_map(|row| row.resolution).collect(),
                ..About::default()
            }
        }
    };
    about.sizes.sort_unstable_by(|one, other| other.cmp(one));
    about
}

/// Those that are kept, in the order of training.
fn checkpoints(run_dir: &Path, note: &mut impl FnMut(String)) -> Vec<Checkpoint> {
    let folder = run_dir.join(CHECKPOINTS);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |name: &String| [LAST, BEST].contains(&name.as_str()) || epochs_of(name).is_some();
    let mut found = Vec::new();
    for name in names.filter(is_one) {
        match Checkpoint::open(&folder.join(name)).and_then(|file| file.with_weights(None)) {
            Ok(checkpoint) => found.push(checkpoint),
            Err(error) => note(format!("{}.", lines(&format!("{error:#}")))),
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.metadata().step);
    // `last` and `best` are other names of an epoch's.
    found.dedup_by_key(|checkpoint| checkpoint.metadata().step);
    found
}

impl WeightsAt {
    fn of(checkpoint: &Checkpoint, note: &mut impl FnMut(String)) -> Option<Self> {
        let metadata = checkpoint.metadata();
        let weights = match checkpoint.ensemble_weights() {
            Ok(weights) => weights,
            Err(error) => {
                note(format!("{}.", lines(&format!("{error:#}"))));
                return None;
            }
        };
        let samples = metadata.samples_per_epoch.unwrap_or(0);
        let part = metadata.sample_in_epoch as f64 / samples as f64;
        let part = if part.is_finite() { part } else { 0.0 };
        Some(WeightsAt {
            epoch: metadata.epoch as f64 + part,
            of: metadata.resolutions.iter().copied().zip(weights).collect(),
        })
    }
}

/// What distinguishes the paths of runs: of one, the folder that it is in and its own name; of several, what
/// they do not have in common.
pub fn names(paths: &[PathBuf]) -> Vec<String> {
    let full: Vec<PathBuf> = paths
        .iter()
        .map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()))
        .collect();
    let part = |path: &PathBuf, at| {
        path.components()
            .nth(at)
            .map(|it| it.as_os_str().to_owned())
    };
    let shared = |at: usize| {
        let first = full.first().and_then(|path| part(path, at));
        full.iter().all(|path| {
            // What is left must not be empty.
            path.components().count() > at + 1 && part(path, at) == first
        })
    };
    let cut = match full.as_slice() {
        [only] => only.components().count().saturating_sub(2).max(1),
        _ => (0..).take_while(|at| shared(*at)).count(),
    };
    full.iter()
        .map(|path| {
            let rest: PathBuf = path.components().skip(cut).collect();
            rest.shown().into_owned()
        })
        .collect()
}
