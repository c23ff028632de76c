//! The quantizer of activations: codes 0 and +1, one basis.

use anyhow::{Context, Result};
use tch::{Tensor, no_grad};

use super::basis::{QUARTILE, powers_of_two};
use super::levels::{Fit, Levels, with_gradient_of};

/// The basis to start with: `[1, bits]`. Powers of two, whose sum is the top level: twice the upper
/// quartile of a standard normal distribution, as in the reference.
pub fn activation_basis(bits: i64) -> Tensor {
    powers_of_two(QUARTILE * 2.0 / (2_f64.powi(bits as i32) - 1.0), bits)
}

/// What is left of a row of the system is nothing but rounding if it is a smaller share than this.
const ROUNDING: f64 = 1e-12;

/// Quantized activations.
#[derive(Debug)]
pub struct Activations {
    /// Of the activations' shape, each at a level. Its gradient is that of the activations up to the
    /// top level, and 0 above it.
    pub quantized: Tensor,
    fit: Fit,
}

impl Activations {
    /// `input`, of any shape, at the levels of `basis`, `[1, bits]`.
    ///
    /// # Errors
    /// A basis of another shape, or more bits than [`BITS`](super::BITS).
    pub fn new(input: &Tensor, basis: &Tensor) -> Result<Self> {
        let (at_levels, top) = no_grad(|| {
            let levels = Levels::new(basis, 0.0)?;
            let values = input.f_detach()?.f_reshape([1, -1])?;
            anyhow::Ok((levels.quantize(&values)?, levels.top().f_view([])?))
        })
        .context("the activations do not fit their basis")?;
        Ok(Activations {
            quantized: with_gradient_of(&input.f_clamp_max_tensor(&top)?, &at_levels.values)?,
            fit: at_levels.fit,
        })
    }

    /// The basis that is the nearest to the activations with the codes that they have now:
    /// `(B'B)^-1 B'x`, `[1, bits]`. Where there is no one such basis, the old one.
    pub fn fitted(&self, old: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let Fit { products, targets } = &self.fit;
            let (factor, failed) = products.f_linalg_cholesky_ex(false, false)?;
            let left = factor.f_diagonal(0, 1, 2)?.f_square()?;
            let whole = products.f_diagonal(0, 1, 2)?;
            let singular = left.f_le_tensor(&(whole * ROUNDING))?.f_any_dim(1, true)?;
            let singular = singular.f_logical_or(&failed.f_ne(0)?.f_unsqueeze(1)?)?;
            let fitted = targets.f_cholesky_solve(&factor, false)?.f_squeeze_dim(2)?;
            Ok(old.f_where_self(&singular, &fitted.to_kind(old.kind()))?)
        })
    }
}
