//! How the learning rate moves while training.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The course of the learning rate. It is set before every step, not once per epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Schedule {
    /// Half a cosine from `lr` down to 0 over the whole run: lr * (1 + cos(pi * step/steps)) / 2.
    #[default]
    Cosine,
}

impl Schedule {
    /// The learning rate of a step. `step` counts from 0 over the whole run of `steps` steps
    /// (epoch * steps per epoch + step in the epoch). The first `warm_up` of them (0 for none)
    /// rise linearly from 0 to `lr`; the decay then spans the rest. From the run's end on it
    /// stays at the last value.
    pub fn learning_rate(self, lr: f64, step: u64, steps: u64, warm_up: u64) -> f64 {
        if step < warm_up {
            return lr * step as f64 / warm_up as f64;
        }
        let span = steps.saturating_sub(warm_up).max(1);
        let done = (step - warm_up).min(span) as f64 / span as f64;
        match self {
            Schedule::Cosine => lr * (1.0 + (PI * done).cos()) / 2.0,
        }
    }
}
