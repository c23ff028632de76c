//! Stochastic gradient descent with momentum, as PyTorch defines it.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{WeightDecayOn, check_lr, check_weight_decay};
use crate::nn::field_error::FieldError;
use crate::nn::native::optimizers::{Group, Rate, SgdStep, fused_sgd};

/// Stochastic gradient descent. For a parameter p with gradient g: g += weight_decay * p;
/// v = momentum * v + g (v = g at the first step); p -= lr * v, with Nesterov
/// p -= lr * (g + momentum * v).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// The learning rate before the schedule's decay (after the warm-up); above 0.
    pub lr: f64,
    /// At least 0 and below 1.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// L2 penalty, added to the gradient; at least 0.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The parameters with weight decay: all of them (`Everything`), or the weights of convolutions
    /// and the classifier only (`Weights`).
    #[serde(default)]
    pub weight_decay_on: WeightDecayOn,
    /// Nesterov momentum.
    #[serde(default)]
    pub nesterov: bool,
}

fn default_momentum() -> f64 {
    0.9
}

fn default_weight_decay() -> f64 {
    1e-4
}

impl Sgd {
    pub(super) fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_lr(self.lr));
        if !(0.0..1.0).contains(&self.momentum) {
            errors.push((
                "momentum",
                format!(
                    "`momentum` must be at least 0 and below 1, not {}",
                    self.momentum
                ),
            ));
        }
        errors.extend(check_weight_decay(self.weight_decay));
        if self.nesterov && self.momentum == 0.0 {
            errors.push(("nesterov", "`nesterov` needs a momentum above 0".to_owned()));
        }
        errors
    }

    /// Updates parameters, all with this weight decay.
    pub(super) fn update(
        &self,
        group: &Group,
        weight_decay: f64,
        lr: Rate,
        overflow: Option<&Tensor>,
    ) -> Result<()> {
        let step = SgdStep {
            lr,
            momentum: self.momentum,
            weight_decay,
            nesterov: self.nesterov,
        };
        fused_sgd(group, step, overflow)
    }
}
