//! Adam with decoupled weight decay, and LAMB, which scales its changes.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{WeightDecayOn, check_lr, check_weight_decay};
use crate::nn::field_error::FieldError;
use crate::nn::native::optimizers::{AdamStep, Group, Rate, fused_adamw, lamb};

/// AdamW ("Decoupled Weight Decay Regularization", ICLR 2019), as PyTorch defines it. For a parameter p with
/// gradient g at update t: p -= lr * weight_decay * p; m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2;
/// p -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// The learning rate before the schedule's decay (after the warm-up); above 0.
    pub lr: f64,
    /// b1 and b2; at least 0 and below 1.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Above 0.
    #[serde(default = "default_adamw_epsilon")]
    pub epsilon: f64,
    /// At least 0.
    #[serde(default = "default_adamw_weight_decay")]
    pub weight_decay: f64,
    /// The parameters with weight decay.
    #[serde(default = "default_weight_decay_on")]
    pub weight_decay_on: WeightDecayOn,
}

/// LAMB ("Large Batch Optimization for Deep Learning", ICLR 2020), as timm defines it: m and v as of `AdamW`,
/// u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay * p; p -= lr * r * u, where r is
/// |p| / |u| for parameters with weight decay (1 where either is 0), and 1 for others. timm's limit of the
/// gradients' norm is `clip_gradients: 1.0` here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lamb {
    /// The learning rate before the schedule's decay (after the warm-up); above 0.
    pub lr: f64,
    /// b1 and b2; at least 0 and below 1.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Above 0.
    #[serde(default = "default_lamb_epsilon")]
    pub epsilon: f64,
    /// At least 0.
    #[serde(default = "default_adamw_weight_decay")]
    pub weight_decay: f64,
    /// The parameters with weight decay.
    #[serde(default = "default_weight_decay_on")]
    pub weight_decay_on: WeightDecayOn,
}

fn default_betas() -> (f64, f64) {
    (0.9, 0.999)
}

fn default_adamw_epsilon() -> f64 {
    1e-8
}

fn default_lamb_epsilon() -> f64 {
    1e-6
}

fn default_adamw_weight_decay() -> f64 {
    0.01
}

fn default_weight_decay_on() -> WeightDecayOn {
    WeightDecayOn::Weights
}

fn check_fields(
    lr: f64,
    (beta1, beta2): (f64, f64),
    epsilon: f64,
    weight_decay: f64,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(check_lr(lr));
    if let Some(beta) = [beta1, beta2]
        .iter()
        .find(|beta| !(0.0..1.0).contains(*beta))
    {
        errors.push((
            "betas",
            format!("each of `betas` must be at least 0 and below 1, not {beta}"),
        ));
    }
    if !(epsilon.is_finite() && epsilon > 0.0) {
        errors.push((
            "epsilon",
            format!("`epsilon` must be above 0, not {epsilon}"),
        ));
    }
    errors.extend(check_weight_decay(weight_decay));
    errors
}

impl AdamW {
    pub(super) fn check(&self) -> Vec<FieldError> {
        check_fields(self.lr, self.betas, self.epsilon, self.weight_decay)
    }

    /// Updates parameters, all with this weight decay.
    pub(super) fn update(
        &self,
        group: &Group,
        weight_decay: f64,
        lr: Rate,
        updates: &Tensor,
        overflow: Option<&Tensor>,
    ) -> Result<()> {
        let step = AdamStep {
            lr,
            betas: self.betas,
            weight_decay,
            epsilon: self.epsilon,
            updates,
        };
        fused_adamw(group, step, overflow)
    }
}

impl Lamb {
    pub(super) fn check(&self) -> Vec<FieldError> {
        check_fields(self.lr, self.betas, self.epsilon, self.weight_decay)
    }

    /// Updates parameters, all with this weight decay.
    pub(super) fn update(
        &self,
        group: &Group,
        weight_decay: f64,
        lr: Rate,
        updates: &Tensor,
    ) -> Result<()> {
        let step = AdamStep {
            lr,
            betas: self.betas,
            weight_decay,
            epsilon: self.epsilon,
            updates,
        };
        lamb(group, step)
    }
}
