//! Layers with their tensors, and the pass through them.

use anyhow::{Context, Result, ensure};
use tch::{Tensor, no_grad};

use super::{Conv, Layer, Mode, NORM_EPSILON, Padding};
use crate::parameters::Parameters;
use crate::quantizers::{Basis, Fit, Gradient, Levels, activations, weights};

/// A layer with its tensors.
#[derive(Debug)]
enum Module {
    Conv {
        conv: Conv,
        weight: Weight,
    },
    Norm {
        name: String,
        by_resolution: Vec<Norm>,
    },
    Relu,
    Relu6,
    QuantizedRelu {
        name: String,
        /// Its place among the quantizers of activations.
        quantizer: usize,
    },
    MaxPool {
        kernel: i64,
        stride: i64,
        padding: Padding,
    },
    AveragePool {
        side: i64,
    },
    PadChannels {
        more: i64,
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

/// A convolution's weight.
#[derive(Debug)]
enum Weight {
    /// As it is.
    Full(Tensor),
    /// At the levels of the quantizer at this place among those of weights.
    Quantized(usize),
}

/// The quantizer of a weight.
#[derive(Debug)]
struct WeightQuantizer {
    name: String,
    weight: Tensor,
    basis: Basis,
}

/// The quantizers of a network. All resolutions share them.
#[derive(Debug, Default)]
struct Quantizers {
    weights: Vec<WeightQuantizer>,
    activations: Vec<Basis>,
    /// The weights are at their levels already.
    at_levels: bool,
}

/// A list of layers with its tensors, ready to run.
#[derive(Debug)]
pub struct Modules {
    modules: Vec<Module>,
    resolutions: usize,
    quantizers: Quantizers,
}

impl Modules {
    /// Gives the layers their tensors, which [`declare`](super::declare) declared. `norms` names the
    /// batch norm of each resolution; several may have the same.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn new(layers: &[Layer], norms: &[u32], parameters: &Parameters) -> Result<Self> {
        let mut quantizers = Quantizers::default();
        Ok(Self {
            modules: build(layers, norms, parameters, &mut quantizers)?,
            resolutions: norms.len(),
            quantizers,
        })
    }

    /// Puts the weights at the levels of their quantizers for good: a network that is not trained any
    /// more need not quantize them in every pass. Its passes give what they gave before.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn freeze(&mut self) -> Result<()> {
        for quantizer in &self.quantizers.weights {
            let WeightQuantizer {
                name,
                weight,
                basis,
            } = quantizer;
            no_grad(|| {
                let levels = weights::levels(&basis.value)?;
                let quantized = levels.quantize(weight, Gradient::StraightThrough)?;
                weight.shallow_clone().f_copy_(&quantized)?;
                anyhow::Ok(())
            })
            .with_context(|| format!("cannot quantize the weight of {name:?}"))?;
        }
        self.quantizers.at_levels = true;
        Ok(())
    }

    /// Begins to run the layers, with their weights and bases as they stand.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn pass(&self, mode: Mode) -> Result<Pass<'_>> {
        let quantizers = &self.quantizers;
        let mut pass = Pass {
            modules: self,
            mode,
            weights: Vec::with_capacity(quantizers.weights.len()),
            weight_fits: Vec::new(),
            levels: Vec::with_capacity(quantizers.activations.len()),
            fits: Vec::new(),
        };
        for quantizer in &quantizers.weights {
            pass.quantize_weight(quantizer)
                .with_context(|| format!("cannot quantize the weight of {:?}", quantizer.name))?;
        }
        for basis in &quantizers.activations {
            pass.levels.push(activations::levels(&basis.value)?);
        }
        Ok(pass)
    }
}

/// A pass through a network at one resolution or several, all with the same weights at the same
/// levels.
#[derive(Debug)]
pub struct Pass<'m> {
    modules: &'m Modules,
    mode: Mode,
    /// At their levels, one for each quantizer of weights.
    weights: Vec<Tensor>,
    /// One for each quantizer of weights, while training.
    weight_fits: Vec<Fit>,
    /// One for each quantizer of activations.
    levels: Vec<Levels>,
    /// For each resolution that was passed through while training, its position and a fit for each
    /// quantizer of activations.
    fits: Vec<(usize, Vec<Option<Fit>>)>,
}

