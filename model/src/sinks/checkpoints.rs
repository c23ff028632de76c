//! The node `Checkpoints`: the trainer's checkpoints as files.
//!
//! Every file is complete at any time, also after a crash of the machine: it is written under a
//! temporary name and then renamed. An old file is removed only after the new one is in place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use rsflow_graph::{
    Build, Demand, Incoming, Input, Node, NodeKind, Payload, Port, Report, Schema, Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{input, lock, run_dir, with_hint};
use crate::checkpoint::{Checkpoint, write_atomically};
use crate::train::metrics::Checkpointed;
use rsflow_base::run_files::{ABANDONED, BEST, CHECKPOINTS, LAST, epochs_of, of_epoch};
use rsflow_base::whole_file::{self, partial};

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
        let mut writer = CheckpointWriter::open(folder, self.keep).map_err(with_hint)?;
        if let Some(resumed) = build.resume::<Checkpoint>()? {
            writer.rewind_to(resumed).map_err(with_hint)?;
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
    /// Whether the best checkpoint is later than the one that was resumed, so not of this run.
    best_is_abandoned: bool,
    /// Locked while it is open.
    _lock: File,
}

impl CheckpointWriter {
    fn open(folder: PathBuf, keep: usize) -> Result<Self> {
        let cannot = || format!("cannot write checkpoints to {}", folder.display());
        fs::create_dir_all(&folder).with_context(cannot)?;
        let locked = File::open(&folder).with_context(cannot)?;
        lock(&locked, &folder)?;
        // Left by a killed run. Removed before anything is written: one may be a hard link to a
        // good checkpoint, which writing to it would destroy.
        for name in names(&folder).with_context(cannot)? {
            if name.starts_with('.') && name.ends_with(".safetensors.partial") {
                let path = folder.join(name);
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
                tracing::info!("removed the unfinished {}", path.display());
            }
        }
        // Fails now if the folder is not writable, not after hours of training.
        let probe = partial(&folder.join("probe.safetensors"));
        File::create_new(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .with_context(cannot)?;
        Ok(Self {
            folder,
            keep,
            best_is_abandoned: false,
            _lock: locked,
        })
    }

    /// Makes the resumed checkpoint the last one, which a further resume would take. Checkpoints
    /// later than it belong to the abandoned run: its last one is kept under another name, since
    /// there may be no other copy, and its best one does not count.
    fn rewind_to(&mut self, resumed: &Checkpoint) -> Result<()> {
        let position = |checkpoint: &Checkpoint| {
            let metadata = checkpoint.metadata();
            (metadata.epoch, metadata.step)
        };
        let is_later = |name| {
            let other = Checkpoint::open(&self.folder.join(name));
            other.is_ok_and(|other| position(&other) > position(resumed))
        };
        self.best_is_abandoned = is_later(BEST);
        if is_later(LAST) {
            let last = self.folder.join(LAST);
            link_or_copy(&last, &self.folder.join(ABANDONED))?;
            // Canonical: a hard link to a relative symbolic link may dangle in another folder.
            let resumed = fs::canonicalize(resumed.path());
            let resumed = resumed.context("cannot find the checkpoint to resume from")?;
            link_or_copy(&resumed, &last)?;
            self.sync()?;
            tracing::info!(
                "renamed {LAST}, which is later than the resumed checkpoint, to {ABANDONED}"
            );
        }
        Ok(())
    }

    fn write(&mut self, item: &Checkpointed) -> Result<()> {
        let start = Instant::now();
        let name = item.end_of_epoch.map_or_else(|| LAST.to_owned(), of_epoch);
        let path = self.folder.join(&name);
        write_atomically(&item.snapshot, &path)?;
        let ends_epoch = item.end_of_epoch.is_some();
        // The best checkpoint may be in the run directory of the resumed run.
        let has_best = !self.best_is_abandoned && self.folder.join(BEST).exists();
        let best = item.best || ends_epoch && !has_best;
        let others: Vec<&str> = [(LAST, ends_epoch), (BEST, best)]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
            .collect();
        for name in &others {
            let of = match *name {
                BEST if !item.best => self.best_so_far(item).unwrap_or_else(|| path.clone()),
                _ => path.clone(),
            };
            link_or_copy(&of, &self.folder.join(name))?;
        }
        if !others.is_empty() {
            self.sync()?;
        }
        self.best_is_abandoned &= !best;
        tracing::info!(
            step = item.snapshot.metadata().step,
            also = others.join(", "),
            seconds = start.elapsed().as_secs_f64(),
            "wrote the checkpoint {}",
            path.display(),
        );
        item.end_of_epoch
            .map_or(Ok(()), |newest| self.prune(newest))
    }

    /// Makes the names in the folder survive a power failure.
    fn sync(&self) -> Result<()> {
        whole_file::sync_folder_of(&self.folder.join(LAST))
            .with_context(|| format!("cannot write the folder {}", self.folder.display()))
    }

    /// The checkpoint of the epoch that was the best so far, if it is still there.
    fn best_so_far(&self, item: &Checkpointed) -> Option<PathBuf> {
        let best = item.snapshot.metadata().best?;
        let path = self.folder.join(of_epoch(best.epoch + 1));
        path.exists().then_some(path)
    }

    /// Removes the checkpoints of epochs up to `newest` except the newest `keep`. Later ones belong
    /// to an abandoned run; this run will replace them when it gets there.
    fn prune(&self, newest: u64) -> Result<()> {
        let names = names(&self.folder)
            .with_context(|| format!("cannot read the folder {}", self.folder.display()))?;
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| epochs_of(name)).collect();
        epochs.retain(|epoch| *epoch <= newest);
        epochs.sort_unstable();
        for epoch in epochs.into_iter().rev().skip(self.keep) {
            let path = self.folder.join(of_epoch(epoch));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("cannot remove the old checkpoint {}", path.display())
                    });
                }
                _ => tracing::info!("removed the old checkpoint {}", path.display()),
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

fn names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Hard-links (or copies) the file `from` to `to`, replacing it atomically if it exists.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    whole_file::link_or_copy(from, to)
        .with_context(|| format!("cannot write the checkpoint {}", to.display()))
}
