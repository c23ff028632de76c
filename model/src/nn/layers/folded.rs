//! Batch norms as a part of the convolutions before them, for inference on the CPU.

use std::cell::OnceCell;

use anyhow::{Context as _, Result};
use tch::{Kind, Tensor, no_grad};

use super::modules::Norm;
use super::pass::{Pass, pad_amounts, padded};
use super::{Conv, Mode, Padding};
use crate::nn::kernels::{
    Activation, BatchNorm, Convolution, Inverted, Normed, PackedConvolution, Place,
    convolution_sets, drop_buffers, get_or_make,
};

/// For each resolution and each shared weight, the convolution with the batch norm that follows it: one operator
/// that also adds the residual and applies the activation. Each is made when it is first used.
///
/// With s = gamma / sqrt(variance + epsilon), computed in double precision, the batch norm multiplies by s and
/// adds beta - s mean. Logits differ from those of separate layers by some 1e-6 of the largest in float32, and in
/// bfloat16 by as much as those differ from float32.
#[derive(Debug)]
pub(super) struct Folded {
    epsilon: f64,
    kind: Convolutions,
}

#[derive(Debug)]
enum Convolutions {
    /// Ours, in float32: the weight as it is, once for all resolutions and shapes, and for each resolution scale
    /// and shift, rounded to float32.
    Float {
        weights: Vec<OnceCell<Convolution>>,
        norms: Vec<Vec<OnceCell<(Tensor, Tensor)>>>,
    },
    /// oneDNN's, in bfloat16: for each resolution the weight, multiplied by s and rounded once, in the layout
    /// that oneDNN likes best for the images of the first call: one for small batches and one for others, for
    /// either is slow with the other's (MobileNetV2 at 96 pixels, one image: three times as long).
    Half(Vec<Vec<[OnceCell<PackedConvolution>; 2]>>),
}

const UNKNOWN: &str = "a weight that was not there when the network was folded";

/// What is added before the activation.
pub(super) enum Residual<'a> {
    /// The sum may take its place.
    Own(Tensor),
    Other(&'a Tensor),
}

impl Residual<'_> {
    pub(super) fn tensor(&self) -> &Tensor {
        match self {
            Residual::Own(tensor) => tensor,
            Residual::Other(tensor) => tensor,
        }
    }
}

/// The convolution of the shared weight at `index`, which is `weight`, and the batch norm of a resolution.
pub(super) struct At<'a> {
    pub(super) resolution: usize,
    pub(super) index: usize,
    pub(super) conv: &'a Conv,
    pub(super) weight: &'a Tensor,
    pub(super) norm: &'a BatchNorm,
    pub(super) activation: Activation,
}

/// The memory of its results, too.
impl Drop for Folded {
    fn drop(&mut self) {
        drop_buffers();
    }
}

impl Folded {
    /// For so many resolutions and weights; `None` if this processor lacks the instructions for that dtype.
    pub(super) fn new(
        resolutions: usize,
        weights: usize,
        epsilon: f64,
        dtype: Kind,
    ) -> Option<Self> {
        fn cells<T: Default>(count: usize) -> Vec<T> {
            (0..count).map(|_| T::default()).collect()
        }
        let kind = match dtype {
            Kind::Float if folds(dtype) => Convolutions::Float {
                weights: cells(weights),
                norms: (0..resolutions).map(|_| cells(weights)).collect(),
            },
            Kind::BFloat16 if folds(dtype) => {
                Convolutions::Half((0..resolutions).map(|_| cells(weights)).collect())
            }
            _ => return None,
        };
        Some(Folded { epsilon, kind })
    }

    /// Whether the convolutions are ours, in float32.
    pub(super) fn is_float(&self) -> bool {
        matches!(self.kind, Convolutions::Float { .. })
    }

