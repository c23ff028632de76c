//! The node `Checkpoints`: the trainer's checkpoints as files.
//!
//! Every file is complete at any time, also after a crash of the machine: it is written under a
//! temporary name and then renamed. What may be ahead of what, and what a resume repairs, is written
//! down in [`run_files`](rsflow_base::run_files).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use rsflow_base::run_files::{ABANDONED, BEST, CHECKPOINTS, LAST, epochs_of, of_epoch};
use rsflow_base::shown::Shown as _;
use rsflow_base::{disk, whole_file};
use rsflow_graph::{
    Build, Demand, Incoming, Input, Journal, Node, NodeKind, Payload, Port, Report, Schema, Sink,
    Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{input, lock, run_dir, with_hint};
use crate::checkpoint::{Checkpoint, write_atomically};
use crate::train::metrics::Checkpointed;

/// Writes checkpoints to the folder `checkpoints` of the run directory: `last.safetensors`,
/// `best.safetensors` and, after every epoch, `epoch-NNN.safetensors`. A resume from an earlier
/// checkpoint keeps the last one as `abandoned.safetensors`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// The checkpoints of a trainer.
    input: Input,
    /// Steps between two checkpoints, in addition to those at the end of every epoch. By default
    /// there are only those. Training does not wait for the disk: a checkpoint that is due while
    /// another is being written is taken after it.
    #[serde(default)]
    every_steps: Option<u64>,
    /// How many files `epoch-NNN.safetensors` are kept, the newest ones; at least 1.
    /// `last.safetensors` and `best.safetensors` are always kept.
    #[serde(default = "default_keep")]
    keep: usize,
}

fn default_keep() -> usize {
    3
}

impl Node for Checkpoints {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        if self.every_steps == Some(0) {
            report.parameter(
                "every_steps",
                "`every_steps` must be at least 1",
                "leave it out for checkpoints at the ends of epochs only",
            );
        }
        if self.keep == 0 {
            report.parameter(
                "keep",
                "`keep` must be at least 1",
                "the checkpoint of the newest epoch is always kept",
            );
        }
        vec![]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let folder = run_dir(build)?.join(CHECKPOINTS);
        let journal = build.run.journal.clone();
        let writer = CheckpointWriter::open(folder, self.keep, journal).map_err(with_hint)?;
        if let Some(resumed) = build.resume::<Checkpoint>()? {
            writer.resume(resumed).map_err(with_hint)?;
        }
        Ok(Stage::sink(writer))
    }

    fn demand(&self) -> Demand {
        Demand {
            every_steps: self.every_steps,
        }
    }
}

impl NodeKind for Checkpoints {
    const NAME: &'static str = "Checkpoints";
    const SUMMARY: &'static str = "writes checkpoints: the last, the best and those of epochs";
    const INPUTS: &'static [Port] = &[input(Checkpointed::NAME)];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str =
        "Checkpoints(input: \"trainer.checkpoints\", every_steps: 1000, keep: 3)";
    const OUTPUT_FILE: &'static str = CHECKPOINTS;
}

struct CheckpointWriter {
    folder: PathBuf,
    keep: usize,
    journal: Journal,
    /// Locked while it is open.
    _lock: File,
}

impl CheckpointWriter {
    fn open(folder: PathBuf, keep: usize, journal: Journal) -> Result<Self> {
        let cannot = || format!("cannot write checkpoints to {}", folder.shown());
        fs::create_dir_all(&folder).with_context(cannot)?;
        let locked = File::open(&folder).with_context(cannot)?;
        lock(&locked, &folder)?;
        whole_file::remove_unfinished(&folder, is_ours).with_context(cannot)?;
        // Fails now if the folder is not writable, not after hours of training.
        whole_file::check_writable(&folder).with_context(cannot)?;
        Ok(Self {
            folder,
            keep,
            journal,
            _lock: locked,
        })
    }