impl Pass<'_> {
    fn quantize_weight(&mut self, quantizer: &WeightQuantizer) -> Result<()> {
        let WeightQuantizer { weight, basis, .. } = quantizer;
        if self.modules.quantizers.at_levels {
            self.weights.push(weight.shallow_clone());
            return Ok(());
        }
        let levels = weights::levels(&basis.value)?;
        if self.mode == Mode::Train {
            let (quantized, fit) =
                levels.quantize_to_fit(weight, Gradient::StraightThrough, false)?;
            self.weights.push(quantized);
            self.weight_fits.push(fit);
        } else {
            let quantized = no_grad(|| levels.quantize(weight, Gradient::StraightThrough))?;
            self.weights.push(quantized);
        }
        Ok(())
    }

    /// Runs the layers on `[batch, channels, height, width]`, with the batch norms of the
    /// resolution at position `resolution_index`. The size of the images is not compared with it:
    /// an image may be run with the batch norms of another size. Where the layers pad a maximum as
    /// TensorFlow's `SAME`, images are square.
    ///
    /// # Errors
    /// No such resolution, or what libtorch says, with the name of the layer.
    pub fn forward(&mut self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        ensure!(
            resolution_index < self.modules.resolutions,
            "there is no resolution {resolution_index}: the network has {}",
            self.modules.resolutions
        );
        let mut fits = Vec::new();
        fits.resize_with(self.levels.len(), || None);
        let output = self.run(&self.modules.modules, images, resolution_index, &mut fits)?;
        if self.mode == Mode::Train {
            self.fits.push((resolution_index, fits));
        }
        Ok(output)
    }

    /// Moves the bases, once for each resolution that was passed through, in the order of the
    /// resolutions: those of the weights each time, those of the activations where `moves` says that
    /// the resolution at this position moves them. In a pass that does not train, nothing moves.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn move_bases(mut self, moves: impl Fn(usize) -> bool) -> Result<()> {
        let quantizers = &self.modules.quantizers;
        // The weights are the same at all resolutions, and so is the basis that fits them.
        for (quantizer, fit) in quantizers.weights.iter().zip(&self.weight_fits) {
            let basis = &quantizer.basis;
            let fitted = weights::fitted(fit, &basis.value)?;
            for _ in &self.fits {
                basis.update(&fitted)?;
            }
        }
        self.fits.sort_by_key(|(resolution, _)| *resolution);
        for (place, basis) in quantizers.activations.iter().enumerate() {
            // All were quantized with the basis as it is now, so all fits fall back to this one.
            let old = basis.value.f_detach_copy()?;
            for (resolution, fits) in &self.fits {
                if let (true, Some(fit)) = (moves(*resolution), &fits[place]) {
                    basis.update(&activations::fitted(fit, &old)?)?;
                }
            }
        }
        Ok(())
    }
}

