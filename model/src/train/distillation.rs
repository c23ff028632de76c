//! The training loss: cross-entropies and distillation between the resolutions.
//!
//! "Resolution Switchable Networks for Runtime Efficient Image Recognition", ECCV 2020, section
//! 3.2 ("multi-resolution ensemble distillation"). With z_j the logits at resolution j, in the
//! order of the recipe, z_ens the logits of the ensemble, and y the labels:
//!
//! L = sum_j CE(z_j, y) + CE(z_ens, y) + w * D.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

/// Distillation: which logits are the teachers of which resolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Distill {
    /// No distillation: every resolution learns from the labels alone.
    None,
    /// The ensemble of all resolutions is the teacher of each:
    /// D = sum_j KL(softmax(z_ens) || softmax(z_j)), w = 1.
    Ensemble,
    /// The ensemble is the teacher of each resolution, and each resolution of all that follow it in
    /// the order of the sizes: adds sum_{k<j} KL(softmax(z_k) || softmax(z_j)) to D, and
    /// w = 2/(S+1) for S resolutions, so that the S(S+1)/2 terms weigh as much as S.
    #[default]
    EnsembleTopDown,
}

impl Distill {
    /// w, the weight of D in the loss, for this number of resolutions.
    pub fn weight(self, resolutions: usize) -> f64 {
        match self {
            Distill::None => 0.0,
            Distill::Ensemble => 1.0,
            Distill::EnsembleTopDown => 2.0 / (resolutions as f64 + 1.0),
        }
    }
}

/// The loss of a batch and its terms: scalar tensors on the device of the logits. Reading one waits
/// for the device, so read them only to log them.
#[derive(Debug)]
pub struct Loss {
    /// L. The others are detached.
    pub total: Tensor,
    /// CE(z_j, y) for each resolution.
    pub cross_entropy: Vec<Tensor>,
    /// CE(z_ens, y).
    pub ensemble_cross_entropy: Tensor,
    /// D, without its weight w; `None` without distillation.
    pub distillation: Option<Tensor>,
}

impl Loss {
    /// The same tensors.
    pub fn shallow_clone(&self) -> Self {
        Loss {
            total: self.total.shallow_clone(),
            cross_entropy: self
                .cross_entropy
                .iter()
                .map(Tensor::shallow_clone)
                .collect(),
            ensemble_cross_entropy: self.ensemble_cross_entropy.shallow_clone(),
            distillation: self.distillation.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// The loss of a batch. `logits` has `[batch, classes]` for each resolution, `ensemble` is their
/// [`SwitchableNetwork::ensemble`](crate::nn::switchable::SwitchableNetwork::ensemble), `labels` are int64 `[batch]` in
/// `0..classes`.
///
/// Teachers are detached. The ensemble's logits depend on detached logits, so CE(z_ens) trains
/// alpha alone, also without distillation. KL is summed over the classes and averaged over the
/// batch.
///
/// # Errors
/// No logits; shapes that do not match; on the CPU, a label out of range.
pub fn loss(
    logits: &[Tensor],
    ensemble: &Tensor,
    labels: &Tensor,
    distill: Distill,
) -> Result<Loss> {
    ensure!(
        !logits.is_empty(),
        "a loss needs the logits of at least one resolution"
    );
    // Computed once for each resolution, for its cross-entropy and all its KL terms.
    let students = logits
        .iter()
        .map(|z| Ok(z.f_log_softmax(-1, None)?))
        .collect::<Result<Vec<_>>>()?;

    let cross_entropy = |log_probabilities: &Tensor| {
        log_probabilities.f_nll_loss(labels, None::<&Tensor>, Reduction::Mean, -100)
    };
    let cross_entropies = students
        .iter()
        .map(|s| Ok(cross_entropy(s)?))
        .collect::<Result<Vec<_>>>()?;
    let ensemble_cross_entropy = cross_entropy(&ensemble.f_log_softmax(-1, None)?)?;

    let mut total = sum(&cross_entropies)?.f_add(&ensemble_cross_entropy)?;
    let distillation = match distill {
        Distill::None => None,
        Distill::Ensemble | Distill::EnsembleTopDown => {
            // The last resolution is no one's teacher.
            let top_down = match distill {
                Distill::EnsembleTopDown => &logits[..logits.len() - 1],
                _ => &[],
            };
            let teachers = std::iter::once(ensemble)
                .chain(top_down)
                .map(|z| Ok(z.f_detach()?.f_softmax(-1, None)?))
                .collect::<Result<Vec<_>>>()?;
            // Teacher 0 is the ensemble, teacher k + 1 is resolution k (if top-down): student j
            // learns from the first j + 1.
            let mut terms = Vec::new();
            for (j, student) in students.iter().enumerate() {
                for teacher in teachers.iter().take(j + 1) {
                    terms.push(student.f_kl_div(teacher, Reduction::Sum, false)?);
                }
            }
            let batch = labels.size1().context("labels must have one dimension")?;
            let distillation = sum(&terms)?.f_div_scalar(batch)?;
            total = total.f_add(&distillation.f_mul_scalar(distill.weight(logits.len()))?)?;
            Some(distillation.f_detach()?)
        }
    };
    Ok(Loss {
        total,
        cross_entropy: cross_entropies
            .iter()
            .map(|t| Ok(t.f_detach()?))
            .collect::<Result<_>>()?,
        ensemble_cross_entropy: ensemble_cross_entropy.f_detach()?,
        distillation,
    })
}

fn sum(terms: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_stack(terms, 0)?.f_sum(None)?)
}