    /// Completes what a run that was ended left to do, so that the folder is as
    /// [`rsflow_base::run_files`] promises: the resumed checkpoint is the last one, which a further
    /// resume would take, the best one is that which it names, and old ones are gone.
    ///
    /// Checkpoints later than it belong to the abandoned run: its last one is kept under another name,
    /// since there may be no other copy.
    fn resume(&self, resumed: &Checkpoint) -> Result<()> {
        let last = self.folder.join(LAST);
        // Canonical: a hard link to a relative symbolic link may dangle in another folder.
        let source = fs::canonicalize(resumed.path());
        let source = source.context("cannot find the checkpoint to resume from")?;
        let here = fs::canonicalize(&self.folder).is_ok_and(|here| source.parent() == Some(&here));
        let replaced = match Checkpoint::open(&last) {
            Ok(other) => place(&other) > place(resumed),
            Err(_) => last.exists() || here,
        };
        if replaced {
            if last.exists() {
                link_or_copy(&last, &self.folder.join(ABANDONED))?;
                tracing::info!(
                    "renamed {LAST}, which is later than the resumed checkpoint or damaged, to {ABANDONED}"
                );
            }
            link_or_copy(&source, &last)?;
        }
        self.restore_best(resumed)?;
        self.sync()?;
        self.prune(resumed.metadata().epoch)
    }

    /// Makes the file of the best checkpoint the one that `resumed` names as its run's best. Where that
    /// is not there, the trainer starts without a best one.
    fn restore_best(&self, resumed: &Checkpoint) -> Result<()> {
        let to = self.folder.join(BEST);
        match resumed.find_best(&self.folder) {
            Some(from) if from != to => {
                let from = fs::canonicalize(from).context("cannot find the best checkpoint")?;
                link_or_copy(&from, &to)
            }
            _ => Ok(()),
        }
    }

    fn write(&self, item: &Checkpointed) -> Result<()> {
        let start = Instant::now();
        if !self.journal.wait_for(item.metrics)? {
            tracing::warn!(
                step = item.snapshot.metadata().step,
                "a checkpoint is not written: the log is no longer written, so it lacks lines from before it"
            );
            return Ok(());
        }
        let name = item.end_of_epoch.map_or_else(|| LAST.to_owned(), of_epoch);
        let path = self.folder.join(&name);
        write_atomically(&item.snapshot, &path)?;
        tracing::info!(
            step = item.snapshot.metadata().step,
            best = item.best,
            seconds = start.elapsed().as_secs_f64(),
            "wrote the checkpoint {}",
            path.shown(),
        );
        let Some(epochs) = item.end_of_epoch else {
            return Ok(());
        };
        // In this order: while the best file is not the one that the last checkpoint names, that one is
        // still there under the name of its epoch.
        link_or_copy(&path, &self.folder.join(LAST))?;
        if item.best {
            link_or_copy(&path, &self.folder.join(BEST))?;
        }
        self.sync()?;
        self.prune(epochs)
    }

    /// Makes the names in the folder survive a power failure.
    fn sync(&self) -> Result<()> {
        disk::sync_folder_of(&self.folder.join(LAST))
            .with_context(|| format!("cannot write the folder {}", self.folder.shown()))
    }

    /// Removes the checkpoints of epochs up to `newest` except the newest `keep`. Later ones belong
    /// to an abandoned run; this run will replace them when it gets there.
    fn prune(&self, newest: u64) -> Result<()> {
        let names = names(&self.folder)
            .with_context(|| format!("cannot read the folder {}", self.folder.shown()))?;
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| epochs_of(name)).collect();
        epochs.retain(|epoch| *epoch <= newest);
        epochs.sort_unstable();
        for epoch in epochs.into_iter().rev().skip(self.keep) {
            let path = self.folder.join(of_epoch(epoch));
            match disk::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("cannot remove the old checkpoint {}", path.shown())
                    });
                }
                _ => tracing::info!("removed the old checkpoint {}", path.shown()),
            }
        }
        Ok(())
    }
}

impl Sink for CheckpointWriter {
    type In = Checkpointed;

    fn accept(&mut self, item: Checkpointed) -> Result<()> {
        self.write(&item).map_err(with_hint)
    }

    /// Each queued checkpoint is a copy of the whole network in memory.
    fn queue(&self) -> usize {
        1
    }
}

/// Where in its run a checkpoint was taken; a later one is greater.
fn place(checkpoint: &Checkpoint) -> (u64, u64) {
    let metadata = checkpoint.metadata();
    (metadata.epoch, metadata.step)
}

fn is_ours(name: &str) -> bool {
    matches!(name, LAST | BEST | ABANDONED) || epochs_of(name).is_some()
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Hard-links (or copies) the file `from` to `to`, replacing it atomically if it exists.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    whole_file::link_or_copy(from, to)
        .with_context(|| format!("cannot write the checkpoint {}", to.shown()))
}
