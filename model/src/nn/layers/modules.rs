//! Layers with their tensors, and the forward pass.

use anyhow::{Context, Result, bail, ensure};
use tch::{Tensor, no_grad};

use super::{BATCH_NORM_EPSILON, Conv, Layer, Mode, Padding};
use crate::nn::compute::ExecConfig;
use crate::nn::kernels::{self, Activation, BatchNorm, Statistics};
use crate::nn::parameters::Parameters;
use crate::nn::quantizers::{self, Basis, Fit, Gradient, Levels};

/// A layer with its tensors.
#[derive(Debug)]
enum Module {
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
struct Norm {
    name: String,
    by_resolution: Vec<BatchNorm>,
    activation: Activation,
}

/// The weight of a convolution, or the weight or the bias of the classifier.
#[derive(Debug)]
struct Weight {
    /// The path of the layer.
    layer: String,
    /// The trained tensor, not quantized.
    tensor: Tensor,
    /// The basis of its quantizer, if it has one.
    basis: Option<Basis>,
}

/// The tensors that all resolutions share.
#[derive(Debug, Default)]
struct Shared {
    weights: Vec<Weight>,
    /// The bases of activation quantizers.
    bases: Vec<Basis>,
}

/// A list of layers with its tensors, ready to run.
#[derive(Debug)]
pub struct Modules {
    modules: Vec<Module>,
    resolutions: usize,
    shared: Shared,
    compute: ExecConfig,
    /// The weights of every pass (quantized, in the compute dtype) after [`Modules::freeze`].
    frozen: Option<Vec<Tensor>>,
}

impl Modules {
    /// Binds the layers to their tensors, which [`declare`](super::declare) declared. `batch_norms`
    /// has, for each resolution, the resolution whose batch norms it uses; several may share one.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn new(layers: &[Layer], batch_norms: &[u32], parameters: &Parameters) -> Result<Self> {
        let mut shared = Shared::default();
        Ok(Self {
            modules: build(layers, batch_norms, parameters, &mut shared)?,
            resolutions: batch_norms.len(),
            shared,
            compute: parameters.compute(),
            frozen: None,
        })
    }

    /// Quantizes the weights and converts them to the compute dtype once, instead of in every pass:
    /// for inference. Logits stay the same, bit for bit; a pass in [`Mode::Train`] is an error
    /// afterwards.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = None;
        self.frozen = Some(self.pass(Mode::Evaluate, vec![])?.weights);
        Ok(())
    }

    /// Begins a pass with the current weights and bases. `updates_activation_bases` says for each
    /// resolution whether it updates the bases of activation quantizers in training.
    ///
    /// # Errors
    /// A frozen network in [`Mode::Train`].
    pub fn pass(&self, mode: Mode, updates_activation_bases: Vec<bool>) -> Result<Pass<'_>> {
        let Shared { weights, bases } = &self.shared;
        let mut pass = Pass {
            modules: self,
            mode,
            updates_activation_bases,
            weights: Vec::with_capacity(weights.len()),
            weight_fits: Vec::new(),
            levels: Vec::with_capacity(bases.len()),
            fits: Vec::new(),
        };
        match &self.frozen {
            Some(_) if mode == Mode::Train => {
                bail!("a frozen network cannot be trained")
            }
            Some(frozen) => pass
                .weights
                .extend(frozen.iter().map(Tensor::shallow_clone)),
            None => {
                for weight in weights {
                    pass.prepare_weight(weight)
                        .with_context(|| format!("in the weight of {:?}", weight.layer))?;
                }
            }
        }
        for basis in bases {
            pass.levels
                .push(quantizers::activations::levels(&basis.value)?);
        }
        Ok(pass)
    }
}

