//! The terms of a step's loss, in one tensor on the device.

use anyhow::Result;
use tch::Tensor;

use crate::train::distillation::Loss;
use crate::train::metrics::Losses;

/// The places of the terms. Those of the resolutions follow, in the network's order, and then the distillation.
const LOSS: usize = 0;
const ENSEMBLE: usize = 1;
/// Images that the step predicts right.
pub(super) const RIGHT: usize = 2;
const RESOLUTIONS: usize = 3;

/// How many places there are.
pub(super) fn count(resolutions: usize) -> usize {
    RESOLUTIONS + resolutions + 1
}

/// The terms of one step.
pub(super) struct Terms {
    /// Double, `[count(resolutions)]`.
    pub values: Tensor,
    /// Which of them the step has; the others are 0.
    pub there: Vec<bool>,
}

impl Terms {
    /// Of a step that trained the resolutions at these positions, of so many. Waits for nothing.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of(loss: &Loss, positions: &[usize], resolutions: usize) -> Result<Self> {
        tch::no_grad(|| {
            let options = (loss.total.kind(), loss.total.device());
            // Filled on the device: a copy from here would wait for it.
            let missing = || Tensor::f_zeros([1], options);
            let one = |term: Option<&Tensor>| term.map_or_else(missing, |term| term.f_view([1]));
            let mut parts = vec![
                one(Some(&loss.total))?,
                one(Some(&loss.ensemble_cross_entropy))?,
                one(loss.right.as_ref())?,
            ];
            if positions.len() == resolutions {
                parts.push(loss.cross_entropy.f_view([-1])?);
            } else {
                for position in 0..resolutions {
                    let at = positions.iter().position(|&trained| trained == position);
                    parts.push(match at {
                        Some(at) => loss.cross_entropy.f_narrow(0, at as i64, 1)?,
                        None => missing()?,
                    });
                }
            }
            parts.push(one(loss.distillation.as_ref())?);
            let (counts, distills) = (loss.right.is_some(), loss.distillation.is_some());
            Ok(Terms {
                values: Tensor::f_cat(&parts, 0)?.f_to_kind(tch::Kind::Double)?,
                there: there(positions, resolutions, counts, distills),
            })
        })
    }
}

/// Which places a step has that trains the resolutions at these positions: it may count images that are right, and
/// distil.
pub(super) fn there(
    positions: &[usize],
    resolutions: usize,
    counts: bool,
    distills: bool,
) -> Vec<bool> {
    let mut there = vec![true, true, counts];
    there.extend((0..resolutions).map(|position| positions.contains(&position)));
    there.push(distills);
    there
}

/// The terms by name, from the value of each place; `None`: it is not there, or there is no loss at all.
pub(super) fn losses(resolutions: &[u32], value: impl Fn(usize) -> Option<f64>) -> Option<Losses> {
    let sizes = resolutions.iter().enumerate();
    let by_size = sizes.filter_map(|(at, size)| Some((*size, value(RESOLUTIONS + at)?)));
    Some(Losses {
        loss: value(LOSS)?,
        cross_entropy: by_size.collect(),
        ensemble_cross_entropy: value(ENSEMBLE)?,
        distillation: value(RESOLUTIONS + resolutions.len()),
    })
}
