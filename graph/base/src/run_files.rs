//! The names of what a run directory holds. All are formats: scripts and later runs look for them.
//!
//! | name | what it is | who writes it |
//! |---|---|---|
//! | `recipe.ron` | the recipe as it ran, overrides applied | `rsflow run` |
//! | `run.log` | the program's log | `rsflow run` |
//! | `skipped.jsonl` | an object for each image that was skipped | `rsflow run` |
//! | `metrics.jsonl` | losses and accuracies | `MetricsLog` |
//! | `tensorboard/` | the same for TensorBoard | `TensorBoard` |
//! | `checkpoints/` | `last`, `best`, `abandoned`, `epoch-NNN` `.safetensors` | `Checkpoints` |

use std::path::{Path, PathBuf};

/// The recipe as it ran.
pub const RECIPE: &str = "recipe.ron";
/// The program's log.
pub const LOG: &str = "run.log";
/// Images that were skipped.
pub const SKIPPED: &str = "skipped.jsonl";
/// Losses and accuracies.
pub const METRICS: &str = "metrics.jsonl";
/// The folder of TensorBoard's events.
pub const TENSORBOARD: &str = "tensorboard";
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
