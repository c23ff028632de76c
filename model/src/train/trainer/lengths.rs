//! What is checked of the parts of a run: warm-up, schedule, cool-down; sizes, batches and their parts.

use anyhow::{Result, ensure};
use rsflow_graph::{Contents, Incoming, Report, counted};

use super::Trainer;
use crate::checkpoint::BestBy;
use crate::nn::switchable::check_resolutions;

/// Statistics of fewer values per channel are little more than noise.
const FEW_VALUES: u64 = 16;

impl Trainer {
    /// The errors in what extends the schedule: field, error, help. `name` is the node's.
    pub(super) fn check_lengths(&self, name: &str) -> Vec<(&'static str, String, String)> {
        let mut errors = Vec::new();
        // A wrong one has its own error, and nothing is compared with it.
        let lr = Some(self.optimizer.lr()).filter(|lr| lr.is_finite() && *lr > 0.0);
        let (warm_up, cool_down) = (self.warm_up_epochs, self.cool_down_epochs);
        if warm_up > 0 && warm_up >= self.epochs {
            errors.push((
                "warm_up_epochs",
                format!(
                    "`warm_up_epochs` must be less than `epochs`, {}",
                    self.epochs
                ),
                format!(
                    "train for more `epochs`, or without a warm-up: `--set {name}.warm_up_epochs=0`"
                ),
            ));
        } else if cool_down > 0 && warm_up.saturating_add(cool_down) >= self.epochs {
            errors.push((
                "cool_down_epochs",
                format!(
                    "`cool_down_epochs` must leave some of the {} `epochs` for the schedule",
                    self.epochs
                ),
                format!(
                    "train for more `epochs`, or without a cool-down: `--set {name}.cool_down_epochs=0`"
                ),
            ));
        }
        if warm_up > 0 && self.warm_up_steps > 0 {
            errors.push((
                "warm_up_steps",
                "both `warm_up_epochs` and `warm_up_steps` are given".to_owned(),
                "leave one of them out".to_owned(),
            ));
        }
        let warms_up = warm_up > 0 || self.warm_up_steps > 0;
        if !(self.warm_up_lr.is_finite() && self.warm_up_lr >= 0.0) {
            errors.push((
                "warm_up_lr",
                format!("`warm_up_lr` must be at least 0, not {}", self.warm_up_lr),
                "such as `warm_up_lr: 1e-4`".to_owned(),
            ));
        } else if self.warm_up_lr > 0.0 && !warms_up {
            errors.push((
                "warm_up_lr",
                "`warm_up_lr` needs a warm-up".to_owned(),
                "such as `warm_up_epochs: 5`".to_owned(),
            ));
        } else if lr.is_some_and(|lr| self.warm_up_lr > lr) {
            errors.push((
                "warm_up_lr",
                "a warm-up rises to the optimizer's `lr`, and `warm_up_lr` is above it".to_owned(),
                "such as `warm_up_lr: 1e-4`".to_owned(),
            ));
        }
        let is_above = |lr: f64| self.min_lr > 0.0 && self.min_lr >= lr;
        if self.min_lr.is_nan() || self.min_lr < 0.0 || lr.is_some_and(is_above) {
            errors.push((
                "min_lr",
                format!(
                    "`min_lr` must be at least 0 and below the optimizer's `lr`, not {}",
                    self.min_lr
                ),
                "such as `min_lr: 1e-6`".to_owned(),
            ));
        } else if self.min_lr > 0.0 && !self.schedule.has_end() {
            errors.push((
                "min_lr",
                "only `Cosine` and `Linear` end at a `min_lr`".to_owned(),
                "leave it out".to_owned(),
            ));
        }
        errors
    }

