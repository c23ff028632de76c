//! The layers of which networks are made, and the one interpreter that runs them.
//!
//! A network family is a function that returns a list of [`Layer`]s: plain data. Everything else
//! is derived from that list, here and once for all families: the parameters ([`declare`]), the
//! multiply-adds and the smallest image ([`cost`]), the forward pass ([`Modules`]). Private batch
//! norm is here too: a [`Layer::Norm`] becomes one batch norm per resolution, and the pass is told
//! which one to use. So are the learned quantizers, which all resolutions share: a pass puts values
//! at the levels of their bases as they stand, and moves the bases when it is over ([`Pass`]).

pub mod cost;
mod modules;

pub use modules::{Modules, Pass};

use crate::nn::parameters::{Declaration, Init, Role};
use crate::nn::quantizers::{activations, weights};

/// Added to the variance by every batch norm, as in the reference.
pub const NORM_EPSILON: f64 = 1e-5;
/// The share of the new batch in the running statistics, as in the reference.
pub const NORM_MOMENTUM: f64 = 0.1;

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Batch norms use the batch's statistics and update the running ones.
    Train,
    /// The same without a gradient, to measure the running statistics anew: in the end they are
    /// the mean of all batches, each weighed by its images.
    Calibrate {
        /// The share of this batch's images among all up to it; 1 for the first.
        share: f64,
    },
    /// Batch norms use the running statistics.
    Evaluate,
}

/// A convolution without bias, on `[batch, input, height, width]`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Its path, `layer1.0.conv1`.
    pub name: String,
    /// Input channels.
    pub input: i64,
    /// Output channels.
    pub output: i64,
    /// The side of the square kernel.
    pub kernel: i64,
    /// The step in both directions.
    pub stride: i64,
    /// Zeros around the input.
    pub padding: Padding,
    /// Groups; input and output are multiples of it.
    pub groups: i64,
    /// The first values of the weight.
    pub init: Init,
    /// The weight is quantized to so many bits; `None` leaves it as it is.
    pub bits: Option<u32>,
}

/// What is added around a map before a window moves over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// As much on each side.
    Each(i64),
    /// As much as the output of side `input / stride`, rounded up, needs; if that is odd, one more on
    /// the right and at the bottom. TensorFlow's `SAME`.
    Same,
}

impl Padding {
    /// How much is added before and behind `side` values.
    pub fn around(self, side: i64, kernel: i64, stride: i64) -> (i64, i64) {
        match self {
            Padding::Each(padding) => (padding, padding),
            Padding::Same => {
                let output = (side + stride - 1) / stride;
                let all = ((output - 1) * stride + kernel - side).max(0);
                (all / 2, all - all / 2)
            }
        }
    }

    /// The side of the output.
    pub fn output(self, side: i64, kernel: i64, stride: i64) -> i64 {
        let (before, behind) = self.around(side, kernel, stride);
        (side + before + behind - kernel) / stride + 1
    }
}

/// The classifier, on `[batch, input]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Its path, `fc`.
    pub name: String,
    /// Input features.
    pub input: i64,
    /// Output features.
    pub output: i64,
    /// The first values of the weight.
    pub weight: Init,
    /// The first values of the bias.
    pub bias: Init,
}

/// A step of a network. A list of them is a network, or a branch of one.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A convolution; its weight is shared by all resolutions.
    Conv(Conv),
    /// A batch norm, private to each resolution. Starts with beta 0, mean 0, variance 1.
    Norm {
        /// Its path, `layer1.0.bn1`.
        name: String,
        /// Channels.
        channels: i64,
        /// What gamma starts with, 1 as a rule.
        gamma: f64,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// max(x, 0) at the nearest level of a learned basis, which all resolutions share. Its gradient is
    /// that of min(max(x, 0), top level).
    QuantizedRelu {
        /// Its path, `layer1.0.quant1`.
        name: String,
        /// Its bits.
        bits: u32,
    },
    /// The maximum of each window.
    MaxPool {
        /// The side of the square window.
        kernel: i64,
        /// The step in both directions.
        stride: i64,
        /// Implicit minus infinity around the input.
        padding: Padding,
    },
    /// The mean of each of the squares into which the map is cut; of what there is of it at the right
    /// and at the bottom.
    AveragePool {
        /// The side of a square.
        side: i64,
    },
    /// Zeros as further channels, behind those that there are.
    PadChannels {
        /// So many.
        more: i64,
    },
    /// branch(x) + shortcut(x).
    Residual {
        /// The long way; at least one layer.
        branch: Vec<Layer>,
        /// The short way; empty is the identity.
        shortcut: Vec<Layer>,
    },
    /// The mean over height and width: `[batch, channels, height, width]` to `[batch, channels]`.
    GlobalAveragePool,
    /// The classifier; shared by all resolutions.
    Linear(Linear),
}

