//! The network families: one file each, listed in [`Network`].
//!
//! A family is a serde struct with its parameters and an implementation of [`Family`] that
//! describes its layers. To add one: write its file, add its variant to [`Network`] and to
//! `Network::family`, and its torchvision names to [`Network::by_name`].

mod mobilenet_v2;
mod quantized_resnet;
mod resnet;
mod resnext;

use std::fmt;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::mobilenet_v2::MobileNetV2;
pub use self::quantized_resnet::{QuantizedMode, QuantizedResNet};
pub use self::resnet::ResNet;
pub use self::resnext::ResNeXt;
use crate::nn::compute::ComputeHints;
use crate::nn::field_error::{self, FieldError};
use crate::nn::layers::{Conv, Layer, Padding, cost};
use crate::nn::parameters::Init;

/// The network to train, as a recipe names it: `ResNet(depth: 50)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Network {
    /// Residual networks of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    ResNet(ResNet),
    /// Residual networks with grouped convolutions: Xie et al., "Aggregated Residual
    /// Transformations for Deep Neural Networks", CVPR 2017.
    ResNeXt(ResNeXt),
    /// Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    MobileNetV2(MobileNetV2),
    /// Residual networks with quantized weights, or weights and activations: Zhang et al.,
    /// "LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks", ECCV
    /// 2018.
    QuantizedResNet(QuantizedResNet),
}

/// RON, as in a recipe.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::ResNet(ResNet { depth, width: 64 }) => write!(f, "ResNet(depth: {depth})"),
            Network::ResNet(ResNet { depth, width }) => {
                write!(f, "ResNet(depth: {depth}, width: {width})")
            }
            Network::ResNeXt(ResNeXt { depth }) => write!(f, "ResNeXt(depth: {depth})"),
            Network::MobileNetV2(MobileNetV2 { width }) => {
                write!(f, "MobileNetV2(width: {width:?})")
            }
            Network::QuantizedResNet(network) => network.fmt(f),
        }
    }
}

/// A network family.
pub trait Family {
    /// The errors in its fields.
    fn check(&self) -> Vec<FieldError>;

    /// The layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`. Called
    /// only if [`Family::check`] finds no error.
    fn layers(&self, classes: i64) -> Vec<Layer>;

    /// The reference implementation's path of the layer `path`; by default the same.
    fn reference_path(&self, path: &str) -> String {
        path.to_owned()
    }

    /// timm's path of the layer `path`; by default the same, which is torchvision's.
    fn timm_path(&self, path: &str) -> String {
        path.to_owned()
    }
}

/// A convolution with padding kernel / 2. The initialization is Kaiming normal with fan-out
/// kernel^2 * out_channels, not divided by the groups: PyTorch's for residual networks, and the
/// reference's for MobileNetV2, depthwise convolutions included.
fn conv(
    name: &str,
    in_channels: i64,
    out_channels: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
) -> Layer {
    let fan_out = kernel * kernel * out_channels;
    Layer::Conv(Conv {
        name: name.to_owned(),
        in_channels,
        out_channels,
        kernel,
        stride,
        padding: Padding::Symmetric(kernel / 2),
        groups,
        init: Init::Normal((2.0 / fan_out as f64).sqrt()),
        bits: None,
    })
}

/// A batch norm with initial gamma 1.
fn batch_norm(name: &str, channels: i64) -> Layer {
    Layer::BatchNorm {
        name: name.to_owned(),
        channels,
        gamma: 1.0,
    }
}

/// timm's width multiplier: three digits, in percent.
fn percent(digits: &str) -> Option<f64> {
    let is_number = digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let percent: u32 = digits.parse().ok().filter(|_| is_number)?;
    Some(f64::from(percent) / 100.0)
}

impl Network {
    fn family(&self) -> &dyn Family {
        match self {
            Network::ResNet(family) => family,
            Network::ResNeXt(family) => family,
            Network::MobileNetV2(family) => family,
            Network::QuantizedResNet(family) => family,
        }
    }