    /// Reports sizes of the training images that the network cannot have, at the node that makes them.
    pub(super) fn check_sizes(&self, train: &Incoming, report: &mut Report) {
        let sizes = &train.schema.resolutions;
        let network = ("network", "the network that trains at them");
        let first = train.schema.growth.map(|growth| growth.sizes(sizes, 0));
        if let (Some(first), Ok(least)) = (&first, self.network.min_resolution())
            && let Some(small) = first.iter().find(|&&size| size < least)
        {
            report.upstream(
                ("train", "growth"),
                network,
                format!(
                    "in the first epoch a size is {small}: the minimum of this network is {least}"
                ),
                format!(
                    "give `growth` of the sizes that lead to `{}` a larger `from`",
                    train.node
                ),
            );
        }
        for problem in check_resolutions(&self.network, sizes).unwrap_or_default() {
            let help = format!("change the sizes that lead to `{}`", train.node);
            match sizes.is_empty() {
                // What makes none says so itself, or is unknown.
                true => report.parameter("train", problem, help),
                false => report.upstream(("train", "sizes"), network, problem, help),
            }
        }
    }

    /// The errors in what ends a run before its last epoch, and in what is the best.
    pub(super) fn check_ends(
        &self,
        inputs: &[Incoming],
    ) -> Vec<(&'static str, String, &'static str)> {
        let mut errors = Vec::new();
        if self.patience == Some(0) {
            let error = "`patience` must be at least 1".to_owned();
            errors.push(("patience", error, "such as `patience: 20`"));
        }
        if let Some(hours) = self.max_hours
            && !(hours > 0.0 && hours.is_finite())
        {
            let error = format!("`max_hours` must be above 0, not {hours}");
            errors.push(("max_hours", error, "such as `max_hours: 7.5`"));
        }
        if let (BestBy::Size(size), Some(train)) = (self.best, inputs.first())
            && !train.schema.resolutions.contains(&size)
        {
            let sizes = &train.schema.resolutions;
            let error = format!("the network has no resolution {size}, but {sizes:?}");
            errors.push(("best", error, "name one of them, or `Mean`"));
        }
        errors
    }

    /// The same with the data, once it is open.
    ///
    /// # Errors
    /// A warm-up as long as the run; a single image that batch norm would have to train on.
    pub(super) fn check_lengths_of(&self, train: &Contents, resolutions: &[u32]) -> Result<()> {
        let epochs = self.epochs.saturating_sub(self.cool_down_epochs);
        let steps = epochs.saturating_mul(train.items_per_epoch);
        ensure!(
            self.warm_up_steps == 0 || self.warm_up_steps < steps,
            "`warm_up_steps: {}` leaves nothing of the {steps} steps before the cool-down; make it shorter, or train \
             for more `epochs`",
            self.warm_up_steps
        );
        let every = self.average.map_or(1, |average| average.every_steps());
        let steps = self.epochs.saturating_mul(train.items_per_epoch);
        ensure!(
            every <= steps,
            "`every_steps: {every}` of `average` is more than the {steps} steps of the run, after which it would still \
             be what the network started with; give a smaller number"
        );
        let at_once = self.micro_batch.map_or(train.group, u64::from);
        let smallest = resolutions.iter().min().copied().unwrap_or(0);
        let values = self.network.least_values(smallest)?;
        ensure!(
            train.last_group % at_once != 1 % at_once || values > 1,
            "{} is a single image, of which {smallest} pixels leave one value per channel: batch norm cannot train \
             on it; use another batch size or `drop_last: true`",
            match self.micro_batch {
                None => "the last batch of an epoch",
                Some(_) => "what `micro_batch` leaves of an epoch's last batch",
            }
        );
        let last = match train.last_group % at_once {
            0 => at_once,
            rest => rest,
        };
        if last < at_once && last * values < FEW_VALUES {
            let what = match self.micro_batch {
                None => "the last batch of an epoch",
                Some(_) => "what `micro_batch` leaves of an epoch's last batch",
            };
            tracing::warn!(
                "{what} has {}, not {at_once}: at {smallest} pixels batch norms learn from {} values per channel there, \
                 just before a validation; `drop_last: true` of the training batches leaves it out",
                counted(last as usize, "image"),
                last * values
            );
        }
        Ok(())
    }
}
