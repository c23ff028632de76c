//! Batch norms folded into the convolutions before them, for inference on the CPU.

use std::cell::OnceCell;

use anyhow::{Context as _, Result};
use tch::{Kind, Tensor, no_grad};

use super::Conv;
use crate::nn::kernels::{BatchNorm, PackedConvolution};

/// Batches from here on are large.
const LARGE: i64 = 8;

/// For each resolution and each shared weight, the convolution with the batch norm that follows it: one
/// operator that also adds the residual and applies the activation. Each is made when it is first used, in
/// the layout that oneDNN likes best for the images of that call: one for small batches and one for others, for
/// either is slow with the other's (MobileNetV2 at 96 pixels, one image: three times as long).
///
/// With s = gamma / sqrt(variance + epsilon), the weight is s times that of the convolution, computed in double
/// precision and rounded once to the compute dtype, as the bias beta - s mean. Logits in float32 differ from those
/// of separate layers by some 1e-6 of the largest, in bfloat16 by as much as those differ from float32.
#[derive(Debug)]
pub(super) struct Folded {
    cells: Vec<Vec<[OnceCell<PackedConvolution>; 2]>>,
    epsilon: f64,
    dtype: Kind,
}

impl Folded {
    pub(super) fn new(resolutions: usize, weights: usize, epsilon: f64, dtype: Kind) -> Self {
        let empty = || (0..weights).map(|_| Default::default()).collect();
        Folded {
            cells: (0..resolutions).map(|_| empty()).collect(),
            epsilon,
            dtype,
        }
    }

    /// The convolution of the shared weight at `index`, which is `weight`, with this batch norm of this
    /// resolution. `images` are those that it will get, and `padding` is on all sides.
    pub(super) fn get(
        &self,
        (resolution, index): (usize, usize),
        conv: &Conv,
        weight: &Tensor,
        norm: &BatchNorm,
        (images, padding): (&Tensor, i64),
    ) -> Result<&PackedConvolution> {
        let cell = self.cells.get(resolution).and_then(|of| of.get(index));
        let cells = cell.context("a weight that was not there when the network was folded")?;
        let cell = &cells[usize::from(images.size4()?.0 >= LARGE)];
        if let Some(packed) = cell.get() {
            return Ok(packed);
        }
        let (weight, bias) = no_grad(|| self.fold(weight, norm))?;
        let geometry = (padding, conv.stride, conv.groups);
        let packed = PackedConvolution::new(&weight, Some(bias), images, geometry)?;
        Ok(cell.get_or_init(|| packed))
    }

    fn fold(&self, weight: &Tensor, norm: &BatchNorm) -> Result<(Tensor, Tensor)> {
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        let deviation = double(&norm.running_var)?
            .f_add_scalar(self.epsilon)?
            .f_sqrt()?;
        let scale = double(&norm.weight)?.f_div(&deviation)?;
        let bias = double(&norm.bias)?.f_sub(&scale.f_mul(&double(&norm.running_mean)?)?)?;
        let weight = double(weight)?.f_mul(&scale.f_reshape([-1, 1, 1, 1])?)?;
        Ok((weight.f_to_kind(self.dtype)?, bias.f_to_kind(self.dtype)?))
    }
}
