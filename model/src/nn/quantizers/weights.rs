//! The quantizer of a convolution's weight: codes -1 and +1, a basis for each output channel.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, no_grad};

use super::basis::QUARTILE;
use super::levels::{Fit, Levels};

/// The lower code.
pub(super) const LOW: f64 = -1.0;

/// Drawn towards the old basis by so much, a fit exists whatever the weights are. (Where all weights
/// of a channel are at few levels, it would not be the only one.)
const RIDGE: f64 = 1e-4;

/// The smallest element of the basis that a weight of `shape`, `[output, input, k, k]`, starts with;
/// each further one is twice as large.
///
/// In units of the upper quartile of a normal distribution of He's variance, `2 / (k * k * output)`,
/// as in the reference.
pub fn smallest(shape: [i64; 4], bits: i64) -> f64 {
    let [output, _, height, width] = shape;
    let fan_out = (height * width * output) as f64;
    QUARTILE * (2.0 / fan_out).sqrt() / 2_f64.powi(bits as i32 - 1)
}

/// The levels of `basis`, `[output, bits]`.
///
/// # Errors
/// More bits than [`BITS`](super::BITS), or none.
pub fn levels(basis: &Tensor) -> Result<Levels> {
    Levels::new(basis, LOW).context("no quantizer of weights")
}

/// The basis that is the nearest to the weight with the codes that it has now:
/// `(B'B + eps I)^-1 (B'w + eps old)` for each channel, `[output, bits]`.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn fitted(fit: &Fit, old: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let Fit { products, targets } = fit;
        let (_, bits) = old.size2()?;
        let ridge = Tensor::f_eye(bits, (Kind::Double, old.device()))?.f_mul_scalar(RIDGE)?;
        let drawn = old.f_to_kind(Kind::Double)?.f_unsqueeze(2)?;
        let system = products.f_add(&ridge)?;
        let right = targets.f_add(&drawn.f_mul_scalar(RIDGE)?)?;
        let (fitted, _) = Tensor::f_linalg_solve_ex(&system, &right, true, false)?;
        Ok(fitted.f_squeeze_dim(2)?.f_to_kind(old.f_kind()?)?)
    })
}
