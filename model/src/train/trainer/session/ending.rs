//! Runs that end before their last epoch: nothing gets better, or their time is over.

use anyhow::Result;
use rsflow_graph::{PROGRESS, counted};

use super::{Outputs, Session};
use crate::train::metrics::Metric;

impl Session {
    /// Seconds that the run has trained for, those before it was resumed included; `None`: they are not limited.
    pub(super) fn seconds(&self) -> Option<f64> {
        if self.settings.max_hours.is_none() && self.at.trained_seconds.is_none() {
            return None;
        }
        Some(self.seconds_before + self.began.elapsed().as_secs_f64())
    }

    /// Whether the time of the run is over. All processes agree.
    pub(super) fn is_out_of_time(&self) -> Result<bool> {
        match (self.settings.max_hours, self.seconds()) {
            (Some(hours), Some(seconds)) => self.stops(seconds >= hours * 3600.0),
            _ => Ok(false),
        }
    }

    /// Whether too many epochs have passed since the best one.
    fn is_out_of_patience(&self) -> bool {
        let (patience, by) = (self.settings.patience, self.settings.best);
        let best = self.at.best.filter(|best| best.by == by);
        let since = best.map(|best| self.at.epoch.saturating_sub(best.epoch + 1));
        patience
            .zip(since)
            .is_some_and(|(patience, since)| since >= patience)
    }

    /// After a validation: why no further epoch is trained. `None`: one is.
    pub(super) fn reason_to_end(&self, out_of_time: bool) -> Option<String> {
        let by = self.settings.best;
        match (self.settings.patience, self.settings.max_hours) {
            (Some(patience), _) if self.is_out_of_patience() => Some(format!(
                "nothing was better for {} (`patience`; `best: {by:?}`)",
                counted(usize::try_from(patience).unwrap_or(usize::MAX), "epoch")
            )),
            (_, Some(hours)) if out_of_time => {
                Some(format!("{hours} hours are over (`max_hours`)"))
            }
            _ => None,
        }
    }

    /// Whether the run was resumed after its end. Then it gives its results again.
    pub(super) fn ended_before(&mut self, outputs: &mut Outputs) -> Result<bool> {
        let is_over = self.at.epoch >= self.settings.epochs;
        // It ended with a validation.
        let validated = self.at.validation.as_ref();
        let whole = self.at.sample_in_epoch == 0
            && validated.is_some_and(|validated| validated.epoch + 1 == self.at.epoch);
        let out_of_time = self.is_out_of_time()?;
        let reason = self.reason_to_end(out_of_time).filter(|_| whole);
        if let Some(reason) = reason.filter(|_| !is_over) {
            tracing::info!(
                target: PROGRESS,
                "{reason}: nothing is left to train; to train longer, change that field with `--set` and give \
                 `--accept-changes`"
            );
        } else if !is_over {
            return Ok(false);
        }
        if self.at.validation.is_some() {
            outputs.metric(Metric::Final(self.last_table(0.0)));
        }
        Ok(true)
    }
}
