//! A basis, which follows the fits slowly.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor, no_grad};

/// The decay of the moving average: the share of the old basis in the new one, as in the reference.
const DECAY: f64 = 0.9;

/// The upper quartile of a standard normal distribution, as the reference rounds it.
pub(super) const QUARTILE: f64 = 0.6745;

/// The basis of some quantizers and the moving average that it is: handles to tensors that are
/// changed in place.
#[derive(Debug)]
pub struct Basis {
    /// `[quantizers, bits]`. The first update replaces what it starts with.
    pub value: Tensor,
    /// `[quantizers, bits]`: the average as if it had begun at zero, which it does.
    pub average: Tensor,
    /// `[1]`: how often it moved; 0 to begin with.
    pub updates: Tensor,
}

impl Basis {
    /// Moves a tenth of the way to a basis that was fitted.
    ///
    /// The average is that of TensorFlow's `assign_moving_average` with `zero_debias`: after `t` updates
    /// it is divided by `1 - 0.9^t`, so that what it began with counts for nothing.
    ///
    /// Nothing is read back from the device, so a fit of values that are not finite is not noticed
    /// here; such values are NaN in the quantizer's output, and so is the loss.
    ///
    /// # Errors
    /// A basis of another shape, or what libtorch says.
    pub fn update(&self, fitted: &Tensor) -> Result<()> {
        ensure!(
            fitted.size() == self.value.size(),
            "a basis of shape {:?} cannot follow one of shape {:?}",
            self.value.size(),
            fitted.size()
        );
        no_grad(|| {
            let [mut value, mut mean, mut updates] =
                [&self.value, &self.average, &self.updates].map(Tensor::shallow_clone);
            mean.f_copy_(&average(&mean, fitted)?)?;
            let _ = updates.f_add_scalar_(1)?;
            let remembered = Tensor::f_pow_scalar(DECAY, &updates.f_to_kind(Kind::Double)?)?;
            let divisor = remembered.f_neg()?.f_add_scalar(1.0)?;
            let divisor = divisor.f_to_kind(value.f_kind()?)?;
            value.f_copy_(&mean.f_div(&divisor)?)?;
            Ok(())
        })
    }
}

/// A step of the exponential moving average.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn average(old: &Tensor, new: &Tensor) -> Result<Tensor> {
    let (old, new) = (old.f_mul_scalar(DECAY)?, new.f_mul_scalar(1.0 - DECAY)?);
    Ok(old.f_add(&new)?)
}
