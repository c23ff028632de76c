//! The learning rate of a run's next step.

use super::Session;
use crate::checkpoint::Metadata;
use crate::train::schedule::{LearningRates, TrainingLength};

impl Session {
    pub(super) fn learning_rate(&self) -> f64 {
        let length = TrainingLength {
            epochs: self.settings.epochs,
            warm_up_steps: self.warm_up_steps(),
            cool_down_epochs: self.settings.cool_down_epochs,
            steps_per_epoch: self.lengths.steps_per_epoch,
        };
        let rates = LearningRates {
            lr: self.settings.optimizer.lr(),
            min: self.settings.min_lr,
            warm_up: self.settings.warm_up_lr,
        };
        let schedule = &self.settings.schedule;
        schedule.learning_rate(rates, self.at.step, length)
    }

    fn warm_up_steps(&self) -> u64 {
        let epochs = self.settings.warm_up_epochs;
        match self.settings.warm_up_steps {
            0 => epochs.saturating_mul(self.lengths.steps_per_epoch),
            steps => steps,
        }
    }

    /// Of a run that is resumed with another recipe: where the learning rate rises at once, as after the end of a
    /// cosine that is made longer.
    pub(super) fn warn_of_learning_rate(&self, before: &Metadata) {
        let now = self.learning_rate();
        if let Some(last) = before.learning_rate
            && before.recipe != self.at.recipe
            && self.at.step > self.warm_up_steps()
            && now > 1.5 * last
        {
            tracing::warn!(
                "the learning rate rises from {last:.2e} to {now:.2e} with this recipe: its schedule is another one, \
                 and what was learned at small rates may be lost; a smaller `lr` continues more gently"
            );
        }
    }
}