    /// activation(norm(conv(x)) + residual).
    pub(super) fn run(
        &self,
        at: &At<'_>,
        x: &Tensor,
        residual: Option<Residual<'_>>,
    ) -> Result<Tensor> {
        let [rows, columns] = pad_amounts(x, at.conv.padding, at.conv.kernel, at.conv.stride)?;
        match &self.kind {
            Convolutions::Float { weights, norms } => {
                let of = self.normed(at, weights, norms)?;
                let residual = residual.as_ref().map(Residual::tensor);
                let place = place(at.conv, x)?;
                of.convolution
                    .run(x, place, of.norm, residual, of.activation)
            }
            Convolutions::Half(of) => {
                let (padded, [padding, _]) = padded(x, [rows, columns])?;
                let x = padded.as_ref().unwrap_or(x);
                let of = of.get(at.resolution).and_then(|of| of.get(at.index));
                let cell = &of.context(UNKNOWN)?[usize::from(is_large(x)?)];
                let packed = get_or_make(cell, || self.packed(at, x, padding))?;
                let own = match residual {
                    None => return packed.run(x, None, at.activation),
                    Some(Residual::Own(own)) => own,
                    Some(Residual::Other(tensor)) => tensor.f_detach_copy()?,
                };
                if at.activation != Activation::Relu6 {
                    return packed.run(x, Some(own), at.activation);
                }
                let mut sum = packed.run(x, Some(own), Activation::None)?;
                at.activation.apply_(&mut sum)?;
                Ok(sum)
            }
        }
    }

    /// The block of those convolutions in one, or `None` if they are to be run one after the other: the values are
    /// the same.
    pub(super) fn inverted(
        &self,
        expand: Option<&At<'_>>,
        [depthwise, project]: [&At<'_>; 2],
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let Convolutions::Float { weights, norms } = &self.kind else {
            return Ok(None);
        };
        let place = place(depthwise.conv, x)?;
        if !suits_rows(depthwise.conv, x, place)? {
            return Ok(None);
        }
        let normed = |at: &At<'_>| self.normed(at, weights, norms);
        let block = Inverted {
            expand: expand.map(normed).transpose()?,
            depthwise: normed(depthwise)?,
            project: normed(project)?,
        };
        Ok(Some(block.run(x, place, residual)?))
    }

    /// Ours, in float32, with the batch norm.
    fn normed<'a>(
        &self,
        at: &At<'_>,
        weights: &'a [OnceCell<Convolution>],
        norms: &'a [Vec<OnceCell<(Tensor, Tensor)>>],
    ) -> Result<Normed<'a>> {
        let weight = weights.get(at.index).context(UNKNOWN)?;
        let convolution = get_or_make(weight, || {
            Convolution::new(0, at.weight, at.conv.stride, at.conv.groups)
        })?;
        let of = norms.get(at.resolution).and_then(|of| of.get(at.index));
        let (scale, shift) = get_or_make(of.context(UNKNOWN)?, || {
            let (scale, shift) = self.scale_and_shift(at.norm)?;
            let rounded = |tensor: Tensor| tensor.f_to_kind(Kind::Float);
            Ok((rounded(scale)?, rounded(shift)?))
        })?;
        Ok(Normed {
            convolution,
            norm: (scale, shift),
            activation: at.activation,
        })
    }

    /// The classifier on `[batch, features]`, with the bias `[classes]`; `None` if libtorch's is used. With ours,
    /// an image's logits are the same in every batch, bit for bit.
    pub(super) fn linear(
        &self,
        index: usize,
        (weight, bias): (&Tensor, &Tensor),
        x: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Convolutions::Float { weights, norms } = &self.kind else {
            return Ok(None);
        };
        let as_image = |tensor: &Tensor| {
            let (rows, columns) = tensor.size2()?;
            tensor.f_reshape([rows, columns, 1, 1])
        };
        let weight = get_or_make(weights.get(index).context(UNKNOWN)?, || {
            Convolution::new(0, &as_image(weight)?, 1, 1)
        })?;
        // The same for all resolutions.
        let norm = norms.first().and_then(|of| of.get(index));
        let (scale, shift) = get_or_make(norm.context(UNKNOWN)?, || {
            Ok((bias.f_ones_like()?, bias.f_detach_copy()?))
        })?;
        let place = Place {
            padding: [0, 0],
            output: [1, 1],
        };
        let norm = (scale, shift);
        let y = weight.run(&as_image(x)?, place, norm, None, Activation::None)?;
        Ok(Some(y.f_flatten(1, -1)?))
    }

    /// Of a batch norm, in double precision, `[channels]` each.
    fn scale_and_shift(&self, norm: &BatchNorm) -> Result<(Tensor, Tensor)> {
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        no_grad(|| {
            let variance = double(&norm.running_var)?.f_add_scalar(self.epsilon)?;
            let scale = double(&norm.weight)?.f_div(&variance.f_sqrt()?)?;
            let mean = scale.f_mul(&double(&norm.running_mean)?)?;
            let shift = double(&norm.bias)?.f_sub(&mean)?;
            Ok((scale, shift))
        })
    }

    fn packed(&self, at: &At<'_>, x: &Tensor, padding: i64) -> Result<PackedConvolution> {
        let (scale, shift) = self.scale_and_shift(at.norm)?;
        let weight = no_grad(|| {
            let weight = at.weight.f_to_kind(Kind::Double)?;
            weight.f_mul(&scale.f_reshape([-1, 1, 1, 1])?)
        })?;
        let rounded = |tensor: &Tensor| tensor.f_to_kind(Kind::BFloat16);
        let geometry = (padding, at.conv.stride, at.conv.groups);
        PackedConvolution::new(&rounded(&weight)?, Some(rounded(&shift)?), x, geometry)
    }
}

