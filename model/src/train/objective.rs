//! What training minimizes: which loss of logits and targets, over which sizes, with which distillation.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::nn::field_error::FieldError;
use crate::train::distillation::Distill;

/// What a step minimizes; see [`loss`](crate::train::distillation::loss).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// Distillation between the resolutions.
    pub distill: Distill,
    /// The loss of logits and targets.
    pub criterion: Criterion,
    /// The share of a target that is spread evenly over all classes; 0 to below 1.
    pub label_smoothing: f64,
    /// How the losses of the resolutions are joined.
    pub over_sizes: OverSizes,
}

impl From<Distill> for Objective {
    fn from(distill: Distill) -> Self {
        Objective {
            distill,
            ..Objective::default()
        }
    }
}

/// The loss of a resolution's logits and the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Criterion {
    /// Cross-entropy with the softmax of the logits.
    #[default]
    CrossEntropy,
    /// A binary cross-entropy with the sigmoid of each class's logit, as in "ResNet strikes back" (2021).
    BinaryCrossEntropy(BinaryCrossEntropy),
}

/// -t log(sigmoid(z)) - (1 - t) log(1 - sigmoid(z)) for the logit z and the target t of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BinaryCrossEntropy {
    /// Targets above it are 1, others 0, after images were mixed and labels smoothed; 0 to below 1. Default:
    /// targets stay as they are.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// Add up the classes' losses, which weighs them as a cross-entropy is weighed, or take their mean, as
    /// timm does by default. Distillation's weight does not change.
    #[serde(default)]
    pub sum_classes: bool,
}

/// How the losses of the resolutions are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OverSizes {
    /// Their sum, as in the reference implementation. The shared weights get the gradients of all: a
    /// learning rate that suits one network is too large by about half the number of resolutions.
    #[default]
    Sum,
    /// Their mean, with the distillation; that of the ensemble, which trains alpha alone, is added as it is.
    Mean,
}

impl OverSizes {
    /// The weight of each resolution's loss.
    pub fn weight(self, resolutions: usize) -> f64 {
        match self {
            OverSizes::Sum => 1.0,
            OverSizes::Mean => 1.0 / resolutions as f64,
        }
    }
}

impl Objective {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !(0.0..1.0).contains(&self.label_smoothing) {
            errors.push((
                "label_smoothing",
                format!(
                    "`label_smoothing` must be at least 0 and below 1, not {}",
                    self.label_smoothing
                ),
            ));
        }
        if let Criterion::BinaryCrossEntropy(by) = self.criterion
            && let Some(threshold) = by.threshold
            && !(0.0..1.0).contains(&threshold)
        {
            errors.push((
                "criterion.threshold",
                format!("`threshold` must be at least 0 and below 1, not {threshold}"),
            ));
        }
        errors
    }

    /// Whether labels are enough: the target of a label is 1 for its class.
    fn takes_labels(&self) -> bool {
        self.criterion == Criterion::CrossEntropy && self.label_smoothing == 0.0
    }

    /// The targets, `[batch, classes]` of dtype `kind`, of labels, int64 `[batch]`, or of shares of the classes,
    /// `[batch, classes]`; `None` where `labels` are such, and are enough.
    ///
    /// # Errors
    /// On the CPU, a label out of range; shares of another number of classes.
    pub(super) fn targets(
        &self,
        labels: &Tensor,
        classes: i64,
        kind: Kind,
    ) -> Result<Option<Tensor>> {
        let plain = labels.dim() == 1;
        if plain && self.takes_labels() {
            return Ok(None);
        }
        let shares = match plain {
            true => labels.f_one_hot(classes)?,
            false => labels.shallow_clone(),
        };
        ensure!(
            shares.size().get(1) == Some(&classes),
            "targets of the shape {:?} for {classes} classes",
            shares.size()
        );
        let shares = shares.f_to_kind(kind)?;
        let smoothing = self.label_smoothing;
        let targets = match smoothing > 0.0 {
            true => shares
                .f_mul_scalar(1.0 - smoothing)?
                .f_add_scalar(smoothing / classes as f64)?,
            false => shares,
        };
        Ok(Some(match self.criterion {
            Criterion::BinaryCrossEntropy(BinaryCrossEntropy {
                threshold: Some(threshold),
                ..
            }) => targets.f_gt(threshold)?.f_to_kind(kind)?,
            _ => targets,
        }))
    }
}
