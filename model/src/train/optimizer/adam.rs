//! AdamW and LAMB, which differ in the length of a step.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{WeightDecayOn, check_lr, check_weight_decay};
use crate::nn::field_error::FieldError;
use crate::nn::native::optimizers::{AdamStep, Group, Rate, adam};

/// For a parameter p with gradient g at update t: m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2;
/// u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay * p. `AdamW`: p -= lr * u. `Lamb`:
/// p -= lr * r * u, where r is |p| / |u| for parameters with weight decay (1 where either is 0), and 1 for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// The learning rate before the schedule's decay (after the warm-up); above 0.
    pub lr: f64,
    /// b1 and b2; at least 0 and below 1.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Above 0. Default: 1e-8 for `AdamW`, 1e-6 for `Lamb`, as in PyTorch and timm.
    #[serde(default)]
    pub epsilon: Option<f64>,
    /// At least 0.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The parameters with weight decay.
    #[serde(default = "default_weight_decay_on")]
    pub weight_decay_on: WeightDecayOn,
}

fn default_betas() -> (f64, f64) {
    (0.9, 0.999)
}

fn default_weight_decay() -> f64 {
    0.01
}

fn default_weight_decay_on() -> WeightDecayOn {
    WeightDecayOn::Weights
}

impl Adam {
    pub(super) fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_lr(self.lr));
        let (beta1, beta2) = self.betas;
        let mut betas = [beta1, beta2].into_iter();
        if let Some(beta) = betas.find(|beta| !(0.0..1.0).contains(beta)) {
            errors.push((
                "betas",
                format!("each of `betas` must be at least 0 and below 1, not {beta}"),
            ));
        }
        if let Some(epsilon) = self.epsilon
            && !(epsilon.is_finite() && epsilon > 0.0)
        {
            errors.push((
                "epsilon",
                format!("`epsilon` must be above 0, not {epsilon}"),
            ));
        }
        errors.extend(check_weight_decay(self.weight_decay));
        errors
    }

    /// Updates parameters, all with this weight decay; `scales_to_norm`: as LAMB does.
    pub(super) fn update(
        &self,
        group: &Group,
        weight_decay: f64,
        lr: Rate,
        (updates, scales_to_norm): (&Tensor, bool),
        overflow: Option<&Tensor>,
    ) -> Result<()> {
        let usual = if scales_to_norm { 1e-6 } else { 1e-8 };
        let step = AdamStep {
            lr,
            betas: self.betas,
            weight_decay,
            epsilon: self.epsilon.unwrap_or(usual),
            scales_to_norm,
            updates,
        };
        adam(group, step, overflow)
    }
}
