//! A basis, which follows the fits slowly.

use anyhow::{Result, ensure};
use tch::{Tensor, no_grad};

/// The share of the old basis in the new one, as in the reference.
const MEMORY: f64 = 0.9;

/// The upper quartile of a standard normal distribution, as the reference rounds it.
pub(super) const QUARTILE: f64 = 0.6745;

/// A basis to start with: `smallest`, and twice as much from one to the next. `[1, bits]`.
pub(super) fn powers_of_two(smallest: f64, bits: i64) -> Tensor {
    let basis: Vec<f64> = (0..bits as i32).map(|j| smallest * 2_f64.powi(j)).collect();
    Tensor::from_slice(&basis).view([1, bits])
}

/// The basis of some quantizers and the running average that it is.
#[derive(Debug)]
pub struct Basis {
    /// `[quantizers, bits]`.
    value: Tensor,
    /// The average as if it had begun at zero.
    biased: Tensor,
    /// How often it moved.
    updates: u64,
}

impl Basis {
    /// Starts with `value`, `[quantizers, bits]`, which the first update replaces.
    pub fn new(value: Tensor) -> Self {
        Basis {
            biased: value.zeros_like(),
            value,
            updates: 0,
        }
    }

    /// `[quantizers, bits]`.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// How often it moved.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moves a tenth of the way to a basis that was fitted.
    ///
    /// The average is that of TensorFlow's `assign_moving_average` with `zero_debias`: after `t` updates
    /// it is divided by `1 - 0.9^t`, so that what it began with counts for nothing.
    ///
    /// # Errors
    /// A basis that is not finite, of which nothing could recover; this one is then unchanged.
    pub fn update(&mut self, fitted: &Tensor) -> Result<()> {
        ensure!(
            fitted.size() == self.value.size(),
            "a basis of shape {:?} cannot follow one of shape {:?}",
            self.value.size(),
            fitted.size()
        );
        ensure!(
            fitted.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1,
            "the values that are quantized are not finite, or too large to add up"
        );
        no_grad(|| {
            self.biased = average(&self.biased, fitted);
            self.updates += 1;
            let remembered = MEMORY.powi(i32::try_from(self.updates).unwrap_or(i32::MAX));
            self.value = &self.biased / (1.0 - remembered);
        });
        Ok(())
    }
}

/// A step of the running average.
pub fn average(old: &Tensor, new: &Tensor) -> Tensor {
    old * MEMORY + new * (1.0 - MEMORY)
}
