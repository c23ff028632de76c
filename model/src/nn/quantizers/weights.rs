//! Weight quantizers of convolutions: codes -1 and +1, one basis for each output channel.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, no_grad};

use super::basis::QUARTILE;
use super::levels::{Fit, Levels, levels_by_code};

/// The lower code; the upper one is 1.
pub(super) const LOW_CODE: f64 = -1.0;

/// Ridge regression towards the old basis makes the least squares regular: if the weights of a
/// channel are at few of the levels, `B'B` is singular.
const RIDGE: f64 = 1e-4;

/// The first element of the initial basis of a weight of `shape`, `[out_channels, in_channels, k,
/// k]`; element j is 2^j times as large.
///
/// The last element is the upper quartile of a normal distribution of He's variance, `2 / (k * k *
/// out_channels)`, as in the reference.
pub fn initial_basis(shape: [i64; 4], bits: i64) -> f64 {
    let [out_channels, _, height, width] = shape;
    let fan_out = (height * width * out_channels) as f64;
    QUARTILE * (2.0 / fan_out).sqrt() / 2_f64.powi(bits as i32 - 1)
}

/// The levels of `basis`, `[out_channels, bits]`.
///
/// # Errors
/// The number of bits is not in [`BITS`](super::BITS).
pub fn levels(basis: &Tensor) -> Result<Levels> {
    Levels::new(basis, LOW_CODE).context("invalid weight quantizer")
}

/// The quantized `weight`, `[out_channels, ...]`, as a table: the number of the level of each value, uint8
/// `[out_channels, values]`, and the levels, `[out_channels, 2^bits]`.
///
/// # Errors
/// Shapes that do not match.
pub(crate) fn as_table(weight: &Tensor, basis: &Tensor) -> Result<(Tensor, Tensor)> {
    no_grad(|| {
        let values = weight.f_reshape([basis.size2()?.0, -1])?;
        let numbers = levels(basis)?.encode(&values)?.f_to_kind(Kind::Uint8)?;
        Ok((numbers, levels_by_code(basis, LOW_CODE)?))
    })
}

/// The ridge-regression basis of the weights with their current codes: `(B'B + eps I)^-1 (B'w + eps
/// old)` for each output channel, `[out_channels, bits]`.
///
/// # Errors
/// Shapes that do not match.
pub fn fit_basis(fit: &Fit, old: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let Fit { btb, btx } = fit;
        let (_, bits) = old.size2()?;
        let ridge = Tensor::f_eye(bits, (Kind::Double, old.device()))?.f_mul_scalar(RIDGE)?;
        let prior = old.f_to_kind(Kind::Double)?.f_unsqueeze(2)?;
        let system = btb.f_add(&ridge)?;
        let right = btx.f_add(&prior.f_mul_scalar(RIDGE)?)?;
        let (fitted, _) = Tensor::f_linalg_solve_ex(&system, &right, true, false)?;
        Ok(fitted.f_squeeze_dim(2)?.f_to_kind(old.f_kind()?)?)
    })
}
