//! The training loss: cross-entropies and distillation between the resolutions.
//!
//! "Resolution Switchable Networks for Runtime Efficient Image Recognition", ECCV 2020, section
//! 3.2 ("multi-resolution ensemble distillation"). With z_j the logits at resolution j, in the
//! order of the recipe, z_ens the logits of the ensemble, and y the labels:
//!
//! L = sum_j CE(z_j, y) + CE(z_ens, y) + w * D.
//!
//! An [`Objective`] may take another loss in place of CE, and the mean over j in place of the sum, which
//! divides D, too.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

use crate::train::objective::{Criterion, Objective, OverSizes};

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

/// The loss of a batch and its terms, on the device of the logits. Reading one waits for the device, so
/// read them only to log them.
#[derive(Debug)]
pub struct Loss {
    /// L, a scalar. The others are detached.
    pub total: Tensor,
    /// CE(z_j, y), or what takes its place, for each resolution, `[resolutions]`.
    pub cross_entropy: Tensor,
    /// CE(z_ens, y), or what takes its place, a scalar.
    pub ensemble_cross_entropy: Tensor,
    /// D, without its weight w, a scalar; `None` without distillation.
    pub distillation: Option<Tensor>,
    /// How many images of the batch are predicted right at the network's largest resolution, a scalar: their
    /// largest logit is that of their label, or, where labels are mixed, of the one with the larger share. `None`
    /// where it was not counted, and where that resolution is not trained.
    pub right: Option<Tensor>,
}

impl Loss {
    /// The same tensors.
    pub fn shallow_clone(&self) -> Self {
        Loss {
            total: self.total.shallow_clone(),
            cross_entropy: self.cross_entropy.shallow_clone(),
            ensemble_cross_entropy: self.ensemble_cross_entropy.shallow_clone(),
            distillation: self.distillation.as_ref().map(Tensor::shallow_clone),
            right: self.right.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// The loss of a part of a batch as a share of the whole one's; detached.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn share(self, share: f64) -> Result<Self> {
        let part = |term: Tensor| term.f_detach()?.f_mul_scalar(share);
        Ok(Loss {
            total: part(self.total)?,
            cross_entropy: part(self.cross_entropy)?,
            ensemble_cross_entropy: part(self.ensemble_cross_entropy)?,
            distillation: self.distillation.map(part).transpose()?,
            right: self.right, // a count, not a mean
        })
    }

    /// The sum of two shares.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn plus(self, other: Loss) -> Result<Self> {
        let both = |own: Option<Tensor>, other: Option<Tensor>| match (own, other) {
            (Some(own), Some(other)) => Ok::<_, anyhow::Error>(Some(own.f_add(&other)?)),
            _ => Ok(None),
        };
        Ok(Loss {
            total: self.total.f_add(&other.total)?,
            cross_entropy: self.cross_entropy.f_add(&other.cross_entropy)?,
            ensemble_cross_entropy: self
                .ensemble_cross_entropy
                .f_add(&other.ensemble_cross_entropy)?,
            distillation: both(self.distillation, other.distillation)?,
            right: both(self.right, other.right)?,
        })
    }
}

