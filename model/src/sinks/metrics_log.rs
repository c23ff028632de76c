//! The node `MetricsLog`: metrics as JSON lines.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rsflow_base::run_files::METRICS;
use rsflow_base::shown::Shown as _;
use rsflow_base::{disk, whole_file};
use rsflow_graph::{
    Build, Incoming, Input, Journal, LogWriter, Node, NodeKind, Payload, Port, Report, Schema,
    Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::metrics_line::{Place, written};
use super::{append, input, join, lock, run_dir, with_hint};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::train::metrics::Metric;

/// Writes the metrics of a run to `metrics.jsonl` in the run directory, one JSON object per
/// line. Its `kind` is "step" (the loss), "epoch" (the epoch's training, and the results of the validation
/// after it) or "final" (the last results). `format` is 2: epochs count from 1. A number that is not finite
/// is `null`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsLog {
    /// The metrics of a trainer.
    input: Input,
}

impl Node for MetricsLog {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let resumed = build.resume::<Checkpoint>()?.map(Checkpoint::metadata);
        let path = run_dir(build)?.join(METRICS);
        let log = Log::open(path, resumed, &build.run.journal).map_err(with_hint)?;
        Ok(Stage::sink(log))
    }
}

impl NodeKind for MetricsLog {
    const NAME: &'static str = "MetricsLog";
    const SUMMARY: &'static str = "writes losses and accuracies to metrics.jsonl";
    const INPUTS: &'static [Port] = &[input(Metric::NAME)];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = "MetricsLog(input: \"trainer.metrics\")";
    const OUTPUT_FILE: &'static str = METRICS;
}

struct Log {
    path: PathBuf,
    file: File,
    /// The offset of the last line, if it is the final one of a run that is resumed after its end.
    final_line: Option<u64>,
    writer: LogWriter,
}

impl Log {
    fn open(path: PathBuf, resumed: Option<&Metadata>, journal: &Journal) -> Result<Self> {
        let mut file = open_locked(&path)?;
        let mut final_line = None;
        match resumed {
            None => disk::set_len(&file, 0)
                .or_else(|error| match error.kind() {
                    // A pipe or a device has no length.
                    ErrorKind::InvalidInput => Ok(()),
                    _ => Err(error),
                })
                .with_context(|| cannot(&path))?,
            Some(checkpoint) => {
                remove_unfinished(&path).with_context(|| cannot(&path))?;
                let before = fs::read(&path).with_context(|| cannot(&path))?;
                let unreadable = || format!("cannot resume {}", path.shown());
                let after = truncate_after(&before, checkpoint).with_context(unreadable)?;
                final_line = offset_of_final(&after)?;
                if after != before {
                    whole_file::write(&path, |file| Ok(file.write_all(&after)?))
                        .with_context(|| cannot(&path))?;
                    file = open_locked(&path)?;
                }
            }
        }
        Ok(Self {
            writer: join(journal, &file, &path)?,
            path,
            file,
            final_line,
        })
    }

    fn write(&mut self, metric: &Metric) -> Result<()> {
        if let Some(offset) = self.final_line {
            if matches!(metric, Metric::Final(_)) {
                return Ok(()); // It is there.
            }
            // The run continues.
            disk::set_len(&self.file, offset).with_context(|| cannot(&self.path))?;
            self.final_line = None;
        }
        // In one write, so that other programs read whole lines.
        append(&self.file, &self.path, &written(metric)?)
    }
}

impl Sink for Log {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        let wanted = match &metric {
            Metric::Step(step) => step.losses.is_some(),
            Metric::Samples(_) | Metric::Validating(_) => false,
            Metric::Epoch(_) | Metric::Final(_) => true,
        };
        if wanted {
            self.write(&metric).map_err(with_hint)?;
        }
        self.writer.accepted();
        Ok(())
    }
}

/// Removes what a killed run left of a log that it was rewriting.
fn remove_unfinished(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    whole_file::remove_unfinished(folder, |name| name == METRICS)
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.shown())
}

fn open_locked(path: &Path) -> Result<File> {
    let file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| cannot(path))?;
    lock(&file, path)?;
    Ok(file)
}

/// The lines of a log that are not after the checkpoint.
fn truncate_after(log: &[u8], checkpoint: &Metadata) -> Result<Vec<u8>> {
    let mut kept = Vec::with_capacity(log.len());
    for line in log.split(|byte| *byte == b'\n') {
        if Place::of(line)?.is_some_and(|line| is_before(&line, checkpoint)) {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

/// Where the last line begins, if it is that of a run's end.
fn offset_of_final(log: &[u8]) -> Result<Option<u64>> {
    let Some(body) = log.strip_suffix(b"\n") else {
        return Ok(None);
    };
    let begin = body.iter().rposition(|byte| *byte == b'\n');
    let begin = begin.map_or(0, |newline| newline + 1);
    let line = Place::of(&body[begin..])?;
    Ok(line
        .is_some_and(|line| line.kind == "final")
        .then_some(begin as u64))
}

fn is_before(line: &Place, checkpoint: &Metadata) -> bool {
    match line.kind.as_str() {
        // The validation of an epoch is logged before the checkpoint at its end.
        "epoch" => line.epoch < checkpoint.epoch,
        // Only if the checkpoint is that of the run's end; see `Log::final_line`.
        "final" => line.epoch + 1 == checkpoint.epoch && checkpoint.sample_in_epoch == 0,
        // By epoch first: with another batch size, the steps have other numbers.
        _ => (line.epoch, line.step) <= (checkpoint.epoch, checkpoint.step),
    }
}