fn build(
    layers: &[Layer],
    norms: &[u32],
    parameters: &Parameters,
    quantizers: &mut Quantizers,
) -> Result<Vec<Module>> {
    let basis = |path: &str| {
        Ok::<_, anyhow::Error>(Basis {
            value: parameters.tensor(&format!("{path}.basis"))?,
            average: parameters.tensor(&format!("{path}.basis_average"))?,
            updates: parameters.tensor(&format!("{path}.basis_updates"))?,
        })
    };
    let modules = layers.iter().map(|layer| {
        Ok(match layer {
            Layer::Conv(conv) => {
                let weight = parameters.tensor(&format!("{}.weight", conv.name))?;
                let weight = match conv.bits {
                    None => Weight::Full(weight),
                    Some(_) => {
                        quantizers.weights.push(WeightQuantizer {
                            name: conv.name.clone(),
                            weight,
                            basis: basis(&conv.name)?,
                        });
                        Weight::Quantized(quantizers.weights.len() - 1)
                    }
                };
                Module::Conv {
                    weight,
                    conv: conv.clone(),
                }
            }
            Layer::QuantizedRelu { name, .. } => {
                quantizers.activations.push(basis(name)?);
                Module::QuantizedRelu {
                    name: name.clone(),
                    quantizer: quantizers.activations.len() - 1,
                }
            }
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
            Layer::AveragePool { side } => Module::AveragePool { side: *side },
            Layer::PadChannels { more } => Module::PadChannels { more: *more },
            Layer::Residual { branch, shortcut } => Module::Residual {
                branch: build(branch, norms, parameters, quantizers)?,
                shortcut: build(shortcut, norms, parameters, quantizers)?,
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
                Module::Conv { conv, weight } => {
                    let weight = match weight {
                        Weight::Full(weight) => weight,
                        Weight::Quantized(quantizer) => &self.weights[*quantizer],
                    };
                    convolve(conv, x, weight)
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
                        self.mode != Mode::Evaluate,
                        self.mode.momentum(),
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
                Module::QuantizedRelu { name, quantizer } => {
                    let levels = &self.levels[*quantizer];
                    let (x, in_place) = match &own {
                        Some(own) => (own, true),
                        None => (input, false),
                    };
                    if self.mode == Mode::Train {
                        levels
                            .quantize_to_fit(x, Gradient::Rectified, in_place)
                            .map(|(y, fit)| {
                                fits[*quantizer] = Some(fit);
                                y
                            })
                    } else if in_place {
                        levels.quantize_in_place(x, Gradient::Rectified)
                    } else {
                        levels.quantize(x, Gradient::Rectified)
                    }
                    .with_context(|| format!("in the quantizer {name:?}"))?
                }
                Module::MaxPool {
                    kernel,
                    stride,
                    padding,
                } => max_pool(x, *kernel, *stride, *padding)?,
                Module::AveragePool { side } => {
                    // What is not there does not count.
                    x.f_avg_pool2d([*side; 2], [*side; 2], [0, 0], true, false, None::<i64>)?
                }
                Module::PadChannels { more } => x.f_constant_pad_nd([0, 0, 0, 0, 0, *more])?,
                Module::Residual { branch, shortcut } => {
                    let mut sum = self.run(branch, x, resolution, fits)?;
                    if shortcut.is_empty() {
                        sum.f_add_(x)?
                    } else {
                        sum.f_add_(&self.run(shortcut, x, resolution, fits)?)?
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
}

/// How much is added before and behind the height and the width of `x`.
fn around(x: &Tensor, padding: Padding, kernel: i64, stride: i64) -> Result<[(i64, i64); 2]> {
    let (_, _, height, width) = x.size4()?;
    Ok([height, width].map(|side| padding.around(side, kernel, stride)))
}

fn convolve(conv: &Conv, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let [rows, columns] = around(x, conv.padding, conv.kernel, conv.stride)?;
    let padded;
    // libtorch's convolutions add as much on both sides.
    let (x, padding) = if rows.0 == rows.1 && columns.0 == columns.1 {
        (x, [rows.0, columns.0])
    } else {
        padded = x.f_constant_pad_nd([columns.0, columns.1, rows.0, rows.1])?;
        (&padded, [0, 0])
    };
    let (stride, none) = ([conv.stride; 2], None::<&Tensor>);
    Ok(x.f_conv2d(weight, none, stride, padding, [1, 1], conv.groups)?)
}

fn max_pool(x: &Tensor, kernel: i64, stride: i64, padding: Padding) -> Result<Tensor> {
    let [rows, columns] = around(x, padding, kernel, stride)?;
    // Where there is only something behind it, the last window reaches beyond the map; libtorch's
    // does so, too, if the side is rounded up.
    let even = rows.0 == rows.1 && columns.0 == columns.1;
    ensure!(
        even || rows.0 == 0 && columns.0 == 0,
        "a maximum over windows of {kernel} at steps of {stride} cannot be padded by {rows:?} and {columns:?}"
    );
    Ok(x.f_max_pool2d([kernel; 2], [stride; 2], [rows.0, columns.0], [1, 1], !even)?)
}
