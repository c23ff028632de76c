//! Layers with their tensors.

use anyhow::Result;
use tch::Tensor;

use super::folded::Folded;
use super::pass::Pass;
use super::{Conv, Layer, Mode, NormOptions, NormScope, Norms, Padding};
use crate::nn::compute::ExecConfig;
use crate::nn::kernels::{Activation, BatchNorm, Kernels};
use crate::nn::parameters::Parameters;
use crate::nn::quantizers::Basis;

/// A layer with its tensors.
#[derive(Debug)]
pub(super) enum Module {
    Conv {
        conv: Conv,
        /// Index into the shared weights.
        weight: usize,
    },
    Norm(Norm),
    Relu,
    Relu6,
    QuantizedRelu {
        name: String,
        /// Index into the bases of activation quantizers.
        quantizer: usize,
    },
    MaxPool {
        kernel: i64,
        stride: i64,
        padding: Padding,
    },
    AveragePool {
        kernel: i64,
    },
    PadChannels {
        added: i64,
    },
    Residual {
        branch: Vec<Module>,
        shortcut: Vec<Module>,
        /// The batch norm at the branch's end, with the activation of the sum.
        norm: Option<Norm>,
        /// Among the residual branches of the network.
        index: usize,
    },
    GlobalAveragePool,
    Linear {
        name: String,
        /// Indices into the shared weights.
        weight: usize,
        bias: usize,
    },
}

/// A batch norm, and the activation that follows it.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) name: String,
    pub(super) by_resolution: Vec<BatchNorm>,
    pub(super) activation: Activation,
}

/// The weight of a convolution, or the weight or the bias of the classifier.
#[derive(Debug)]
pub(super) struct Weight {
    /// The path of the layer.
    pub(super) layer: String,
    /// The trained tensor, not quantized.
    pub(super) tensor: Tensor,
    /// The basis of its quantizer, if it has one.
    pub(super) basis: Option<Basis>,
}

/// The tensors that all resolutions share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) weights: Vec<Weight>,
    /// The bases of activation quantizers.
    pub(super) bases: Vec<Basis>,
    /// How many there are.
    pub(super) residuals: usize,
}

/// A list of layers with its tensors, ready to run.
#[derive(Debug)]
pub struct Modules {
    pub(super) modules: Vec<Module>,
    pub(super) resolutions: usize,
    pub(super) shared: Shared,
    pub(super) compute: ExecConfig,
    pub(super) norm_scope: NormScope,
    pub(super) norm_options: NormOptions,
    /// The weights of every pass (quantized, in the compute dtype) after [`Modules::freeze`].
    pub(super) frozen: Option<Vec<Tensor>>,
    /// After [`Modules::fold`].
    pub(super) folded: Option<Folded>,
}

impl Modules {
    /// Binds the layers to their tensors, which [`declare`](super::declare) declared.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn new(layers: &[Layer], norms: &Norms, parameters: &Parameters) -> Result<Self> {
        let mut shared = Shared::default();
        Ok(Self {
            modules: build(layers, norms, parameters, &mut shared)?,
            resolutions: norms.of.len(),
            norm_options: norms.options,
            shared,
            compute: parameters.compute(),
            norm_scope: NormScope::Batch,
            frozen: None,
            folded: None,
        })
    }

    /// Over which images batch norms take their statistics from now on.
    pub fn set_norm_scope(&mut self, scope: NormScope) {
        self.norm_scope = scope;
    }

    /// Quantizes the weights and converts them to the compute dtype once, instead of in every pass:
    /// for inference. Logits stay the same, bit for bit; a pass in [`Mode::Train`] is an error
    /// afterwards.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = None;
        self.frozen = Some(self.pass(Mode::Evaluate, vec![])?.weights);
        Ok(())
    }

    /// Folds batch norms into the convolutions before them in passes in [`Mode::Evaluate`], where that is
    /// faster and hardly changes the logits: on the CPU, with [our kernels](crate::nn::kernels), and unless
    /// activations are quantized, where a rounding may change the level. Values that are loaded afterwards
    /// have no effect. Returns whether it does.
    pub fn fold(&mut self) -> bool {
        let suits = self.compute.kernels == Some(Kernels::Cpu)
            && self.compute.channels_last
            && self.shared.bases.is_empty();
        let weights = self.shared.weights.len();
        let (epsilon, dtype) = (self.norm_options.epsilon, self.compute.compute_dtype);
        let folded = suits.then(|| Folded::new(self.resolutions, weights, epsilon, dtype));
        self.folded = folded.flatten();
        self.folded.is_some()
    }

    /// Begins a pass with the current weights and bases. `updates_activation_bases` says for each
    /// resolution whether it updates the bases of activation quantizers in training.
    ///
    /// # Errors
    /// A frozen network in [`Mode::Train`].
    pub fn pass(&self, mode: Mode, updates_activation_bases: Vec<bool>) -> Result<Pass<'_>> {
        Pass::begin(self, mode, updates_activation_bases)
    }
}

