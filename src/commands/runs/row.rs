//! A run in one line.

use std::path::Path;

use jiff::Timestamp;
use rsflow_base::input_file;
use rsflow_base::run_files::{LOG, RECIPE, last_checkpoint};
use rsflow_base::shown::lines;
use rsflow_graph::{Plan, Recipe, Text};
use rsflow_model::checkpoint::Checkpoint;
use serde::{Serialize, Serializer};

use crate::catalogue::CATALOGUE;
use crate::commands::recipes::{MAX_RECIPE, the_trainer};
use crate::program_log::ProgramLog;
use crate::run_dir::is_locked;
use crate::run_log::{Epoch, RunLog};

/// The field names are JSON keys.
#[derive(Debug, Serialize)]
pub struct Row {
    pub directory: String,
    /// By its log.
    #[serde(serialize_with = "as_text")]
    pub started: Option<Timestamp>,
    pub state: State,
    /// As a recipe has it.
    pub network: Option<String>,
    /// The largest first.
    pub sizes: Vec<u32>,
    /// Epochs that are over.
    pub epoch: u64,
    /// Those of the recipe.
    pub epochs: Option<u64>,
    /// The best validation at the largest size, in percent.
    pub best_top1: Option<f64>,
    /// The newest one.
    pub last_top1: Option<f64>,
    /// How long it took so far.
    pub seconds: Option<f64>,
    /// What could not be read, a sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Finished,
    Running,
    /// Or killed: nothing has it open, and its log has no end.
    Stopped,
    /// Its metrics cannot be read.
    Unreadable,
}

/// As RFC 3339 has it.
fn as_text<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(to)
}

/// What was trained.
#[derive(Default)]
struct About {
    network: Option<String>,
    sizes: Vec<u32>,
    epochs: Option<u64>,
}

impl Row {
    /// Reads a run directory. What cannot be read becomes a note.
    pub fn read(path: &Path) -> Self {
        let mut notes = Vec::new();
        let log = RunLog::read_epochs(path);
        let is_read = log.is_ok();
        let log = log.unwrap_or_else(|error| {
            notes.push(lines(&format!("{error:#}")).into_owned());
            RunLog::default()
        });
        notes.extend(log.notes());
        let program_log = ProgramLog::read(&path.join(LOG));
        let mut about = about(path, &mut notes);
        if about.sizes.is_empty() {
            let rows = log.newest().map(|newest| newest.rows.as_slice());
            let rows = rows.unwrap_or_default().iter();
            about.sizes = rows.filter_map(|row| row.resolution).collect();
        }
        about.sizes.sort_unstable_by(|one, other| other.cmp(one));
        let validations = || log.validations().filter_map(|it| top1(it, &about.sizes));
        let ended = log.end.as_ref().map(|end| end.seconds);
        Row {
            directory: path.to_string_lossy().into_owned(),
            started: program_log.started(),
            state: match () {
                () if !is_read => State::Unreadable,
                () if log.end.is_some() => State::Finished,
                () if is_locked(path) => State::Running,
                () => State::Stopped,
            },
            network: about.network,
            epoch: epochs_over(&log),
            epochs: about.epochs,
            best_top1: validations().reduce(f64::max),
            last_top1: validations().last(),
            sizes: about.sizes,
            seconds: program_log.seconds(ended),
            notes,
        }
    }
}

/// Earlier versions logged only the epochs that were validated: there a step says more.
fn epochs_over(log: &RunLog) -> u64 {
    let logged = log.last_epoch().map_or(0, |epoch| epoch.epoch);
    let begun = log.steps.last().map_or(0, |step| step.epoch);
    logged.max(begun.saturating_sub(1))
}

/// Top-1 at the largest size.
fn top1(validation: &Epoch, sizes: &[u32]) -> Option<f64> {
    let largest = sizes.first().copied();
    let row = validation.rows.iter().find(|row| row.resolution == largest);
    row?.top1
}

/// From the recipe, where this version understands it, else from the last checkpoint.
fn about(path: &Path, notes: &mut Vec<String>) -> About {
    of_recipe(&path.join(RECIPE)).unwrap_or_else(|reason| {
        notes.push(reason);
        let Ok(checkpoint) = Checkpoint::open(&last_checkpoint(path)) else {
            return About::default();
        };
        let metadata = checkpoint.metadata();
        About {
            network: Some(metadata.network.to_string()),
            sizes: metadata.resolutions.clone(),
            epochs: None,
        }
    })
}

fn of_recipe(path: &Path) -> Result<About, String> {
    let text = input_file::read_to_string(path, MAX_RECIPE)
        .map_err(|error| format!("{RECIPE} cannot be read: {error}"))?;
    let recipe = Recipe::parse(Text::new(RECIPE, text), CATALOGUE, &[]);
    let plan = recipe.and_then(Plan::with_unread).map_err(|_| {
        format!("{RECIPE} is not a recipe of this version; `rsflow check` on it says why")
    })?;
    let about = || -> anyhow::Result<About> {
        let (planned, trainer) = the_trainer(&plan, path)?;
        Ok(About {
            network: Some(trainer.architecture().to_string()),
            sizes: trainer.resolutions(&plan.incoming(planned))?,
            epochs: Some(trainer.epochs()),
        })
    };
    about().map_err(|error| lines(&format!("{error:#}")).into_owned())
}
