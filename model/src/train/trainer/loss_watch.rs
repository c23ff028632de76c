//! The loss of the steps, kept on the device until somebody reads it.

use anyhow::{Context as _, Result};
use tch::{Kind, Tensor};

use crate::train::distillation::Loss;
use crate::train::metrics::Losses;

/// The terms of the newest step; once a term was not finite, those of that step for good. So the
/// step that went wrong first is found at the next reading, and no step before it waits for the
/// device.
#[derive(Debug, Default)]
pub(super) struct LossWatch {
    /// `[1 + terms]`, double: the step and its terms, in the order of [`terms`]. None before the
    /// first step.
    held: Option<Tensor>,
}

impl LossWatch {
    /// Takes the loss of a step, which counts from 1, of a network with so many `resolutions`. Waits for
    /// nothing.
    pub fn record(&mut self, loss: &Loss, step: u64, resolutions: usize) -> Result<()> {
        let newest = tch::no_grad(|| -> Result<Tensor> {
            let terms = terms(loss).into_iter().map(|term| term.f_view([-1]));
            let mut parts = terms.collect::<Result<Vec<_>, _>>()?;
            let options = (Kind::Double, loss.total.device());
            // Filled on the device: a copy from here would wait for it.
            let number = |value: f64| Tensor::f_full([1], value, options);
            // Those that were not trained leave places empty.
            let trained = loss.cross_entropy.numel();
            if trained < resolutions {
                let empty = (resolutions - trained) as i64;
                parts.insert(3, Tensor::f_zeros([empty], options)?);
            }
            let terms = Tensor::f_cat(&parts, 0)?.f_to_kind(Kind::Double)?;
            Ok(Tensor::f_cat(&[number(step as f64)?, terms], 0)?)
        })?;
        self.held = Some(match &self.held {
            None => newest,
            Some(held) => newest.f_where_self(&held.f_isfinite()?.f_all()?, held)?,
        });
        Ok(())
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
        let mut values = values.into_iter();
        let mut next = || values.next().context("the loss has fewer terms than that");
        let step = next()? as u64;
        let loss = next()?;
        let ensemble_cross_entropy = next()?;
        let mut cross_entropy = Vec::new();
        for position in trained(step) {
            let resolution = resolutions.get(position).context("no such resolution")?;
            cross_entropy.push((*resolution, next()?));
        }
        for _ in cross_entropy.len()..resolutions.len() {
            next()?;
        }
        let losses = Losses {
            loss,
            cross_entropy,
            ensemble_cross_entropy,
            distillation: next().ok(),
        };
        Ok((step, losses))
    }
}

/// What [`LossWatch`] holds of a loss; what not every loss has comes last.
fn terms(loss: &Loss) -> Vec<&Tensor> {
    let always = [
        &loss.total,
        &loss.ensemble_cross_entropy,
        &loss.cross_entropy,
    ];
    always.into_iter().chain(&loss.distillation).collect()
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

    /// Total, ensemble, two resolutions, distillation.
    fn loss(values: [f64; 5]) -> Loss {
        let [total, ensemble, first, second, distillation] = values.map(|value| value as f32);
        Loss {
            total: total.into(),
            cross_entropy: Tensor::from_slice(&[first, second]),
            ensemble_cross_entropy: ensemble.into(),
            distillation: Some(distillation.into()),
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
                watch.record(&loss(values), step as u64 + 1, 2).unwrap();
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
