//! The batch norms of a network: which resolutions share what of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::field_error::FieldError;
use crate::nn::parameters::{Init, Role};

/// PyTorch's default and the reference's.
const EPSILON: f64 = 1e-5;
/// PyTorch's default and the reference's.
const MOMENTUM: f64 = 0.1;

/// Whether resolutions that have running statistics of their own share the scales and shifts (gamma and
/// beta).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Affine {
    /// Each resolution has its own.
    #[default]
    Private,
    /// All resolutions share them.
    Shared,
}

/// What all batch norms of a network have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormOptions {
    #[serde(default)]
    pub affine: Affine,
    /// The weight of a new batch in the running statistics, above 0 and at most 1.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// What is added to a variance, above 0.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
}

pub(crate) fn default_momentum() -> f64 {
    MOMENTUM
}

pub(crate) fn default_epsilon() -> f64 {
    EPSILON
}

impl Default for NormOptions {
    fn default() -> Self {
        NormOptions {
            affine: Affine::Private,
            momentum: MOMENTUM,
            epsilon: EPSILON,
        }
    }
}

impl NormOptions {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let NormOptions {
            momentum, epsilon, ..
        } = self;
        let mut errors = Vec::new();
        if !(*momentum > 0.0 && *momentum <= 1.0) {
            let error =
                format!("`batch_norm_momentum` must be above 0 and at most 1, not {momentum}");
            errors.push(("batch_norm_momentum", error));
        }
        // In float32, in which variances are.
        if !(*epsilon as f32 > 0.0 && epsilon.is_finite() && *epsilon < 1.0) {
            let error = format!("`batch_norm_epsilon` must be above 0 and below 1, not {epsilon}");
            errors.push(("batch_norm_epsilon", error));
        }
        errors
    }
}

/// The batch norms of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Norms {
    /// For each resolution, the resolution whose batch norms it uses; several may share one.
    pub of: Vec<u32>,
    pub options: NormOptions,
}

impl From<&[u32]> for Norms {
    fn from(of: &[u32]) -> Self {
        Norms {
            of: of.to_vec(),
            options: NormOptions::default(),
        }
    }
}

impl<const N: usize> From<&[u32; N]> for Norms {
    fn from(of: &[u32; N]) -> Self {
        of.as_slice().into()
    }
}

impl Norms {
    /// The tensors of a batch norm: the resolution that each is private to, its part of the name, role and
    /// initial value.
    pub(super) fn tensors(&self, gamma: f64) -> Vec<(Option<u32>, &'static str, Role, Init)> {
        let affine = [
            ("weight", Role::BatchNormWeight, Init::Constant(gamma)),
            ("bias", Role::BatchNormBias, Init::Constant(0.0)),
        ];
        let statistics = [
            ("running_mean", Role::BatchNormMean, Init::Constant(0.0)),
            ("running_var", Role::BatchNormVar, Init::Constant(1.0)),
        ];
        let mut tensors = Vec::new();
        let mut push = |resolution, parts: [(&'static str, Role, Init); 2]| {
            tensors.extend(parts.map(|(part, role, init)| (resolution, part, role, init)));
        };
        if self.options.affine == Affine::Shared {
            push(None, affine);
        }
        for resolution in self.distinct() {
            if self.options.affine == Affine::Private {
                push(Some(resolution), affine);
            }
            push(Some(resolution), statistics);
        }
        tensors
    }

    /// The name of one of these tensors for the images of `resolution`.
    pub(crate) fn name(&self, layer: &str, resolution: u32, part: &str) -> String {
        let shared = self.options.affine == Affine::Shared && matches!(part, "weight" | "bias");
        match shared {
            true => format!("{layer}.{part}"),
            false => format!("{layer}.{resolution}.{part}"),
        }
    }

    /// The resolutions that have batch norms, in the order of their first occurrence.
    fn distinct(&self) -> Vec<u32> {
        let mut distinct = Vec::new();
        for resolution in &self.of {
            if !distinct.contains(resolution) {
                distinct.push(*resolution);
            }
        }
        distinct
    }
}
