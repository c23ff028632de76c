//! Layers as plain data, and the interpreter that runs them.
//!
//! A network family is a function that returns a list of [`Layer`]s. Everything else is derived
//! from that list, once for all families: the parameters ([`declare`]), the multiply-adds and the
//! smallest image ([`cost`]), the forward pass ([`Modules`]). A [`Layer::BatchNorm`] becomes one
//! private batch norm per resolution, and the forward pass gets the index of the one to use.
//! Quantizers are shared by all resolutions: a [`Pass`] quantizes with the bases it began with, and
//! updates them at its end.

pub mod cost;
mod divided;
mod drops;
mod folded;
mod inverted;
mod modules;
mod norms;
mod pass;

pub use divided::images_of_pass;
pub use drops::{Drops, droppable, factors};
pub use folded::folds;
pub use modules::Modules;
pub use norms::{Affine, NormOptions, Norms};
pub(crate) use norms::{default_epsilon, default_momentum};
pub use pass::Pass;

use crate::nn::kernels::JointSum;
use crate::nn::parameters::{Declaration, Init, Role};
use crate::nn::quantizers::{activations, weights};

/// What the statistics of batch norms are in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Those of the batch, which also update the running statistics.
    Train,
    /// The same without a gradient and with `share` as the momentum, to recompute the running
    /// statistics: after the last batch they are the mean over all images.
    Calibrate {
        /// The fraction of this batch's images among all images so far, in (0, 1]; 1 for the first
        /// batch. 0 leaves the running statistics unchanged.
        share: f64,
    },
    /// The running statistics.
    Evaluate,
}

/// A convolution without bias, on `[batch, in_channels, height, width]`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Its path, `layer1.0.conv1`.
    pub name: String,
    pub in_channels: i64,
    pub out_channels: i64,
    /// The side of the square kernel, in pixels.
    pub kernel: i64,
    pub stride: i64,
    pub padding: Padding,
    /// Both numbers of channels are multiples of it.
    pub groups: i64,
    pub init: Init,
    /// Bits of the quantized weight; `None`: not quantized.
    pub bits: Option<u32>,
}

/// The padding of a convolution or a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// This many pixels on all four sides, as in PyTorch.
    Symmetric(i64),
    /// TensorFlow's `SAME`: as many as an output of side ceil(side / stride) needs. An odd number
    /// has one more on the right and at the bottom.
    Same,
}

impl Conv {
    /// Whether each channel is filtered by itself.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }
}

impl Padding {
    /// Pixels added before (left, top) and after (right, bottom) a side.
    pub fn amounts(self, side: i64, kernel: i64, stride: i64) -> (i64, i64) {
        match self {
            Padding::Symmetric(padding) => (padding, padding),
            Padding::Same => {
                let output = (side + stride - 1) / stride;
                let total = ((output - 1) * stride + kernel - side).max(0);
                (total / 2, total - total / 2)
            }
        }
    }

    /// The side of the output.
    pub fn output(self, side: i64, kernel: i64, stride: i64) -> i64 {
        let (before, after) = self.amounts(side, kernel, stride);
        (side + before + after - kernel) / stride + 1
    }
}

/// The classifier, on `[batch, in_features]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Its path, `fc`.
    pub name: String,
    pub in_features: i64,
    pub out_features: i64,
    pub weight_init: Init,
    pub bias_init: Init,
}

/// A layer. A list of them is a network, or a branch of one.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A convolution; its weight is shared by all resolutions.
    Conv(Conv),
    /// A batch norm, private to each resolution. Initially beta is 0, the running mean 0, the
    /// running variance 1.
    BatchNorm {
        /// Its path, `layer1.0.bn1`.
        name: String,
        channels: i64,
        /// The initial value of gamma, usually 1.
        gamma: f64,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// max(x, 0), quantized to the levels of a learned basis that all resolutions share. The
    /// gradient is that of min(max(x, 0), top level).
    QuantizedRelu {
        /// Its path, `layer1.0.quant1`.
        name: String,
        bits: u32,
    },
    /// Padded with minus infinity.
    MaxPool {
        kernel: i64,
        stride: i64,
        padding: Padding,
    },
    /// Average pooling with `stride = kernel`. Windows at the right and the bottom may reach over
    /// the edge; pixels beyond it do not count.
    AveragePool { kernel: i64 },
    /// Appends `added` channels of zeros.
    PadChannels { added: i64 },
    /// branch(x) + shortcut(x).
    Residual {
        /// At least one layer.
        branch: Vec<Layer>,
        /// Empty: the identity.
        shortcut: Vec<Layer>,
    },
    /// `[batch, channels, height, width]` to `[batch, channels]`.
    GlobalAveragePool,
    /// The classifier; shared by all resolutions.
    Linear(Linear),
}

