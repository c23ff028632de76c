//! The training loss: cross-entropies and the distillation between the resolutions.
//!
//! "Resolution Switchable Networks for Runtime Efficient Image Recognition", ECCV 2020, section
//! 3.2 ("multi-resolution ensemble distillation"). With z_j the logits at resolution j, in the
//! order of the recipe, z_ens those of the ensemble, and y the labels:
//!
//! L = sum_j CE(z_j, y) + CE(z_ens, y) + w * D.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

/// Who teaches whom while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Distill {
    /// Nobody: every resolution learns from the labels alone.
    None,
    /// The ensemble of all resolutions teaches each of them:
    /// D = sum_j KL(softmax(z_ens) || softmax(z_j)), w = 1.
    Ensemble,
    /// The ensemble teaches each resolution, and each resolution teaches all that come after it in
    /// the order of the sizes: adds sum_{k<j} KL(softmax(z_k) || softmax(z_j)) to D, and
    /// w = 2/(S+1) for S resolutions, so that each of S(S+1)/2 terms weighs as one of S.
    #[default]
    EnsembleTopDown,
}

impl Distill {
    /// w: what the sum D weighs in the loss, for this many resolutions.
    pub fn weight(self, resolutions: usize) -> f64 {
        match self {
            Distill::None => 0.0,
            Distill::Ensemble => 1.0,
            Distill::EnsembleTopDown => 2.0 / (resolutions as f64 + 1.0),
        }
    }
}

/// The loss of a batch and its terms, each a tensor of one element on the device of the logits.
/// Reading one waits for the device; only what is logged should be read.
#[derive(Debug)]
pub struct Loss {
    /// L, the only one with a gradient.
    pub total: Tensor,
    /// CE(z_j, y) by resolution.
    pub cross_entropy: Vec<Tensor>,
    /// CE(z_ens, y).
    pub ensemble_cross_entropy: Tensor,
    /// D, before its weight; `None` without distillation.
    pub distillation: Option<Tensor>,
}

/// The loss of one batch. `logits` holds `[batch, classes]` per resolution, `ensemble` is what
/// [`RsNet::ensemble`](crate::nn::rs_net::RsNet::ensemble) made of them, `labels` are `[batch]` of
/// `Kind::Int64` in `0..classes`.
///
/// Teachers are detached: no gradient flows into them. CE(z_ens) therefore trains alpha alone,
/// and does so without distillation too. KL is summed over the classes, averaged over the batch.
///
/// # Errors
/// No logits, or what libtorch says (shapes that do not match; a label out of range on the CPU).
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
    // Made once per resolution, and shared by its cross-entropy and by every teacher's KL.
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
            // The last resolution has nobody to teach.
            let top_down = match distill {
                Distill::EnsembleTopDown => &logits[..logits.len() - 1],
                _ => &[],
            };
            let teachers = std::iter::once(ensemble)
                .chain(top_down)
                .map(|z| Ok(z.f_detach()?.f_softmax(-1, None)?))
                .collect::<Result<Vec<_>>>()?;
            // Teacher 0 is the ensemble and teacher k + 1 is resolution k, if it teaches at all:
            // student j learns from the first j + 1.
            let mut terms = Vec::new();
            for (j, student) in students.iter().enumerate() {
                for teacher in teachers.iter().take(j + 1) {
                    terms.push(student.f_kl_div(teacher, Reduction::Sum, false)?);
                }
            }
            let batch = labels.size1().context("labels have one dimension")?;
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
