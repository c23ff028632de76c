//! Activation quantizers: codes 0 and +1, one basis for all channels.

use anyhow::{Context, Result};
use tch::{Tensor, no_grad};

use super::basis::QUARTILE;
use super::levels::{Fit, Levels};

/// The lower code; the upper one is 1.
const LOW_CODE: f64 = 0.0;

/// B'B counts as singular if a squared diagonal element of its Cholesky factor is less than this
/// fraction of the diagonal element of B'B: what is left is rounding.
const SINGULAR: f64 = 1e-12;

/// The first element of the initial basis; element j is 2^j times as large. The top level is then
/// twice the upper quartile of a standard normal distribution, as in the reference.
pub fn initial_basis(bits: i64) -> f64 {
    QUARTILE * 2.0 / (2_f64.powi(bits as i32) - 1.0)
}

/// The levels of `basis`, `[1, bits]`.
///
/// # Errors
/// The number of bits is not in [`BITS`](super::BITS).
pub fn levels(basis: &Tensor) -> Result<Levels> {
    Levels::new(basis, LOW_CODE).context("invalid activation quantizer")
}

/// The least-squares basis of the activations with their current codes: `(B'B)^-1 B'x`, `[1,
/// bits]`. The old basis if `B'B` is singular.
///
/// # Errors
/// Shapes that do not match.
pub fn fit_basis(fit: &Fit, old: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let Fit { btb, btx } = fit;
        let (factor, failed) = btb.f_linalg_cholesky_ex(false, false)?;
        let pivots = factor.f_diagonal(0, 1, 2)?.f_square()?;
        let diagonal = btb.f_diagonal(0, 1, 2)?;
        let singular = pivots
            .f_le_tensor(&diagonal.f_mul_scalar(SINGULAR)?)?
            .f_any_dim(1, true)?;
        let singular = singular.f_logical_or(&failed.f_ne(0)?.f_unsqueeze(1)?)?;
        let fitted = btx.f_cholesky_solve(&factor, false)?.f_squeeze_dim(2)?;
        Ok(old.f_where_self(&singular, &fitted.f_to_kind(old.f_kind()?)?)?)
    })
}
