//! The node `TensorBoard`: metrics as TensorBoard event files.
//!
//! An event file is a sequence of records, each a protocol buffer `Event` between its length and
//! checksums:
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>.
//! `messages` has them, `hparams` what is said of the recipe, `pictures` the sample images. Of the crates
//! that write event files, `tensorboard-rs` panics on I/O errors, `tboard` needs protoc to build, `tfrecord`
//! has a dozen dependencies, and none of them is maintained.

mod hparams;
mod messages;
mod pictures;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;
use rsflow_base::run_files::{EVENTS, TENSORBOARD};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Build, Incoming, Input, Journal, LogWriter, Node, NodeKind, Payload, Port, Report, Schema,
    Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{append, input, join, run_dir, with_hint};
use crate::train::metrics::{Losses, Metric, Step, Table, Training};
use messages::{Event, SESSION_START, SessionLog, Summary, Value, What};

/// Writes the metrics of a run as TensorBoard event files to the folder `tensorboard` of the run
/// directory, with the recipe as text, its fields as hyper-parameters, and up to 8 images of the first
/// training batch at each size, as they are before they are normalized. Show them with
/// `tensorboard --logdir RUN_DIR`; with the folder of several runs it compares them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorBoard {
    /// The metrics of a trainer.
    input: Input,
}

impl Node for TensorBoard {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let folder = run_dir(build)?.join(TENSORBOARD);
        let events = Events::open(&folder, build.recipe, &build.run.journal).map_err(with_hint)?;
        Ok(Stage::sink(events))
    }
}

impl NodeKind for TensorBoard {
    const NAME: &'static str = "TensorBoard";
    const SUMMARY: &'static str = "writes losses and accuracies for TensorBoard";
    const INPUTS: &'static [Port] = &[input(Metric::NAME)];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = "TensorBoard(input: \"trainer.metrics\")";
}

struct Events {
    path: PathBuf,
    file: File,
    /// The recipe's text.
    recipe: String,
    /// Whether the session start was written.
    started: bool,
    /// The step of the last written validation.
    validated: Option<u64>,
    writer: LogWriter,
}

impl Events {
    /// Creates an event file.
    fn open(folder: &Path, recipe: &str, journal: &Journal) -> Result<Self> {
        let cannot = || format!("cannot write events to {}", folder.shown());
        fs::create_dir_all(folder).with_context(cannot)?;
        let mut seconds = now() as u64;
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let name = entry.with_context(cannot)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(EVENTS));
            let number = number.and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
            // The last in the order of names, even if the clock was set back.
            seconds = seconds.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        let path = folder.join(format!("{EVENTS}{seconds:010}.rsflow"));
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.shown()))?;
        let events = Self {
            writer: join(journal, &file, &path)?,
            path,
            file,
            recipe: recipe.to_owned(),
            started: false,
            validated: None,
        };
        events.write(0, What::FileVersion("brain.Event:2".to_owned()))?;
        Ok(events)
    }

    /// Writes a session start at the step of the first metric: TensorBoard discards events of
    /// earlier files from this step on. A new run writes it too, since TensorBoard detects a
    /// restart by the second one.
    fn start(&mut self, step: u64) -> Result<()> {
        if self.started {
            return Ok(());
        }
        self.started = true;
        let start = SessionLog {
            status: SESSION_START,
        };
        self.write(step, What::SessionLog(start))?;
        if self.recipe.is_empty() {
            return Ok(());
        }
        let value = vec![
            hparams::text(&self.recipe),
            hparams::start(&self.recipe, now()),
        ];
        self.write(step, What::Summary(Summary { value }))
    }

    /// The hyper-parameters' plugin lists a run as finished.
    fn end(&self, step: u64) -> Result<()> {
        if self.recipe.is_empty() {
            return Ok(());
        }
        let value = vec![hparams::end(now())];
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&self, step: u64, what: What) -> Result<()> {
        let event = Event {
            wall_time: now(),
            step: step as i64,
            what: Some(what),
        };
        append(&self.file, &self.path, &record(&event.encode_to_vec()))
    }

    /// The final table usually repeats that of the last epoch.
    fn validation(&mut self, table: &Table) -> Result<()> {
        if self.validated == Some(table.step) {
            return Ok(());
        }
        self.validated = Some(table.step);
        // After the losses of the step before the validation.
        self.start(table.step + 1)?;
        let training = table.training.iter().flat_map(training_scalars);
        self.scalars(table.step, training.chain(table_scalars(table)).collect())
    }

    fn scalars(&self, step: u64, scalars: Vec<(String, f64)>) -> Result<()> {
        let value = scalars
            .into_iter()
            .map(|(tag, value)| Value {
                tag,
                simple_value: Some(value as f32),
                ..Value::default()
            })
            .collect();
        self.write(step, What::Summary(Summary { value }))
    }
}

