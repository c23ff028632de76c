//! The quantizer of activations: codes 0 and +1, one basis.

use anyhow::{Context, Result};
use tch::{Tensor, no_grad};

use super::basis::QUARTILE;
use super::levels::{Fit, Levels};

/// The lower code.
const LOW: f64 = 0.0;

/// What is left of a row of the system is nothing but rounding if it is a smaller share than this.
const ROUNDING: f64 = 1e-12;

/// The smallest element of the basis to start with; each further one is twice as large. Their sum,
/// the top level, is twice the upper quartile of a standard normal distribution, as in the reference.
pub fn smallest(bits: i64) -> f64 {
    QUARTILE * 2.0 / (2_f64.powi(bits as i32) - 1.0)
}

/// The levels of `basis`, `[1, bits]`.
///
/// # Errors
/// More bits than [`BITS`](super::BITS), or none.
pub fn levels(basis: &Tensor) -> Result<Levels> {
    Levels::new(basis, LOW).context("no quantizer of activations")
}

/// The basis that is the nearest to the activations with the codes that they have now:
/// `(B'B)^-1 B'x`, `[1, bits]`. Where there is no one such basis, the old one.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn fitted(fit: &Fit, old: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let Fit { products, targets } = fit;
        let (factor, failed) = products.f_linalg_cholesky_ex(false, false)?;
        let left = factor.f_diagonal(0, 1, 2)?.f_square()?;
        let whole = products.f_diagonal(0, 1, 2)?;
        let singular = left
            .f_le_tensor(&whole.f_mul_scalar(ROUNDING)?)?
            .f_any_dim(1, true)?;
        let singular = singular.f_logical_or(&failed.f_ne(0)?.f_unsqueeze(1)?)?;
        let fitted = targets.f_cholesky_solve(&factor, false)?.f_squeeze_dim(2)?;
        Ok(old.f_where_self(&singular, &fitted.f_to_kind(old.f_kind()?)?)?)
    })
}
