//! The network families: one file each, listed in [`Network`].
//!
//! A family is a serde struct with its parameters and an implementation of [`Family`] that
//! describes its layers. To add one: write its file, add its variant to [`Network`] and to
//! `Network::family`, and give it the names that it has elsewhere in [`Network::by_name`].

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
use crate::nn::compute::Suits;
use crate::nn::fault::{self, Fault};
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
    /// Residual networks whose weights, or weights and activations, are at a few learned levels:
    /// Zhang et al., "LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural
    /// Networks", ECCV 2018.
    QuantizedResNet(QuantizedResNet),
}

/// As a recipe has it.
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

/// What a network family has to say about itself.
pub trait Family {
    /// Every fault of its parameters; empty if there is none.
    fn check(&self) -> Vec<Fault>;

    /// Its layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`. Called
    /// only with parameters that [`Family::check`] finds no fault with.
    fn layers(&self, classes: i64) -> Vec<Layer>;

    /// The path that the reference implementation gives to the layer that is called `path` here;
    /// most are called the same.
    fn reference_path(&self, path: &str) -> String {
        path.to_owned()
    }
}

/// A convolution that keeps the side at stride 1. It starts Kaiming normal by the fan-out of its
/// weight's shape, which the groups do not divide: PyTorch's for residual networks, and the
/// reference's for MobileNetV2, depthwise ones included.
fn conv(name: &str, input: i64, output: i64, kernel: i64, stride: i64, groups: i64) -> Layer {
    let fan_out = kernel * kernel * output;
    Layer::Conv(Conv {
        name: name.to_owned(),
        input,
        output,
        kernel,
        stride,
        padding: Padding::Each(kernel / 2),
        groups,
        init: Init::Normal((2.0 / fan_out as f64).sqrt()),
        bits: None,
    })
}

/// A batch norm, as every family has them.
fn norm(name: &str, channels: i64) -> Layer {
    Layer::Norm {
        name: name.to_owned(),
        channels,
        gamma: 1.0,
    }
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

    /// The network of a name that is common elsewhere: torchvision's (`resnet50`,
    /// `resnext50_32x4d`, `mobilenet_v2`), the reference implementation's (`parallel_resnet50`,
    /// `parallel_mobilenetv2`). A width multiplier may follow (`mobilenetv2_x0.25`).
    pub fn by_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("parallel_").unwrap_or(name);
        let network = match name {
            "resnext50_32x4d" => Network::ResNeXt(ResNeXt { depth: 50 }),
            "resnext101_32x8d" => Network::ResNeXt(ResNeXt { depth: 101 }),
            _ => {
                let mobile = ["mobilenetv2", "mobilenet_v2"];
                if let Some(rest) = mobile.iter().find_map(|known| name.strip_prefix(known)) {
                    let width = match rest.strip_prefix("_x") {
                        Some(width) => width.parse().ok()?,
                        None => rest.is_empty().then_some(1.0)?,
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

    /// Names that [`Network::by_name`] knows, for messages.
    pub const NAMES: &str = "resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, \
                             resnext101_32x8d, mobilenet_v2, mobilenet_v2_x0.5";

    /// The path that the reference implementation gives to the layer that is called `path` here.
    pub fn reference_path(&self, path: &str) -> String {
        self.family().reference_path(path)
    }

    /// What suits it best to compute with. Float32 if it is quantized: levels are not to be rounded.
    /// Channels last if most of its convolutions are matrix products over the channels.
    ///
    /// # Errors
    /// Its parameters are wrong.
    pub fn suits(&self) -> Result<Suits> {
        let quantized = self.is_quantized();
        Ok(Suits {
            float32: quantized,
            channels_last: !quantized && cost::is_mostly_pointwise(&self.layers(1)?),
        })
    }

    /// Every fault of its parameters; empty if there is none.
    pub fn check(&self) -> Vec<Fault> {
        self.family().check()
    }

    /// Its layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`.
    ///
    /// # Errors
    /// The faults that [`Network::check`] finds, or no classes.
    pub fn layers(&self, classes: u32) -> Result<Vec<Layer>> {
        fault::ensure_none(&self.check())?;
        ensure!(classes > 0, "a network needs at least one class");
        Ok(self.family().layers(i64::from(classes)))
    }

    /// Whether a single image of `resolution` x `resolution` pixels gives every batch norm what it
    /// needs for a variance: two values of each channel.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn trains_on_one_image(&self, resolution: u32) -> Result<bool> {
        Ok(cost::smallest_normed_side(&self.layers(1)?, resolution) > 1)
    }

    /// Whether a network of this kind can be started from the weights of the other, as far as it has
    /// them: residual networks of one shape, whatever is quantized in them.
    pub fn can_start_from(&self, other: &Network) -> bool {
        let shape = |network: &Network| match network {
            Network::ResNet(network) => Some(network.clone()),
            Network::QuantizedResNet(network) => Some(network.in_full_precision()),
            Network::ResNeXt(_) | Network::MobileNetV2(_) => None,
        };
        self == other || shape(self).is_some_and(|this| Some(this) == shape(other))
    }

    /// Whether it has quantizers.
    pub fn is_quantized(&self) -> bool {
        matches!(self, Network::QuantizedResNet(network) if network.is_quantized())
    }

    /// Whether it computes what the other does. How it is trained may differ.
    pub fn computes_as(&self, other: &Network) -> bool {
        let computed = |network: &Network| {
            let mut network = network.clone();
            if let Network::QuantizedResNet(network) = &mut network {
                network.fixed_activation_basis = false;
            }
            network
        };
        computed(self) == computed(other)
    }

    /// Whether only the largest resolution moves the bases of activation quantizers.
    pub fn fixed_activation_basis(&self) -> bool {
        matches!(
            self,
            Network::QuantizedResNet(QuantizedResNet {
                fixed_activation_basis: true,
                ..
            })
        )
    }

    /// The smallest side of an image, in pixels: the product of all strides.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn min_resolution(&self) -> Result<u32> {
        Ok(cost::total_stride(&self.layers(1)?))
    }
}
