//! The layers of which networks are made, and the one interpreter that runs them.
//!
//! A network family is a function that returns a list of [`Layer`]s: plain data. Everything else
//! is derived from that list, here and once for all families: the parameters, the multiply-adds,
//! the smallest image, the forward pass. Private batch norm is here too: a [`Layer::Norm`] becomes
//! one batch norm per resolution, and the pass is told which one to use.

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use crate::parameters::{Declaration, Init, Parameters, Role};

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
    /// Zeros added on each side.
    pub padding: i64,
    /// Groups; input and output are multiples of it.
    pub groups: i64,
    /// The first values of the weight.
    pub init: Init,
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
    /// A batch norm, private to each resolution. Starts with gamma 1, beta 0, mean 0, variance 1.
    Norm {
        /// Its path, `layer1.0.bn1`.
        name: String,
        /// Channels.
        channels: i64,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// The maximum of each window.
    MaxPool {
        /// The side of the square window.
        kernel: i64,
        /// The step in both directions.
        stride: i64,
        /// Implicit minus infinity on each side.
        padding: i64,
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
        }
        Layer::Norm { name, channels } => {
            for &resolution in &resolutions {
                for (part, role, init) in NORM_PARTS {
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

const NORM_PARTS: [(&str, Role, Init); 4] = [
    ("weight", Role::NormWeight, Init::Constant(1.0)),
    ("bias", Role::NormBias, Init::Constant(0.0)),
    ("running_mean", Role::NormMean, Init::Constant(0.0)),
    ("running_var", Role::NormVar, Init::Constant(1.0)),
];

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

/// The multiply-adds of one image of `resolution` x `resolution` pixels: those of convolutions and
/// classifier, as papers count them.
pub fn multiply_adds(layers: &[Layer], resolution: u32) -> u64 {
    cost(layers, i64::from(resolution)).1.unsigned_abs()
}

/// The side of what comes out of the layers, and their multiply-adds.
fn cost(layers: &[Layer], mut side: i64) -> (i64, i64) {
    let mut sum = 0;
    for layer in layers {
        match layer {
            Layer::Conv(c) => {
                side = (side + 2 * c.padding - c.kernel) / c.stride + 1;
                sum += side * side * c.output * (c.input / c.groups) * c.kernel * c.kernel;
            }
            Layer::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                side = (side + 2 * padding - kernel) / stride + 1;
            }
            Layer::Residual { branch, shortcut } => {
                let (short, long) = (cost(shortcut, side), cost(branch, side));
                side = long.0;
                sum += long.1 + short.1;
            }
            Layer::GlobalAveragePool => side = 1,
            Layer::Linear(l) => sum += l.input * l.output,
            Layer::Norm { .. } | Layer::Relu | Layer::Relu6 => {}
        }
    }
    (side, sum)
}

/// The side of the smallest map that a batch norm sees when the image has `resolution` x
/// `resolution` pixels.
pub fn smallest_normed_side(layers: &[Layer], resolution: u32) -> i64 {
    fn walk(layers: &[Layer], mut side: i64, smallest: &mut i64) -> i64 {
        for layer in layers {
            match layer {
                Layer::Norm { .. } => *smallest = (*smallest).min(side),
                Layer::Residual { branch, shortcut } => {
                    walk(shortcut, side, smallest);
                    side = walk(branch, side, smallest);
                }
                _ => side = cost(std::slice::from_ref(layer), side).0,
            }
        }
        side
    }
    let mut smallest = i64::MAX;
    walk(layers, i64::from(resolution), &mut smallest);
    smallest
}

/// By how much the layers shrink the side of an image: the product of their strides. An image
/// smaller than this leaves nothing but padding in the last layers.
pub fn total_stride(layers: &[Layer]) -> u32 {
    layers
        .iter()
        .map(|layer| match layer {
            Layer::Conv(c) => c.stride.unsigned_abs() as u32,
            Layer::MaxPool { stride, .. } => stride.unsigned_abs() as u32,
            Layer::Residual { branch, .. } => total_stride(branch),
            _ => 1,
        })
        .product()
}

/// A layer with its tensors.
#[derive(Debug)]
enum Module {
    Conv {
        conv: Conv,
        weight: Tensor,
    },
    Norm {
        name: String,
        by_resolution: Vec<Norm>,
    },
    Relu,
    Relu6,
    MaxPool {
        kernel: i64,
        stride: i64,
        padding: i64,
    },
    Residual {
        branch: Vec<Module>,
        shortcut: Vec<Module>,
    },
    GlobalAveragePool,
    Linear {
        name: String,
        weight: Tensor,
        bias: Tensor,
    },
}

/// One resolution's batch norm.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

/// A list of layers with its tensors, ready to run.
#[derive(Debug)]
pub struct Modules {
    modules: Vec<Module>,
    resolutions: usize,
}

impl Modules {
    /// Gives the layers their tensors, which [`declare`] declared. `norms` names the batch norm of
    /// each resolution; several may have the same.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn new(layers: &[Layer], norms: &[u32], parameters: &Parameters) -> Result<Self> {
        let modules = build(layers, norms, parameters)?;
        Ok(Self {
            modules,
            resolutions: norms.len(),
        })
    }

    /// Runs the layers on `[batch, channels, height, width]`, with the batch norms of the
    /// resolution at position `resolution_index`. The size of the images is not compared with it:
    /// an image may be run with the batch norms of another size.
    ///
    /// # Errors
    /// No such resolution, or what libtorch says, with the name of the layer.
    pub fn forward(&self, images: &Tensor, resolution_index: usize, mode: Mode) -> Result<Tensor> {
        ensure!(
            resolution_index < self.resolutions,
            "there is no resolution {resolution_index}: the network has {}",
            self.resolutions
        );
        forward(&self.modules, images, resolution_index, mode)
    }
}

fn build(layers: &[Layer], norms: &[u32], parameters: &Parameters) -> Result<Vec<Module>> {
    let modules = layers.iter().map(|layer| {
        Ok(match layer {
            Layer::Conv(conv) => Module::Conv {
                weight: parameters.tensor(&format!("{}.weight", conv.name))?,
                conv: conv.clone(),
            },
            Layer::Norm { name, .. } => {
                let norms = norms.iter().map(|norm| {
                    let part = |part| parameters.tensor(&format!("{name}.{norm}.{part}"));
                    Ok(Norm {
                        weight: part("weight")?,
                        bias: part("bias")?,
                        running_mean: part("running_mean")?,
                        running_var: part("running_var")?,
                    })
                });
                Module::Norm {
                    name: name.clone(),
                    by_resolution: norms.collect::<Result<_>>()?,
                }
            }
            Layer::Relu => Module::Relu,
            Layer::Relu6 => Module::Relu6,
            &Layer::MaxPool {
                kernel,
                stride,
                padding,
            } => Module::MaxPool {
                kernel,
                stride,
                padding,
            },
            Layer::Residual { branch, shortcut } => Module::Residual {
                branch: build(branch, norms, parameters)?,
                shortcut: build(shortcut, norms, parameters)?,
            },
            Layer::GlobalAveragePool => Module::GlobalAveragePool,
            Layer::Linear(linear) => Module::Linear {
                weight: parameters.tensor(&format!("{}.weight", linear.name))?,
                bias: parameters.tensor(&format!("{}.bias", linear.name))?,
                name: linear.name.clone(),
            },
        })
    });
    modules.collect()
}

fn forward(modules: &[Module], input: &Tensor, resolution: usize, mode: Mode) -> Result<Tensor> {
    // None: still the caller's tensor, which must not be changed in place.
    let mut own: Option<Tensor> = None;
    for module in modules {
        let x = own.as_ref().unwrap_or(input);
        let y = match module {
            Module::Conv { conv, weight } => {
                let (stride, padding) = ([conv.stride; 2], [conv.padding; 2]);
                x.f_conv2d(
                    weight,
                    None::<&Tensor>,
                    stride,
                    padding,
                    [1, 1],
                    conv.groups,
                )
                .with_context(|| format!("in the convolution {:?}", conv.name))?
            }
            Module::Norm {
                name,
                by_resolution,
            } => {
                let norm = &by_resolution[resolution];
                x.f_batch_norm(
                    Some(&norm.weight),
                    Some(&norm.bias),
                    Some(&norm.running_mean),
                    Some(&norm.running_var),
                    mode != Mode::Evaluate,
                    mode.momentum(),
                    NORM_EPSILON,
                    true,
                )
                .with_context(|| format!("in the batch norm {name:?}"))?
            }
            // In place where the value is ours, as torchvision does: no backward pass of a
            // convolution, batch norm or sum needs its output, and it saves a third of the
            // memory that activations take.
            Module::Relu => match own.take() {
                Some(mut own) => own.f_relu_()?,
                None => input.f_relu()?,
            },
            Module::Relu6 => match own.take() {
                Some(mut own) => own.f_relu6_()?,
                None => input.f_relu6()?,
            },
            Module::MaxPool {
                kernel,
                stride,
                padding,
            } => x.f_max_pool2d([*kernel; 2], [*stride; 2], [*padding; 2], [1, 1], false)?,
            Module::Residual { branch, shortcut } => {
                let mut sum = forward(branch, x, resolution, mode)?;
                if shortcut.is_empty() {
                    sum.f_add_(x)?
                } else {
                    sum.f_add_(&forward(shortcut, x, resolution, mode)?)?
                }
            }
            Module::GlobalAveragePool => x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?,
            Module::Linear { name, weight, bias } => x
                .f_linear(weight, Some(bias))
                .with_context(|| format!("in the linear layer {name:?}"))?,
        };
        own = Some(y);
    }
    Ok(own.unwrap_or_else(|| input.shallow_clone()))
}