impl Sink for Events {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        match metric {
            Metric::Samples(samples) => {
                self.start(samples.step)?;
                let value = pictures::values(&samples)?;
                self.write(samples.step, What::Summary(Summary { value }))?;
            }
            Metric::Step(step) => {
                self.start(step.step)?;
                if let Some(scalars) = step_scalars(&step) {
                    self.scalars(step.step, scalars)?;
                }
            }
            Metric::Epoch(table) => self.validation(&table)?,
            Metric::Final(table) => {
                self.validation(&table)?;
                self.end(table.step)?;
            }
            Metric::Validating(_) => {}
        }
        self.writer.accepted();
        Ok(())
    }
}

/// `None` for a step without losses.
fn step_scalars(step: &Step) -> Option<Vec<(String, f64)>> {
    let losses = step.losses.as_ref()?;
    let rates = (step.learning_rate, Some(step.images_per_second));
    Some(scalars_of("train", losses, rates))
}

/// The means of an epoch.
fn training_scalars(training: &Training) -> Vec<(String, f64)> {
    let rates = (training.learning_rate, training.images_per_second);
    let mut scalars = scalars_of("epoch", &training.losses, rates);
    let top1 = training.top1.map(|top1| {
        let name = format!("epoch/training_top1/{}", training.top1_resolution);
        (name, top1)
    });
    let peak = training.peak_gpu_bytes;
    let peak = peak.map(|bytes| ("epoch/peak_gpu_bytes".to_owned(), bytes as f64));
    scalars.extend(top1.into_iter().chain(peak));
    scalars
}

/// `rates`: the learning rate, and images in a second.
fn scalars_of(group: &str, losses: &Losses, rates: (f64, Option<f64>)) -> Vec<(String, f64)> {
    let by_resolution = losses
        .cross_entropy
        .iter()
        .map(|(resolution, value)| (format!("cross_entropy/{resolution}"), *value));
    let whole = [
        ("loss", Some(losses.loss)),
        (
            "ensemble_cross_entropy",
            Some(losses.ensemble_cross_entropy),
        ),
        ("distillation", losses.distillation),
        ("learning_rate", Some(rates.0)),
        ("images_per_second", rates.1),
    ];
    let scalars = whole
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .chain(by_resolution)
        .map(|(name, value)| (format!("{group}/{name}"), value));
    scalars.collect()
}

fn table_scalars(table: &Table) -> Vec<(String, f64)> {
    let trained = table.rows.iter().map(|row| ("validation", row));
    let averages = table.average.iter().map(|row| ("average", row));
    let rows = trained.chain(averages).flat_map(|(group, row)| {
        let name = row.resolution.map_or_else(
            || "ensemble".to_owned(),
            |resolution| resolution.to_string(),
        );
        [("top1", row.top1), ("top5", row.top5), ("loss", row.loss)]
            .map(|(figure, value)| (format!("{group}/{figure}/{name}"), value))
    });
    rows.collect()
}

/// Seconds since 1970.
fn now() -> f64 {
    // 0 if the clock is before 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// A `TFRecord`: length, its masked CRC, the bytes, their masked CRC.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked_checksum(&length),
        bytes,
        &masked_checksum(bytes),
    ]
    .concat()
}

/// CRC-32C, masked as TensorFlow does, so that a CRC of data that contains CRCs stays useful.
fn masked_checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
        .to_le_bytes()
}