/// Forward passes at one or several resolutions, all with the same weights and the same levels.
#[derive(Debug)]
pub struct Pass<'m> {
    modules: &'m Modules,
    mode: Mode,
    /// For each resolution.
    updates_activation_bases: Vec<bool>,
    /// Quantized, in the compute dtype.
    weights: Vec<Tensor>,
    /// For each quantized weight, in training.
    weight_fits: Vec<Fit>,
    /// For each activation quantizer.
    levels: Vec<Levels>,
    /// For each forward pass in training, the index of its resolution and the fit of each
    /// activation quantizer (`None` if the resolution does not update the bases).
    fits: Vec<(usize, Vec<Option<Fit>>)>,
}

impl Pass<'_> {
    /// Appends a weight: quantized, in the compute dtype.
    fn prepare_weight(&mut self, weight: &Weight) -> Result<()> {
        let Weight { tensor, basis, .. } = weight;
        let dtype = self.modules.compute.compute_dtype;
        if self.mode != Mode::Train {
            let ready = no_grad(|| match basis {
                None => Ok(tensor.f_to_kind(dtype)?),
                Some(basis) => {
                    let levels = quantizers::weights::levels(&basis.value)?;
                    let quantized = levels.quantize(tensor, Gradient::StraightThrough, false)?;
                    anyhow::Ok(quantized.f_to_kind(dtype)?)
                }
            });
            self.weights.push(ready?);
            return Ok(());
        }
        self.weights.push(match basis {
            None => tensor.f_to_kind(dtype)?,
            Some(basis) => {
                let levels = quantizers::weights::levels(&basis.value)?;
                let (quantized, fit) =
                    levels.quantize_with_statistics(tensor, Gradient::StraightThrough, false)?;
                self.weight_fits.push(fit);
                quantized.f_to_kind(dtype)?
            }
        });
        Ok(())
    }

    /// Runs the layers on `[batch, channels, height, width]`, with the batch norms of the
    /// resolution at `resolution_index`. The size of the images is not compared with that
    /// resolution: images may be run with the batch norms of another. Images must be square if a
    /// max pooling is padded as TensorFlow's `SAME`. Returns `[batch, classes]` in the dtype of the
    /// parameters.
    ///
    /// # Errors
    /// No such resolution; libtorch errors, with the name of the layer.
    pub fn forward(&mut self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        ensure!(
            resolution_index < self.modules.resolutions,
            "there is no resolution {resolution_index}: the network has {}",
            self.modules.resolutions
        );
        let mut fits = Vec::new();
        fits.resize_with(self.levels.len(), || None);
        let ExecConfig {
            dtype,
            compute_dtype,
            ..
        } = self.modules.compute;
        let images = images.f_to_kind(compute_dtype)?;
        let output = self.run(&self.modules.modules, &images, resolution_index, &mut fits)?;
        let output = output.f_to_kind(dtype)?;
        if self.mode == Mode::Train {
            self.fits.push((resolution_index, fits));
        }
        Ok(output)
    }

    /// Updates the bases once for each resolution that was run, in the order of the resolutions:
    /// the bases of weights for each, those of activations if the resolution updates them. Does
    /// nothing unless the mode is [`Mode::Train`].
    pub fn update_bases(mut self) -> Result<()> {
        let Shared { weights, bases } = &self.modules.shared;
        let quantized = weights.iter().filter_map(|weight| weight.basis.as_ref());
        // All resolutions have the same weights, and so the same fit.
        for (basis, fit) in quantized.zip(&self.weight_fits) {
            let fitted = quantizers::weights::fit_basis(fit, &basis.value)?;
            for _ in &self.fits {
                basis.update(&fitted)?;
            }
        }
        self.fits.sort_by_key(|(resolution, _)| *resolution);
        for (index, basis) in bases.iter().enumerate() {
            // All resolutions were quantized with the basis as it is now: it is the fallback of all
            // fits, also after the first update.
            let old = basis.value.f_detach_copy()?;
            for (_, fits) in &self.fits {
                if let Some(fit) = &fits[index] {
                    basis.update(&quantizers::activations::fit_basis(fit, &old)?)?;
                }
            }
        }
        Ok(())
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
    batch_norms: &[u32],
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
                let by_resolution = batch_norms.iter().map(|resolution| {
                    let part = |part| parameters.tensor(&format!("{name}.{resolution}.{part}"));
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
                let mut branch = build(branch, batch_norms, parameters, shared)?;
                // What is added to the output of a batch norm that has no activation of its own, the
                // batch norm can add.
                let norm = branch.pop_if(|last| last.takes_activation().is_some());
                Module::Residual {
                    branch,
                    shortcut: build(shortcut, batch_norms, parameters, shared)?,
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

impl Pass<'_> {
    fn run(
        &self,
        modules: &[Module],
        input: &Tensor,
        resolution: usize,
        fits: &mut [Option<Fit>],
    ) -> Result<Tensor> {
        // None: still the caller's tensor, which must not be changed in place.
        let mut own: Option<Tensor> = None;
        for module in modules {
            let x = own.as_ref().unwrap_or(input);
            let y = match module {
                Module::Conv { conv, weight } => self
                    .conv2d(conv, x, &self.weights[*weight])
                    .with_context(|| format!("in the convolution {:?}", conv.name))?,
                Module::Norm(norm) => self.norm(norm, x, None, resolution)?,
                // In place where the tensor is ours, as in torchvision: the backward pass of a
                // convolution, a batch norm or a sum does not need its output, and it saves a third
                // of the memory of activations.
                Module::Relu => match own.take() {
                    Some(mut own) => own.f_relu_()?,
                    None => input.f_relu()?,
                },
                Module::Relu6 => match own.take() {
                    Some(mut own) => own.f_relu6_()?,
                    None => input.f_relu6()?,
                },
                Module::QuantizedRelu { name, quantizer } => {
                    let levels = &self.levels[*quantizer];
                    let (x, in_place) = match &own {
                        Some(own) => (own, true),
                        None => (input, false),
                    };
                    let updates = self.updates_activation_bases.get(resolution);
                    if self.mode == Mode::Train && updates.is_some_and(|updates| *updates) {
                        levels
                            .quantize_with_statistics(x, Gradient::ClippedRelu, in_place)
                            .map(|(y, fit)| {
                                fits[*quantizer] = Some(fit);
                                y
                            })
                    } else {
                        levels.quantize(x, Gradient::ClippedRelu, in_place)
                    }
                    .with_context(|| format!("in the quantizer {name:?}"))?
                }
                Module::MaxPool {
                    kernel,
                    stride,
                    padding,
                } => self.max_pool(x, *kernel, *stride, *padding)?,
                Module::AveragePool { kernel } => {
                    let (ceil_mode, count_include_pad) = (true, false);
                    x.f_avg_pool2d(
                        [*kernel; 2],
                        [*kernel; 2],
                        [0, 0],
                        ceil_mode,
                        count_include_pad,
                        None::<i64>,
                    )?
                }
                Module::PadChannels { added } => x.f_constant_pad_nd([0, 0, 0, 0, 0, *added])?,
                Module::Residual {
                    branch,
                    shortcut,
                    norm,
                } => {
                    let mut branch = self.run(branch, x, resolution, fits)?;
                    // Without layers it is x.
                    let shortcut = self.run(shortcut, x, resolution, fits)?;
                    match norm {
                        Some(norm) => self.norm(norm, &branch, Some(&shortcut), resolution)?,
                        None => branch.f_add_(&shortcut)?,
                    }
                }
                Module::GlobalAveragePool => x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?,
                Module::Linear { name, weight, bias } => x
                    .f_linear(&self.weights[*weight], Some(&self.weights[*bias]))
                    .with_context(|| format!("in the linear layer {name:?}"))?,
            };
            own = Some(y);
        }
        Ok(own.unwrap_or_else(|| input.shallow_clone()))
    }

    /// A batch norm with its activation, after the addition of `residual` if there is one.
    fn norm(
        &self,
        norm: &Norm,
        x: &Tensor,
        residual: Option<&Tensor>,
        resolution: usize,
    ) -> Result<Tensor> {
        let tensors = &norm.by_resolution[resolution];
        let statistics = Statistics {
            of_batch: self.mode != Mode::Evaluate,
            momentum: self.mode.momentum(),
            epsilon: BATCH_NORM_EPSILON,
        };
        let compute = || {
            if self.modules.compute.kernels {
                let y = kernels::batch_norm(x, tensors, residual, norm.activation, statistics)?;
                if let Some(y) = y {
                    return Ok(y);
                }
            }
            kernels::composed(x, tensors, residual, norm.activation, statistics)
        };
        compute().with_context(|| format!("in the batch norm {:?}", norm.name))
    }

    fn conv2d(&self, conv: &Conv, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let depthwise = conv.groups == conv.in_channels && conv.groups == conv.out_channels;
        let [rows, columns] = pad_amounts(x, conv.padding, conv.kernel, conv.stride)?;
        if self.modules.compute.kernels && depthwise && conv.kernel == 3 {
            let (_, _, height, width) = x.size4()?;
            let out =
                [height, width].map(|side| conv.padding.output(side, conv.kernel, conv.stride));
            let y = kernels::depthwise(x, weight, conv.stride, [rows.0, columns.0], out)?;
            if let Some(y) = y {
                return Ok(y);
            }
        }
        conv2d(conv, x, weight, [rows, columns])
    }

    fn max_pool(&self, x: &Tensor, kernel: i64, stride: i64, padding: Padding) -> Result<Tensor> {
        let [rows, columns] = pad_amounts(x, padding, kernel, stride)?;
        if self.modules.compute.kernels {
            let (_, _, height, width) = x.size4()?;
            let out = [height, width].map(|side| padding.output(side, kernel, stride));
            let y = kernels::max_pool(x, kernel, stride, [rows.0, columns.0], out)?;
            if let Some(y) = y {
                return Ok(y);
            }
        }
        max_pool(x, kernel, stride, [rows, columns])
    }
}

/// The padding before and after the height, and before and after the width, of `x`.
fn pad_amounts(x: &Tensor, padding: Padding, kernel: i64, stride: i64) -> Result<[(i64, i64); 2]> {
    let (_, _, height, width) = x.size4()?;
    Ok([height, width].map(|side| padding.amounts(side, kernel, stride)))
}

fn conv2d(
    conv: &Conv,
    x: &Tensor,
    weight: &Tensor,
    [rows, columns]: [(i64, i64); 2],
) -> Result<Tensor> {
    let padded;
    // libtorch's convolutions pad both sides of a dimension alike.
    let (x, padding) = if rows.0 == rows.1 && columns.0 == columns.1 {
        (x, [rows.0, columns.0])
    } else {
        padded = x.f_constant_pad_nd([columns.0, columns.1, rows.0, rows.1])?;
        (&padded, [0, 0])
    };
    let (stride, none) = ([conv.stride; 2], None::<&Tensor>);
    Ok(x.f_conv2d(weight, none, stride, padding, [1, 1], conv.groups)?)
}

fn max_pool(
    x: &Tensor,
    kernel: i64,
    stride: i64,
    [rows, columns]: [(i64, i64); 2],
) -> Result<Tensor> {
    // Padding after the map alone means that the last window reaches beyond it, which libtorch's
    // ceil_mode does too.
    let symmetric = rows.0 == rows.1 && columns.0 == columns.1;
    ensure!(
        symmetric || rows.0 == 0 && columns.0 == 0,
        "max pooling with kernel {kernel} and stride {stride} cannot be padded by {rows:?} and {columns:?}"
    );
    Ok(x.f_max_pool2d(
        [kernel; 2],
        [stride; 2],
        [rows.0, columns.0],
        [1, 1],
        !symmetric,
    )?)
}
