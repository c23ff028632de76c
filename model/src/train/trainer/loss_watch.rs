//! The loss of the steps, kept on the device until somebody reads it.

use anyhow::{Context as _, Result};
use tch::{Kind, Tensor};

use super::terms::{self, Terms};
use crate::train::metrics::Losses;

/// The terms of the newest step; once a term was not finite, those of that step for good. So the
/// step that went wrong first is found at the next reading, and no step before it waits for the
/// device.
#[derive(Debug, Default)]
pub(super) struct LossWatch {
    /// `[1 + terms]`, double: the step and its terms. None before the first step.
    held: Option<Tensor>,
    /// Whether there is distillation, which comes last.
    distills: bool,
}

impl LossWatch {
    /// Takes the terms of a step, which counts from 1. Waits for nothing.
    pub fn record(&mut self, terms: &Terms, step: u64) -> Result<()> {
        let options = (Kind::Double, terms.values.device());
        // Filled on the device: a copy from here would wait for it.
        let number = Tensor::f_full([1], step as f64, options)?;
        let newest = Tensor::f_cat(&[&number, &terms.values], 0)?;
        self.distills = terms.there.last() == Some(&true);
        self.held = Some(match &self.held {
            None => newest,
            Some(held) => newest.f_where_self(&held.f_isfinite()?.f_all()?, held)?,
        });
        Ok(())
    }

    /// Whether a step was recorded.
    pub fn has_steps(&self) -> bool {
        self.held.is_some()
    }

    /// The terms by resolution, and the step that they are of. `trained` gives the positions of the resolutions
    /// that a step trained. Waits for the device.
    pub fn read(
        &self,
        resolutions: &[u32],
        trained: impl Fn(u64) -> Vec<usize>,
    ) -> Result<(u64, Losses)> {
        let held = self.held.as_ref().context("no step was done yet")?;
        let mut values = vec![0.0; held.numel()];
        held.f_copy_data(&mut values, held.numel())?;
        let (step, values) = values.split_first().context("no step was done yet")?;
        let there = terms::there(
            &trained(*step as u64),
            resolutions.len(),
            true,
            self.distills,
        );
        let value = |place: usize| match there.get(place) {
            Some(true) => values.get(place).copied(),
            _ => None,
        };
        let losses = terms::losses(resolutions, value).context("the loss has no terms")?;
        Ok((*step as u64, losses))
    }
}

/// The term that is the first not to be finite, in the order in which they are computed, and its
/// value.
pub(super) fn first_not_finite(losses: &Losses) -> Option<(String, f64)> {
    let mut terms = Vec::new();
    for (resolution, value) in &losses.cross_entropy {
        let name = format!("the cross-entropy at resolution {resolution}");
        terms.push((name, *value));
    }
    let ensemble = losses.ensemble_cross_entropy;
    terms.push(("the cross-entropy of the ensemble".to_owned(), ensemble));
    if let Some(distillation) = losses.distillation {
        terms.push(("the distillation".to_owned(), distillation));
    }
    terms.push(("the sum of all terms".to_owned(), losses.loss));
    terms.into_iter().find(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::distillation::Loss;

    /// Total, ensemble, two resolutions, distillation.
    fn loss(values: [f64; 5]) -> Loss {
        let [total, ensemble, first, second, distillation] = values.map(|value| value as f32);
        Loss {
            total: total.into(),
            cross_entropy: Tensor::from_slice(&[first, second]),
            ensemble_cross_entropy: ensemble.into(),
            distillation: Some(distillation.into()),
            right: None,
        }
    }

    #[test]
    fn the_first_step_that_is_not_finite_is_kept() {
        const NAN: f64 = f64::NAN;
        let good = [5.0, 1.0, 2.0, 3.0, 4.0];
        let cases = [
            (
                [NAN, 1.0, 2.0, NAN, NAN],
                "the cross-entropy at resolution 32 is NaN",
            ),
            (
                [NAN, NAN, NAN, NAN, NAN],
                "the cross-entropy at resolution 48 is NaN",
            ),
            (
                [NAN, NAN, 2.0, 3.0, NAN],
                "the cross-entropy of the ensemble is NaN",
            ),
            (
                [f64::INFINITY, 1.0, 2.0, 3.0, f64::INFINITY],
                "the distillation is inf",
            ),
            (
                [f64::INFINITY, 1.0, 2.0, 3.0, 4.0],
                "the sum of all terms is inf",
            ),
        ];
        for (bad, expected) in cases {
            let mut watch = LossWatch::default();
            assert!(watch.read(&[48, 32], |_| vec![0, 1]).is_err());
            for (step, values) in [good, good, bad, good, [NAN; 5]].into_iter().enumerate() {
                let terms = Terms::of(&loss(values), &[0, 1], 2).unwrap();
                watch.record(&terms, step as u64 + 1).unwrap();
                let (found, losses) = watch.read(&[48, 32], |_| vec![0, 1]).unwrap();
                let report =
                    first_not_finite(&losses).map(|(term, value)| format!("{term} is {value}"));
                if step < 2 {
                    assert_eq!((found, report), (step as u64 + 1, None));
                    assert_eq!(losses.loss, 5.0);
                    assert_eq!(losses.cross_entropy, [(48, 2.0), (32, 3.0)]);
                    assert_eq!(losses.ensemble_cross_entropy, 1.0);
                    assert_eq!(losses.distillation, Some(4.0));
                } else {
                    assert_eq!((found, report.as_deref()), (3, Some(expected)));
                }
            }
        }
    }
}