/// The images over which batch norms take their statistics in training.
#[derive(Clone, Debug)]
pub enum NormScope {
    /// Those of a batch.
    Batch,
    /// So many consecutive ones of a batch at a time; the last ones may be fewer.
    Groups(i64),
    /// Those of the batches of all processes.
    AllProcesses(JointSum),
}

/// The tensors of a list of layers, with these batch norms.
pub fn declare(layers: &[Layer], norms: &Norms) -> Vec<Declaration> {
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
            let shape = [c.out_channels, c.in_channels / c.groups, c.kernel, c.kernel];
            push(
                format!("{}.weight", c.name),
                Role::ConvWeight,
                None,
                &shape,
                c.init,
            );
            if let Some(bits) = c.bits {
                let first = weights::initial_basis(shape, bits.into());
                let shape = [c.out_channels, bits.into()];
                for (part, role, shape, init) in basis_tensors(first, shape) {
                    push(format!("{}.{part}", c.name), role, None, &shape, init);
                }
            }
        }
        Layer::QuantizedRelu { name, bits } => {
            let first = activations::initial_basis((*bits).into());
            for (part, role, shape, init) in basis_tensors(first, [1, (*bits).into()]) {
                push(format!("{name}.{part}"), role, None, &shape, init);
            }
        }
        Layer::BatchNorm {
            name,
            channels,
            gamma,
        } => {
            for (resolution, part, role, init) in norms.tensors(*gamma) {
                let name = norms.name(name, resolution.unwrap_or(0), part);
                push(name, role, resolution, &[*channels], init);
            }
        }
        Layer::Linear(l) => {
            let shape = [l.out_features, l.in_features];
            push(
                format!("{}.weight", l.name),
                Role::LinearWeight,
                None,
                &shape,
                l.weight_init,
            );
            push(
                format!("{}.bias", l.name),
                Role::LinearBias,
                None,
                &shape[..1],
                l.bias_init,
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

/// The names of the batch norms at the ends of residual branches.
pub(crate) fn residual_norms(layers: &[Layer]) -> Vec<String> {
    let mut names = Vec::new();
    visit(layers, &mut |layer| {
        if let Layer::Residual { branch, .. } = layer
            && let Some(Layer::BatchNorm { name, .. }) = branch.last()
        {
            names.push(name.clone());
        }
    });
    names
}

/// For the weight of a convolution, the convolution's path and the name of its basis, which exists
/// if it is quantized.
pub(crate) fn basis_name(role: Role, weight: &str) -> Option<(&str, String)> {
    let path = weight.strip_suffix(".weight")?;
    (role == Role::ConvWeight).then(|| (path, format!("{path}.basis")))
}

/// The tensors of a [`Basis`](crate::nn::quantizers::Basis) of `shape`, `[quantizers, bits]`.
fn basis_tensors(first: f64, shape: [i64; 2]) -> [(&'static str, Role, Vec<i64>, Init); 3] {
    let zero = Init::Constant(0.0);
    let (basis, average, updates) = (Role::Basis, Role::BasisAverage, Role::BasisUpdates);
    [
        ("basis", basis, shape.to_vec(), Init::PowersOfTwo(first)),
        ("basis_average", average, shape.to_vec(), zero),
        ("basis_updates", updates, vec![1], zero),
    ]
}

/// Calls `f` with every layer, those of branches and shortcuts included, in the order of the
/// forward pass.
fn visit(layers: &[Layer], f: &mut impl FnMut(&Layer)) {
    for layer in layers {
        f(layer);
        if let Layer::Residual { branch, shortcut } = layer {
            visit(branch, f);
            visit(shortcut, f);
        }
    }
}