    /// The network of another program's name: torchvision's (`resnet50`,
    /// `resnext50_32x4d`, `mobilenet_v2`), timm's (`mobilenetv2_050`, `resnet50.a1_in1k`), the reference
    /// implementation's (`parallel_resnet50`, `parallel_mobilenetv2`). A width multiplier may follow
    /// (`mobilenetv2_x0.25`).
    pub fn by_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("parallel_").unwrap_or(name);
        // timm's tag of the weights, which begins with a letter.
        let name = match name.split_once('.') {
            Some((name, tag)) if tag.starts_with(|c: char| c.is_ascii_alphabetic()) => name,
            _ => name,
        };
        let network = match name {
            "resnext50_32x4d" => Network::ResNeXt(ResNeXt { depth: 50 }),
            "resnext101_32x8d" => Network::ResNeXt(ResNeXt { depth: 101 }),
            _ => {
                let mobile = ["mobilenetv2", "mobilenet_v2"];
                if let Some(rest) = mobile.iter().find_map(|known| name.strip_prefix(known)) {
                    let width = match rest.strip_prefix("_x") {
                        Some(width) => width.parse().ok()?,
                        None if rest.is_empty() => 1.0,
                        None => percent(rest.strip_prefix('_')?)?,
                    };
                    Network::MobileNetV2(MobileNetV2 { width })
                } else {
                    let depth = name.strip_prefix("resnet")?.parse().ok()?;
                    Network::ResNet(ResNet { depth, width: 64 })
                }
            }
        };
        network.check().is_empty().then_some(network)
    }

    /// Examples of names that [`Network::by_name`] accepts, for messages.
    pub const NAMES: &str = "resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, \
                             resnext101_32x8d, mobilenet_v2, mobilenet_v2_x0.5, mobilenetv2_050";

    /// The reference implementation's path of the layer `path`.
    pub fn reference_path(&self, path: &str) -> String {
        self.family().reference_path(path)
    }

    /// timm's path of the layer `path`.
    pub fn timm_path(&self, path: &str) -> String {
        self.family().timm_path(path)
    }

    /// float32 if it is quantized, since a lower precision would round the levels; slow in bfloat16 on
    /// processors if it has depthwise convolutions; channels-last if more than half of its convolutions
    /// are 1x1.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn hints(&self) -> Result<ComputeHints> {
        let quantized = self.is_quantized();
        let layers = self.layers(1)?;
        Ok(ComputeHints {
            float32: quantized,
            slow_bfloat16: cost::has_depthwise(&layers),
            channels_last: !quantized && cost::is_mostly_pointwise(&layers),
        })
    }

    /// The network with the width of tensors whose shapes are known, by our names, if its own width
    /// is the default one and some width fits.
    pub fn with_width_of(&self, shape_of: impl Fn(&str) -> Option<Vec<i64>>) -> Self {
        let rows = |name: &str| shape_of(name)?.first().copied();
        let width = match self {
            Network::ResNet(ResNet { depth, width }) if *width == resnet::default_width() => {
                let width = rows("conv1.weight").and_then(|rows| rows.try_into().ok());
                width.map(|width| {
                    let depth = *depth;
                    Network::ResNet(ResNet { depth, width })
                })
            }
            Network::MobileNetV2(MobileNetV2 { width: 1.0 }) => {
                let width = MobileNetV2::width_of(rows);
                width.map(|width| Network::MobileNetV2(MobileNetV2 { width }))
            }
            _ => None,
        };
        let valid = width.filter(|network| network.check().is_empty());
        valid.unwrap_or_else(|| self.clone())
    }

    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        self.family().check()
    }

    /// The layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`.
    ///
    /// # Errors
    /// Those of [`Network::check`]; zero classes.
    pub fn layers(&self, classes: u32) -> Result<Vec<Layer>> {
        field_error::ensure_valid(&self.check())?;
        ensure!(classes > 0, "a network needs at least one class");
        Ok(self.family().layers(i64::from(classes)))
    }

    /// The values per channel that the batch norm of the smallest map gets of one image of `resolution` x
    /// `resolution` pixels. In training a variance needs two of all images together.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn least_values(&self, resolution: u32) -> Result<u64> {
        let side = cost::min_batch_norm_side(&self.layers(1)?, resolution);
        Ok(side.unsigned_abs().pow(2))
    }

    /// Whether it can be initialized from the weights of `other`: the networks are equal, or
    /// residual networks of the same depth and width, quantized or not.
    pub fn can_start_from(&self, other: &Network) -> bool {
        let shape = |network: &Network| match network {
            Network::ResNet(network) => Some(network.clone()),
            Network::QuantizedResNet(network) => Some(network.in_full_precision()),
            Network::ResNeXt(_) | Network::MobileNetV2(_) => None,
        };
        self == other || shape(self).is_some_and(|this| Some(this) == shape(other))
    }

    pub fn is_quantized(&self) -> bool {
        matches!(self, Network::QuantizedResNet(network) if network.is_quantized())
    }

    /// Whether it computes the same function of the same parameters as `other`. Options that matter
    /// for training only (`fixed_activation_basis`) may differ.
    pub fn is_compatible_with(&self, other: &Network) -> bool {
        let without_training_options = |network: &Network| {
            let mut network = network.clone();
            if let Network::QuantizedResNet(network) = &mut network {
                network.fixed_activation_basis = false;
            }
            network
        };
        without_training_options(self) == without_training_options(other)
    }

    /// Whether only the largest resolution updates the bases of activation quantizers.
    pub fn fixed_activation_basis(&self) -> bool {
        matches!(
            self,
            Network::QuantizedResNet(QuantizedResNet {
                fixed_activation_basis: true,
                ..
            })
        )
    }

    /// The smallest possible side of an image, in pixels: the product of all strides.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn min_resolution(&self) -> Result<u32> {
        Ok(cost::total_stride(&self.layers(1)?))
    }
}
