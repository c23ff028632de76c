//! The quantizer of a convolution's weight: codes -1 and +1, a basis for each output channel.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, no_grad};

use super::levels::{Fit, Levels};

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
    let smallest = 0.6745 * (2.0 / fan_out).sqrt() / 2_f64.powi(bits as i32 - 1);
    let channel: Vec<f64> = (0..bits as i32).map(|j| smallest * 2_f64.powi(j)).collect();
    Ok(Tensor::from_slice(&channel)
        .f_expand([output, bits], false)?
        .f_contiguous()?)
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
        let shape = weight.size();
        let output = shape.first().copied().unwrap_or_default();
        let at_levels = no_grad(|| {
            let values = weight.f_detach()?.f_view([output, -1])?;
            Levels::new(basis, -1.0)?.quantize(&values)
        })
        .context("the weight does not fit its basis")?;
        // The difference is 0, exactly; what is not finite stays so.
        let through = weight - weight.f_detach()?;
        Ok(Weights {
            quantized: at_levels.values.f_view(shape.as_slice())? + through,
            fit: at_levels.fit,
        })
    }

    /// The basis that is the nearest to the weight with the codes that it has now:
    /// `(B'B + eps I)^-1 (B'w + eps old)` for each channel, `[output, bits]`.
    pub fn fitted(&self, old: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let Fit { products, targets } = &self.fit;
            let (_, bits) = old.size2()?;
            let ridge = Tensor::f_eye(bits, (old.kind(), old.device()))? * RIDGE;
            let fitted = Tensor::f_linalg_solve(
                &(products + ridge).to_kind(Kind::Double),
                &(targets + old * RIDGE)
                    .to_kind(Kind::Double)
                    .f_unsqueeze(2)?,
                true,
            )?;
            Ok(fitted.f_squeeze_dim(2)?.to_kind(old.kind()))
        })
    }
}