impl Mode {
    /// The share of this batch in the running statistics.
    fn momentum(self) -> f64 {
        match self {
            Mode::Train | Mode::Evaluate => NORM_MOMENTUM,
            Mode::Calibrate { share } => share,
        }
    }
}

/// The tensors that a list of layers needs, with the batch norms of these resolutions; one that is
/// named several times is there once.
pub fn declare(layers: &[Layer], norms: &[u32]) -> Vec<Declaration> {
    let resolutions = distinct(norms);
    let mut declarations = Vec::new();
    let mut push = |name: String, role, resolution, shape: &[i64], init| {
        declarations.push(Declaration {
            name,
            role,
            resolution,
            shape: shape.to_vec(),
            init,
        });
    };
    visit(layers, &mut |layer| match layer {
        Layer::Conv(c) => {
            let shape = [c.output, c.input / c.groups, c.kernel, c.kernel];
            push(
                format!("{}.weight", c.name),
                Role::ConvWeight,
                None,
                &shape,
                c.init,
            );
            if let Some(bits) = c.bits {
                let smallest = weights::smallest(shape, bits.into());
                let shape = [c.output, bits.into()];
                for (part, role, shape, init) in basis_parts(smallest, shape) {
                    push(format!("{}.{part}", c.name), role, None, &shape, init);
                }
            }
        }
        Layer::QuantizedRelu { name, bits } => {
            let smallest = activations::smallest((*bits).into());
            for (part, role, shape, init) in basis_parts(smallest, [1, (*bits).into()]) {
                push(format!("{name}.{part}"), role, None, &shape, init);
            }
        }
        Layer::Norm {
            name,
            channels,
            gamma,
        } => {
            for &resolution in &resolutions {
                for (part, role, init) in norm_parts(*gamma) {
                    let name = format!("{name}.{resolution}.{part}");
                    push(name, role, Some(resolution), &[*channels], init);
                }
            }
        }
        Layer::Linear(l) => {
            let shape = [l.output, l.input];
            push(
                format!("{}.weight", l.name),
                Role::LinearWeight,
                None,
                &shape,
                l.weight,
            );
            push(
                format!("{}.bias", l.name),
                Role::LinearBias,
                None,
                &shape[..1],
                l.bias,
            );
        }
        Layer::Relu
        | Layer::Relu6
        | Layer::MaxPool { .. }
        | Layer::AveragePool { .. }
        | Layer::PadChannels { .. }
        | Layer::Residual { .. }
        | Layer::GlobalAveragePool => {}
    });
    declarations
}

/// Each value once, in the order in which they come first.
fn distinct(values: &[u32]) -> Vec<u32> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(value) {
            distinct.push(*value);
        }
    }
    distinct
}

fn norm_parts(gamma: f64) -> [(&'static str, Role, Init); 4] {
    [
        ("weight", Role::NormWeight, Init::Constant(gamma)),
        ("bias", Role::NormBias, Init::Constant(0.0)),
        ("running_mean", Role::NormMean, Init::Constant(0.0)),
        ("running_var", Role::NormVar, Init::Constant(1.0)),
    ]
}

/// The path of a convolution whose weight it is, and the name of the basis that it has if it is
/// quantized.
pub(crate) fn basis_of(role: Role, weight: &str) -> Option<(&str, String)> {
    let path = weight.strip_suffix(".weight")?;
    (role == Role::ConvWeight).then(|| (path, format!("{path}.basis")))
}

/// The tensors of a [`Basis`](crate::nn::quantizers::Basis) of `shape`, `[quantizers, bits]`.
fn basis_parts(smallest: f64, shape: [i64; 2]) -> [(&'static str, Role, Vec<i64>, Init); 3] {
    let zero = Init::Constant(0.0);
    let (basis, average, updates) = (Role::Basis, Role::BasisAverage, Role::BasisUpdates);
    [
        ("basis", basis, shape.to_vec(), Init::Doubling(smallest)),
        ("basis_average", average, shape.to_vec(), zero),
        ("basis_updates", updates, vec![1], zero),
    ]
}

/// Calls `look` with every layer, those inside branches included, in the order of the pass.
fn visit(layers: &[Layer], look: &mut impl FnMut(&Layer)) {
    for layer in layers {
        look(layer);
        if let Layer::Residual { branch, shortcut } = layer {
            visit(branch, look);
            visit(shortcut, look);
        }
    }
}