impl Shared {
    /// Appends a parameter of a layer. Returns its index.
    fn push_weight(
        &mut self,
        layer: &str,
        part: &str,
        basis: Option<Basis>,
        parameters: &Parameters,
    ) -> Result<usize> {
        self.weights.push(Weight {
            layer: layer.to_owned(),
            tensor: parameters.tensor(&format!("{layer}.{part}"))?,
            basis,
        });
        Ok(self.weights.len() - 1)
    }
}

fn build(
    layers: &[Layer],
    norms: &Norms,
    parameters: &Parameters,
    shared: &mut Shared,
) -> Result<Vec<Module>> {
    let basis = |path: &str| {
        Ok::<_, anyhow::Error>(Basis {
            value: parameters.tensor(&format!("{path}.basis"))?,
            average: parameters.tensor(&format!("{path}.basis_average"))?,
            updates: parameters.tensor(&format!("{path}.basis_updates"))?,
        })
    };
    let mut modules = Vec::with_capacity(layers.len());
    for layer in layers {
        if let Some(activation) = activation(layer)
            && let Some(norm) = modules.last_mut().and_then(Module::takes_activation)
        {
            norm.activation = activation;
            continue;
        }
        modules.push(match layer {
            Layer::Conv(conv) => {
                let basis = conv.bits.map(|_| basis(&conv.name)).transpose()?;
                Module::Conv {
                    weight: shared.push_weight(&conv.name, "weight", basis, parameters)?,
                    conv: conv.clone(),
                }
            }
            Layer::QuantizedRelu { name, .. } => {
                shared.bases.push(basis(name)?);
                Module::QuantizedRelu {
                    name: name.clone(),
                    quantizer: shared.bases.len() - 1,
                }
            }
            Layer::BatchNorm { name, .. } => {
                let by_resolution = norms.of.iter().map(|&resolution| {
                    let part = |part| parameters.tensor(&norms.name(name, resolution, part));
                    Ok(BatchNorm {
                        weight: part("weight")?,
                        bias: part("bias")?,
                        running_mean: part("running_mean")?,
                        running_var: part("running_var")?,
                    })
                });
                Module::Norm(Norm {
                    name: name.clone(),
                    by_resolution: by_resolution.collect::<Result<_>>()?,
                    activation: Activation::None,
                })
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
            Layer::AveragePool { kernel } => Module::AveragePool { kernel: *kernel },
            Layer::PadChannels { added } => Module::PadChannels { added: *added },
            Layer::Residual { branch, shortcut } => {
                let index = shared.residuals;
                shared.residuals += 1;
                let mut branch = build(branch, norms, parameters, shared)?;
                // What is added to the output of a batch norm that has no activation of its own, the
                // batch norm can add.
                let norm = branch.pop_if(|last| last.takes_activation().is_some());
                Module::Residual {
                    index,
                    branch,
                    shortcut: build(shortcut, norms, parameters, shared)?,
                    norm: norm.and_then(|norm| match norm {
                        Module::Norm(norm) => Some(norm),
                        _ => None,
                    }),
                }
            }
            Layer::GlobalAveragePool => Module::GlobalAveragePool,
            Layer::Linear(linear) => Module::Linear {
                weight: shared.push_weight(&linear.name, "weight", None, parameters)?,
                bias: shared.push_weight(&linear.name, "bias", None, parameters)?,
                name: linear.name.clone(),
            },
        });
    }
    Ok(modules)
}

impl Module {
    /// The batch norm at its end, if an activation that follows can be that of the batch norm.
    fn takes_activation(&mut self) -> Option<&mut Norm> {
        let norm = match self {
            Module::Norm(norm)
            | Module::Residual {
                norm: Some(norm), ..
            } => norm,
            _ => return None,
        };
        (norm.activation == Activation::None).then_some(norm)
    }
}

fn activation(layer: &Layer) -> Option<Activation> {
    match layer {
        Layer::Relu => Some(Activation::Relu),
        Layer::Relu6 => Some(Activation::Relu6),
        _ => None,
    }
}
