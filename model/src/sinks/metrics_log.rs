//! The node `MetricsLog`: the trainer's figures as lines of JSON.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rsflow_graph::{
    Build, Incoming, Input, Node, NodeKind, Payload, Port, Report, Schema, Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{append, claim, input, run_dir, with_way_out};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::train::metrics::Metric;
use rsflow_graph::whole_file;

/// The file in the run directory.
const FILE: &str = "metrics.jsonl";

/// Writes the figures of a training to `metrics.jsonl` in the run directory, one JSON object per
/// line. Its `kind` is "step" (the loss), "epoch" or "final" (the table of a validation). A figure
/// that is not finite is `null`.
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
        let path = run_dir(build)?.join(FILE);
        let log = Log::open(path, resumed).map_err(with_way_out)?;
        Ok(Stage::sink(log))
    }
}

impl NodeKind for MetricsLog {
    const NAME: &'static str = "MetricsLog";
    const SUMMARY: &'static str = "writes losses and accuracies to metrics.jsonl";
    const INPUTS: &'static [Port] = &[input(Metric::NAME)];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = "MetricsLog(input: \"trainer.metrics\")";
    const OUTPUT_FILE: &'static str = FILE;
}

struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn open(path: PathBuf, resumed: Option<&Metadata>) -> Result<Self> {
        let file = open_claimed(&path)?;
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
                let after = cut_back(&before, checkpoint);
                if after == before {
                    file
                } else {
                    whole_file::write(&path, |mut file| Ok(file.write_all(&after)?))
                        .with_context(|| cannot(&path))?;
                    open_claimed(&path)?
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
        // In one piece and at once: whoever reads along sees whole lines.
        append(&self.file, &self.path, &line)
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

fn open_claimed(path: &Path) -> Result<File> {
    let file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| cannot(path))?;
    claim(&file, path)?;
    Ok(file)
}

/// What of an earlier run's log still holds for one that goes on from the checkpoint.
fn cut_back(log: &[u8], checkpoint: &Metadata) -> Vec<u8> {
    log.split(|byte| *byte == b'\n')
        .filter(|line| still_holds(line, checkpoint))
        .flat_map(|line| [line, b"\n"])
        .flatten()
        .copied()
        .collect()
}

fn still_holds(line: &[u8], checkpoint: &Metadata) -> bool {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        epoch: u64,
        step: u64,
    }
    // What is no such object was cut off when a run was killed.
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return false;
    };
    match line.kind.as_str() {
        // The run goes on, so it was not the end.
        "final" => false,
        // The validation of the checkpoint's own epoch, if there was one, is done again.
        "epoch" => line.epoch < checkpoint.epoch,
        // By epoch first: with another batch size, steps were counted anew.
        _ => (line.epoch, line.step) <= (checkpoint.epoch, checkpoint.step),
    }
}