/// The loss of a batch. `logits` has `[batch, classes]` for each resolution, `ensemble` is their
/// [`SwitchableNetwork::ensemble`](crate::nn::switchable::SwitchableNetwork::ensemble), `labels` are int64 `[batch]` in
/// `0..classes`, or the shares of the classes, `[batch, classes]`.
///
/// Teachers are detached. The ensemble's logits depend on detached logits, so CE(z_ens) trains
/// alpha alone, also without distillation. KL is summed over the classes and averaged over the
/// batch.
///
/// All terms are computed together, in a number of kernels that does not depend on the number of
/// resolutions.
///
/// # Errors
/// No logits; shapes that do not match; on the CPU, a label out of range.
pub fn loss(
    logits: &[Tensor],
    ensemble: &Tensor,
    labels: &Tensor,
    objective: impl Into<Objective>,
) -> Result<Loss> {
    let objective = objective.into();
    ensure!(
        !logits.is_empty(),
        "a loss needs the logits of at least one resolution"
    );
    let (batch, classes) = ensemble
        .size2()
        .context("logits must have two dimensions")?;
    let labelled = labels.size().first().copied();
    let labelled = labelled.context("labels must have at least one dimension")?;
    ensure!(
        labelled == batch,
        "there are {labelled} labels for the logits of {batch} images"
    );
    let resolutions = logits.len() as i64;
    // The ensemble, then the resolutions: [1 + resolutions, batch, classes].
    let all: Vec<&Tensor> = std::iter::once(ensemble).chain(logits).collect();
    let logits_of_all = Tensor::f_stack(&all, 0)?;
    let log_probabilities = logits_of_all.f_log_softmax(-1, None)?;

    let targets = objective.targets(labels, classes, ensemble.kind())?;
    let of_images = match (&targets, objective.criterion) {
        (None, _) => log_probabilities
            .f_view([-1, classes])?
            .f_nll_loss(
                &labels.f_repeat([1 + resolutions])?,
                None::<&Tensor>,
                Reduction::None,
                -100,
            )?
            .f_view([1 + resolutions, batch])?,
        (Some(targets), Criterion::CrossEntropy) => log_probabilities
            .f_mul(targets)?
            .f_sum_dim_intlist([2].as_slice(), false, None)?
            .f_neg()?,
        (Some(targets), Criterion::BinaryCrossEntropy(by)) => {
            let losses = logits_of_all.f_binary_cross_entropy_with_logits(
                &targets.f_expand_as(&logits_of_all)?,
                None::<&Tensor>,
                None::<&Tensor>,
                Reduction::None,
            )?;
            match by.sum_classes {
                true => losses.f_sum_dim_intlist([2].as_slice(), false, None)?,
                false => losses.f_mean_dim(2, false, None)?,
            }
        }
    };
    let cross_entropies = of_images.f_mean_dim(1, false, None)?;
    let weight = objective.over_sizes.weight(logits.len());
    let mut total = match objective.over_sizes {
        OverSizes::Sum => cross_entropies.f_sum(None)?,
        OverSizes::Mean => {
            let of_sizes = cross_entropies.f_narrow(0, 1, resolutions)?;
            let of_ensemble = cross_entropies.f_select(0, 0)?;
            of_ensemble.f_add(&of_sizes.f_mean(None)?)?
        }
    };

    let distill = objective.distill;
    let distillation = match distill {
        Distill::None => None,
        Distill::Ensemble | Distill::EnsembleTopDown => {
            let students = log_probabilities.f_narrow(0, 1, resolutions)?;
            // Teacher 0 is the ensemble, teacher k + 1 is resolution k (if top-down). The last
            // resolution is no one's teacher.
            let count = match distill {
                Distill::EnsembleTopDown => resolutions,
                _ => 1,
            };
            let teachers = log_probabilities.f_narrow(0, 0, count)?.f_detach()?;
            let terms = teachers
                .f_exp()?
                .f_mul(&teachers.f_sub(&students.f_unsqueeze(1)?)?)?
                .f_sum_dim_intlist([2, 3].as_slice(), false, None)?;
            // [student, teacher]: student j learns from the first j + 1.
            let distillation = terms.f_tril(0)?.f_sum(None)?.f_div_scalar(batch)?;
            total =
                total.f_add(&distillation.f_mul_scalar(weight * distill.weight(logits.len()))?)?;
            Some(distillation.f_detach()?)
        }
    };
    let cross_entropies = cross_entropies.f_detach()?;
    Ok(Loss {
        total,
        cross_entropy: cross_entropies.f_narrow(0, 1, resolutions)?,
        ensemble_cross_entropy: cross_entropies.f_select(0, 0)?,
        distillation,
        right: None,
    })
}
