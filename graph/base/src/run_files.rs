//! The names of what a run directory holds. All are formats: scripts and later runs look for them.
//!
//! | name | what it is | who writes it |
//! |---|---|---|
//! | `recipe.ron` | the recipe as it ran, overrides applied | `rsflow run` |
//! | `run.log` | the program's log | `rsflow run` |
//! | `skipped.jsonl` | an object for each image that was skipped | `rsflow run` |
//! | `now.json` | what the run is doing, replaced every two seconds | `rsflow run` |
//! | `metrics.jsonl` | losses and accuracies | `MetricsLog` |
//! | `metrics.csv` | a row for each epoch | `MetricsCsv` |
//! | `tensorboard/` | the same for TensorBoard | `TensorBoard` |
//! | `checkpoints/` | `last`, `best`, `abandoned`, `epoch-NNN` `.safetensors` | `Checkpoints` |
//!
//! # What agrees at any time
//! A run may be killed between any two system calls, and the machine may lose its power. The files are
//! written in an order by which a resume can always repair what was left undone:
//!
//! 1. The logs (`metrics.jsonl`, events) up to step N, validation and final line included, are on the
//!    disk before the checkpoint of step N has a name. So a log may be ahead of `last`, never behind: a
//!    resume cuts `metrics.jsonl` and `metrics.csv` back to its checkpoint.
//! 2. A checkpoint is written under a temporary name, forced to the disk, and renamed: to `last` within
//!    an epoch, to `epoch-NNN` at the end of one. `epoch-NNN` may be ahead of `last`; the resumed run
//!    writes it again.
//! 3. `last` becomes `epoch-NNN`, then `best` if it is the best. `best` may be behind what `last` names
//!    as the best; then `epoch-NNN` is still there, and a resume makes it `best`.
//! 4. Old `epoch-NNN` are removed when all this is on the disk. A resume removes those that are left.
//!
//! So a resume from `last` gives the files of a run that was never ended; that of a finished run
//! completes 3 and 4. Files of these names with a `.partial` ending are what a killed run left; the next
//! one removes them.

use std::path::{Path, PathBuf};

/// The recipe as it ran.
pub const RECIPE: &str = "recipe.ron";
/// The program's log.
pub const LOG: &str = "run.log";
/// Images that were skipped.
pub const SKIPPED: &str = "skipped.jsonl";
/// What the run is doing, for `rsflow top`. Not forced to the disk: after a power failure it may be damaged.
pub const NOW: &str = "now.json";
/// Losses and accuracies.
pub const METRICS: &str = "metrics.jsonl";
/// A row for each epoch.
pub const METRICS_CSV: &str = "metrics.csv";
/// The folder of TensorBoard's events.
pub const TENSORBOARD: &str = "tensorboard";
/// TensorBoard reads files with this prefix.
pub const EVENTS: &str = "events.out.tfevents.";
/// The folder of the checkpoints, whose names follow.
pub const CHECKPOINTS: &str = "checkpoints";
/// The newest checkpoint, from which `--resume` resumes.
pub const LAST: &str = "last.safetensors";
/// The best checkpoint of an epoch.
pub const BEST: &str = "best.safetensors";
/// What was the last checkpoint before a resume from an earlier one.
pub const ABANDONED: &str = "abandoned.safetensors";

/// The checkpoint that was taken after so many epochs.
pub fn of_epoch(epochs: u64) -> String {
    format!("epoch-{epochs:03}.safetensors")
}

/// The epochs of a file that has exactly the name that [`of_epoch`] gives.
pub fn epochs_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("epoch-")?.strip_suffix(".safetensors")?;
    let epochs = number.parse().ok()?;
    (of_epoch(epochs) == name).then_some(epochs)
}

/// The newest checkpoint of a run.
pub fn last_checkpoint(run_dir: &Path) -> PathBuf {
    run_dir.join(CHECKPOINTS).join(LAST)
}

/// The best checkpoint of a run directory, or of its folder of checkpoints; else the last. `None` where there is
/// neither.
pub fn best_checkpoint(folder: &Path) -> Option<PathBuf> {
    let folders = [folder.join(CHECKPOINTS), folder.to_owned()];
    let mut candidates = folders
        .iter()
        .flat_map(|folder| [BEST, LAST].map(|name| folder.join(name)));
    candidates.find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_epochs() {
        let table = [
            ("epoch-007.safetensors", Some(7)),
            ("epoch-1000.safetensors", Some(1000)),
            ("epoch-7.safetensors", None),
            ("epoch-+07.safetensors", None),
            ("epoch-007.safetensors.bak", None),
            (LAST, None),
        ];
        for (name, epoch) in table {
            assert_eq!(epochs_of(name), epoch, "{name}");
        }
    }
}
