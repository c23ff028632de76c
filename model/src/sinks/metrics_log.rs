//! The node `MetricsLog`: metrics as JSON lines.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rsflow_graph::{
    Build, Incoming, Input, Node, NodeKind, Payload, Port, Report, Schema, Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{append, input, lock, run_dir, with_hint};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::train::metrics::Metric;
use rsflow_base::run_files::METRICS;
use rsflow_base::whole_file;

/// Writes the metrics of a run to `metrics.jsonl` in the run directory, one JSON object per
/// line. Its `kind` is "step" (the loss), "epoch" or "final" (the results of a validation). A
/// number that is not finite is `null`.
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
        let log = Log::open(path, resumed).map_err(with_hint)?;
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
}

impl Log {
    fn open(path: PathBuf, resumed: Option<&Metadata>) -> Result<Self> {
        let file = open_locked(&path)?;
        let file = match resumed {
            None => {
                file.set_len(0)
                    .or_else(|error| match error.kind() {
                        // A pipe or a device has no length.
                        ErrorKind::InvalidInput => Ok(()),
                        _ => Err(error),
                    })
                    .with_context(|| cannot(&path))?;
                file
            }
            Some(checkpoint) => {
                let before = fs::read(&path).with_context(|| cannot(&path))?;
                let after = truncate_after(&before, checkpoint);
                if after == before {
                    file
                } else {
                    whole_file::write(&path, |mut file| Ok(file.write_all(&after)?))
                        .with_context(|| cannot(&path))?;
                    open_locked(&path)?
                }
            }
        };
        Ok(Self { path, file })
    }
}

impl Sink for Log {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        let wanted = match &metric {
            Metric::Step(step) => step.losses.is_some(),
            Metric::Validating(_) => false,
            Metric::Epoch(_) | Metric::Final(_) => true,
        };
        if !wanted {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&metric).context("cannot write a metric as JSON")?;
        line.push(b'\n');
        // In one write, so that other programs read whole lines.
        append(&self.file, &self.path, &line)
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
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
fn truncate_after(log: &[u8], checkpoint: &Metadata) -> Vec<u8> {
    log.split(|byte| *byte == b'\n')
        .filter(|line| is_before(line, checkpoint))
        .flat_map(|line| [line, b"\n"])
        .flatten()
        .copied()
        .collect()
}

fn is_before(line: &[u8], checkpoint: &Metadata) -> bool {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        epoch: u64,
        step: u64,
    }
    // A line that is not such an object was truncated when a run was killed.
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return false;
    };
    match line.kind.as_str() {
        // The run continues.
        "final" => false,
        // The validation of the checkpoint's own epoch is repeated.
        "epoch" => line.epoch < checkpoint.epoch,
        // By epoch first: with another batch size, the steps have other numbers.
        _ => (line.epoch, line.step) <= (checkpoint.epoch, checkpoint.step),
    }
}
