//! The quantizer of a convolution's weight: codes -1 and +1, a basis for each output channel.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, no_grad};

use super::basis::{QUARTILE, powers_of_two};
use super::levels::{Fit, Levels, with_gradient_of};

/// Drawn towards the old basis by so much, a fit exists whatever the weights are. (Where all weights
/// of a channel are at few levels, it would not be the only one.)
const RIDGE: f64 = 1e-4;

/// The basis to start with for a weight of `shape`, `[output, input, k, k]`: `[output, bits]`.
///
/// Powers of two by the upper quartile of a normal distribution of He's variance, `2 / (k * k *
/// output)`, as in the reference.
pub fn weight_basis(shape: &[i64], bits: i64) -> Result<Tensor> {
    let [output, _, height, width] = *shape else {
        anyhow::bail!("a convolution's weight has four dimensions, not {shape:?}");
    };
    let fan_out = (height * width * output) as f64;
    let smallest = QUARTILE * (2.0 / fan_out).sqrt() / 2_f64.powi(bits as i32 - 1);
    let channel = powers_of_two(smallest, bits);
    Ok(channel.f_expand([output, bits], false)?.f_contiguous()?)
}

/// A quantized weight.
#[derive(Debug)]
pub struct Weights {
    /// `[output, input, k, k]`, each at a level of its channel. Its gradient is the weight's, straight
    /// through.
    pub quantized: Tensor,
    fit: Fit,
}

impl Weights {
    /// `weight`, `[output, input, k, k]`, at the levels of `basis`, `[output, bits]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or more bits than [`BITS`](super::BITS).
    pub fn new(weight: &Tensor, basis: &Tensor) -> Result<Self> {
        let output = weight.size().first().copied().unwrap_or_default();
        let at_levels = no_grad(|| {
            let values = weight.f_detach()?.f_view([output, -1])?;
            Levels::new(basis, -1.0)?.quantize(&values)
        })
        .context("the weight does not fit its basis")?;
        Ok(Weights {
            quantized: with_gradient_of(weight, &at_levels.values)?,
            fit: at_levels.fit,
        })
    }

    /// The basis that is the nearest to the weight with the codes that it has now:
    /// `(B'B + eps I)^-1 (B'w + eps old)` for each channel, `[output, bits]`.
    pub fn fitted(&self, old: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let Fit { products, targets } = &self.fit;
            let (_, bits) = old.size2()?;
            let ridge = Tensor::f_eye(bits, (Kind::Double, old.device()))? * RIDGE;
            let drawn = old.to_kind(Kind::Double).f_unsqueeze(2)? * RIDGE;
            let fitted = Tensor::f_linalg_solve(&(products + ridge), &(targets + drawn), true)?;
            Ok(fitted.f_squeeze_dim(2)?.to_kind(old.kind()))
        })
    }
}
