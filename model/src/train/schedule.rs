//! The learning rate schedule.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::field_error::FieldError;

/// The learning rate schedule, evaluated before every step, not once per epoch. During the warm-up,
/// if there is one, the learning rate rises linearly to `lr`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// Half a cosine from `lr` down to `min_lr` over the steps after the warm-up:
    /// min_lr + (lr - min_lr) * (1 + cos(pi * step/steps)) / 2.
    #[default]
    Cosine,
    /// A straight line from `lr` down to `min_lr` over the steps after the warm-up:
    /// min_lr + (lr - min_lr) * (1 - step/steps).
    Linear,
    /// Multiplied by `gamma` every `every` epochs.
    Step(Step),
    /// Multiplied by `gamma` after each of the epochs listed.
    Milestones(Milestones),
}

/// lr * gamma^floor(epoch / every). Epochs are counted from 0, those of the warm-up included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Epochs between two decays, at least 1.
    pub every: u64,
    /// The factor, above 0 and at most 1.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

/// lr * gamma^(the number of milestones up to the current epoch). Epochs are counted from 0, those
/// of the warm-up included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Milestones {
    /// The epochs at which the learning rate decays, in rising order, each at least 1; at least one
    /// of them. Those beyond the end of the run have no effect.
    pub epochs: Vec<u64>,
    /// The factor, above 0 and at most 1.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

fn default_gamma() -> f64 {
    0.1
}

/// The length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingLength {
    /// Epochs of the run, those of the warm-up and the cool-down included.
    pub epochs: u64,
    /// Steps of the warm-up; 0: none.
    pub warm_up_steps: u64,
    /// Epochs at the end, at the schedule's last learning rate; 0: none.
    pub cool_down_epochs: u64,
    pub steps_per_epoch: u64,
}

/// The learning rates that a schedule joins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRates {
    /// After the warm-up.
    pub lr: f64,
    /// At the end of `Cosine` and `Linear`.
    pub min: f64,
    /// At the beginning of the warm-up.
    pub warm_up: f64,
}

impl From<f64> for LearningRates {
    fn from(lr: f64) -> Self {
        LearningRates {
            lr,
            min: 0.0,
            warm_up: 0.0,
        }
    }
}

impl Schedule {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let gamma = match self {
            Schedule::Cosine | Schedule::Linear => return errors,
            Schedule::Step(step) => {
                if step.every == 0 {
                    errors.push(("every", "`every` must be at least 1".to_owned()));
                }
                step.gamma
            }
            Schedule::Milestones(milestones) => {
                let epochs = &milestones.epochs;
                if epochs.is_empty() {
                    errors.push(("epochs", "`epochs` must not be empty".to_owned()));
                }
                if epochs.first() == Some(&0) {
                    errors.push(("epochs", "a milestone must be at least 1".to_owned()));
                }
                if let Some(pair) = epochs.windows(2).find(|pair| pair[0] >= pair[1]) {
                    errors.push((
                        "epochs",
                        format!(
                            "milestones must be in rising order, but {} follows {}",
                            pair[1], pair[0]
                        ),
                    ));
                }
                milestones.gamma
            }
        };
        if !(gamma > 0.0 && gamma <= 1.0) {
            errors.push((
                "gamma",
                format!("`gamma` must be above 0 and at most 1, not {gamma}"),
            ));
        }
        errors
    }

    /// Whether it ends at a learning rate of its own, `min_lr`.
    pub fn has_end(&self) -> bool {
        matches!(self, Schedule::Cosine | Schedule::Linear)
    }

    /// The learning rate of step `step`, counted from 0 over the whole run.
    pub fn learning_rate(
        &self,
        rates: impl Into<LearningRates>,
        step: u64,
        length: TrainingLength,
    ) -> f64 {
        let LearningRates { lr, min, warm_up } = rates.into();
        let epochs = length.epochs.saturating_sub(length.cool_down_epochs);
        let steps = epochs.saturating_mul(length.steps_per_epoch);
        let (from, warm_up) = (warm_up, length.warm_up_steps);
        if step < warm_up {
            return from + (lr - from) * step as f64 / warm_up as f64;
        }
        // The fraction of the steps after the warm-up; 1 from the end of the run on.
        let span = steps.saturating_sub(warm_up).max(1);
        let done = (step - warm_up).min(span) as f64 / span as f64;
        let epoch = (step / length.steps_per_epoch.max(1)).min(epochs.saturating_sub(1));
        match self {
            Schedule::Cosine => min + (lr - min) * (1.0 + (PI * done).cos()) / 2.0,
            Schedule::Linear => min + (lr - min) * (1.0 - done),
            Schedule::Step(by) => lr * by.gamma.powf((epoch / by.every.max(1)) as f64),
            Schedule::Milestones(by) => {
                let passed = by.epochs.iter().filter(|&&milestone| milestone <= epoch);
                lr * by.gamma.powf(passed.count() as f64)
            }
        }
    }
}