impl Pass<'_> {
    /// The folded convolutions, if this pass uses them.
    pub(super) fn folded(&self) -> Option<&Folded> {
        let folded = self.modules.folded.as_ref();
        folded.filter(|_| self.mode == Mode::Evaluate)
    }

    /// A convolution with the batch norm and the activation that follow it, and with what is added in between.
    pub(super) fn folded_conv(
        &self,
        (conv, index): (&Conv, usize),
        norm: &Norm,
        x: &Tensor,
        residual: Option<Residual<'_>>,
        resolution: usize,
    ) -> Result<Tensor> {
        let folded = self.folded().context("the network is not folded")?;
        folded.run(&self.at((conv, index), norm, resolution), x, residual)
    }

    pub(super) fn at<'a>(
        &'a self,
        (conv, index): (&'a Conv, usize),
        norm: &'a Norm,
        resolution: usize,
    ) -> At<'a> {
        At {
            resolution,
            index,
            conv,
            // As trained, not rounded yet.
            weight: &self.modules.shared.weights[index].tensor,
            norm: &norm.by_resolution[resolution],
            activation: norm.activation,
        }
    }
}

/// Where a convolution of `x` is computed.
fn place(conv: &Conv, x: &Tensor) -> Result<Place> {
    let [rows, columns] = pad_amounts(x, conv.padding, conv.kernel, conv.stride)?;
    let (_, _, height, width) = x.size4()?;
    let output = |side| Padding::output(conv.padding, side, conv.kernel, conv.stride);
    Ok(Place {
        padding: [rows.0, columns.0],
        output: [height, width].map(output),
    })
}

/// Whether a block is faster row by row: if its larger map does not stay in a core's cache, and threads have enough
/// rows each.
fn suits_rows(depthwise: &Conv, x: &Tensor, place: Place) -> Result<bool> {
    const VALUES: i64 = 1 << 16;
    // As `BLOCK` in `native/cpu/convolution.h`.
    const INPUTS: i64 = 512;
    const ROWS: i64 = 8;
    let (batch, channels, height, width) = x.size4()?;
    let rows = batch.saturating_mul(place.output[0]);
    Ok(channels.max(depthwise.in_channels) <= INPUTS
        && height
            .saturating_mul(width)
            .saturating_mul(depthwise.in_channels)
            >= VALUES
        && rows >= ROWS * i64::from(tch::get_num_threads()))
}

/// Whether this processor has the instructions.
pub fn folds(dtype: Kind) -> bool {
    match dtype {
        Kind::Float => convolution_sets() > 0,
        Kind::BFloat16 => has_bfloat16(),
        _ => false,
    }
}

fn is_large(images: &Tensor) -> Result<bool> {
    Ok(images.size4()?.0 >= 8)
}

/// Whether oneDNN has operators with an activation and a residual for bfloat16 on this processor.
fn has_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return tch::utils::has_mkldnn()
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512dq");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
