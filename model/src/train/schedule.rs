//! How the learning rate moves while training.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::fault::Fault;

/// The course of the learning rate. It is set before every step, not once per epoch. Where there
/// is a warm-up, it first rises linearly from 0 to `lr`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// Half a cosine from `lr` down to 0 over the steps after the warm-up:
    /// lr * (1 + cos(pi * step/steps)) / 2.
    #[default]
    Cosine,
    /// A straight line from `lr` down to 0 over the steps after the warm-up:
    /// lr * (1 - step/steps).
    Linear,
    /// Multiplied by `gamma` after every so many epochs.
    Step(Step),
    /// Multiplied by `gamma` after each of the epochs listed.
    Milestones(Milestones),
}

/// A fall at even distances: lr * gamma^(epoch / every), rounded down. Epochs are those of the
/// run, from 0, the warm-up's included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Epochs from one fall to the next, at least 1.
    pub every: u64,
    /// What the learning rate is multiplied by, above 0 and at most 1.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

/// Falls where they are told: lr * gamma^(how many of the milestones are done). Epochs are those
/// of the run, the warm-up's included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Milestones {
    /// After how many epochs the learning rate falls, in rising order; at least one. Those that
    /// the run does not reach have no effect.
    pub epochs: Vec<u64>,
    /// What the learning rate is multiplied by, above 0 and at most 1.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
}

fn default_gamma() -> f64 {
    0.1
}

/// The length of a run, which its schedule spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Epochs of the run, the warm-up's included.
    pub epochs: u64,
    /// Epochs of the warm-up; 0 for none.
    pub warm_up_epochs: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
}

impl Schedule {
    /// Every fault of its parameters; empty if there is none.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let gamma = match self {
            Schedule::Cosine | Schedule::Linear => return faults,
            Schedule::Step(step) => {
                if step.every == 0 {
                    faults.push(("every", "`every` must be at least 1 epoch".to_owned()));
                }
                step.gamma
            }
            Schedule::Milestones(milestones) => {
                let epochs = &milestones.epochs;
                if epochs.is_empty() {
                    faults.push(("epochs", "`Milestones` needs at least one epoch".to_owned()));
                }
                if epochs.first() == Some(&0) {
                    faults.push((
                        "epochs",
                        "a milestone is the number of epochs done by then, at least 1".to_owned(),
                    ));
                }
                if let Some(pair) = epochs.windows(2).find(|pair| pair[0] >= pair[1]) {
                    faults.push((
                        "epochs",
                        format!("milestones must rise, but {} follows {}", pair[1], pair[0]),
                    ));
                }
                milestones.gamma
            }
        };
        if !(gamma > 0.0 && gamma <= 1.0) {
            faults.push((
                "gamma",
                format!("`gamma` is above 0 and at most 1, not {gamma}"),
            ));
        }
        faults
    }

    /// The learning rate of a step, which counts from 0 over the whole run.
    pub fn learning_rate(&self, lr: f64, step: u64, course: Course) -> f64 {
        let steps = course.epochs.saturating_mul(course.steps_per_epoch);
        let warm_up = course.warm_up_epochs.saturating_mul(course.steps_per_epoch);
        if step < warm_up {
            return lr * step as f64 / warm_up as f64;
        }
        // Of what the warm-up leaves. From the run's end on it stays at the last value.
        let span = steps.saturating_sub(warm_up).max(1);
        let done = (step - warm_up).min(span) as f64 / span as f64;
        let epoch = step / course.steps_per_epoch.max(1);
        match self {
            Schedule::Cosine => lr * (1.0 + (PI * done).cos()) / 2.0,
            Schedule::Linear => lr * (1.0 - done),
            Schedule::Step(by) => lr * by.gamma.powf((epoch / by.every.max(1)) as f64),
            Schedule::Milestones(by) => {
                let passed = by.epochs.iter().filter(|&&milestone| milestone <= epoch);
                lr * by.gamma.powf(passed.count() as f64)
            }
        }
    }
}
