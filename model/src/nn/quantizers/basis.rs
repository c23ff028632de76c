//! The basis of quantizers and its exponential moving average.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor, no_grad};

/// The decay of the exponential moving average, as in the reference.
const DECAY: f64 = 0.9;

/// The upper quartile of a standard normal distribution, as the reference rounds it.
pub(super) const QUARTILE: f64 = 0.6745;

/// The bases of one or several quantizers: handles to tensors that are updated in place.
#[derive(Debug)]
pub struct Basis {
    /// `[quantizers, bits]`. The first update replaces the initial value.
    pub value: Tensor,
    /// `[quantizers, bits]`: the moving average before zero-debiasing, initially 0.
    pub average: Tensor,
    /// `[1]`: the number of updates.
    pub updates: Tensor,
}

impl Basis {
    /// Updates the moving average with a fitted basis.
    ///
    /// As TensorFlow's `assign_moving_average` with `zero_debias`: average = 0.9 average + 0.1
    /// fitted, value = average / (1 - 0.9^t) after `t` updates, so that the initial 0 has no
    /// weight.
    ///
    /// Reads nothing back from the device, so a fit of values that are not finite is not detected
    /// here; but then the quantizer's output is NaN, and so is the loss.
    ///
    /// # Errors
    /// A basis of another shape.
    pub fn update(&self, fitted: &Tensor) -> Result<()> {
        ensure!(
            fitted.size() == self.value.size(),
            "a basis of shape {:?} cannot be updated with one of shape {:?}",
            self.value.size(),
            fitted.size()
        );
        no_grad(|| {
            let [mut value, mut average, mut updates] =
                [&self.value, &self.average, &self.updates].map(Tensor::shallow_clone);
            average.f_copy_(&ema(&average, fitted)?)?;
            let _ = updates.f_add_scalar_(1)?;
            let decayed = Tensor::f_pow_scalar(DECAY, &updates.f_to_kind(Kind::Double)?)?;
            let divisor = decayed.f_neg()?.f_add_scalar(1.0)?;
            let divisor = divisor.f_to_kind(value.f_kind()?)?;
            value.f_copy_(&average.f_div(&divisor)?)?;
            Ok(())
        })
    }
}

/// A step of the exponential moving average: 0.9 `old` + 0.1 `new`.
///
/// # Errors
/// Shapes that do not match.
pub fn ema(old: &Tensor, new: &Tensor) -> Result<Tensor> {
    let (old, new) = (old.f_mul_scalar(DECAY)?, new.f_mul_scalar(1.0 - DECAY)?);
    Ok(old.f_add(&new)?)
}
