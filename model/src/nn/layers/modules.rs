//! Layers with their tensors, and the pass through them.

use anyhow::{Context, Result, bail, ensure};
use tch::{Tensor, no_grad};

use super::{Conv, Layer, Mode, NORM_EPSILON, Padding};
use crate::nn::compute::Compute;
use crate::nn::parameters::Parameters;
use crate::nn::quantizers::{self, Basis, Fit, Gradient, Levels};

/// A layer with its tensors.
#[derive(Debug)]
enum Module {
    Conv {
        conv: Conv,
        /// Its place among the weights.
        weight: usize,
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
        /// Their places among the weights.
        weight: usize,
        bias: usize,
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

/// What a convolution or the classifier multiplies with or adds.
#[derive(Debug)]
struct Weight {
    /// The layer's name.
    name: String,
    /// As it is trained.
    tensor: Tensor,
    /// That of its quantizer, if it has one.
    basis: Option<Basis>,
}

/// What all resolutions share.
#[derive(Debug, Default)]
struct Shared {
    weights: Vec<Weight>,
    /// Those of the quantizers of activations.
    bases: Vec<Basis>,
}

/// A list of layers with its tensors, ready to run.
#[derive(Debug)]
pub struct Modules {
    modules: Vec<Module>,
    resolutions: usize,
    shared: Shared,
    compute: Compute,
    /// The weights of every pass, once they are not trained any more.
    frozen: Option<Vec<Tensor>>,
}

impl Modules {
    /// Gives the layers their tensors, which [`declare`](super::declare) declared. `norms` names the
    /// batch norm of each resolution; several may have the same.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn new(layers: &[Layer], norms: &[u32], parameters: &Parameters) -> Result<Self> {
        let mut shared = Shared::default();
        Ok(Self {
            modules: build(layers, norms, parameters, &mut shared)?,
            resolutions: norms.len(),
            shared,
            compute: parameters.compute(),
            frozen: None,
        })
    }

    /// Makes the weights of all passes from now on: for a network that is not trained any more, whose
    /// passes need not put them at the levels of their quantizers, and into the kind that is
    /// multiplied, each time. Its passes give what they gave before; one that trains is an error.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = None;
        self.frozen = Some(self.pass(Mode::Evaluate, vec![])?.weights);
        Ok(())
    }

    /// Begins to run the layers, with their weights and bases as they stand. `moves` says of each
    /// resolution whether it moves the bases of activations in training.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn pass(&self, mode: Mode, moves: Vec<bool>) -> Result<Pass<'_>> {
        let Shared { weights, bases } = &self.shared;
        let mut pass = Pass {
            modules: self,
            mode,
            moves,
            weights: Vec::with_capacity(weights.len()),
            weight_fits: Vec::new(),
            levels: Vec::with_capacity(bases.len()),
            fits: Vec::new(),
        };
        match &self.frozen {
            Some(_) if mode == Mode::Train => {
                bail!("a network that is frozen is not trained any more")
            }
            Some(frozen) => pass
                .weights
                .extend(frozen.iter().map(Tensor::shallow_clone)),
            None => {
                for weight in weights {
                    pass.prepare(weight)
                        .with_context(|| format!("in the weight of {:?}", weight.name))?;
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

/// A pass through a network at one resolution or several, all with the same weights at the same
/// levels.
#[derive(Debug)]
pub struct Pass<'m> {
    modules: &'m Modules,
    mode: Mode,
    /// Whether the resolution at a position moves the bases of activations.
    moves: Vec<bool>,
    /// At their levels and in the kind that is multiplied.
    weights: Vec<Tensor>,
    /// One for each weight that is quantized, while training.
    weight_fits: Vec<Fit>,
    /// One for each quantizer of activations.
    levels: Vec<Levels>,
    /// For each resolution that was passed through while training, its position and, if it moves them, a
    /// fit for each quantizer of activations.
    fits: Vec<(usize, Vec<Option<Fit>>)>,
}

impl Pass<'_> {
    /// Makes the next weight of this pass.
    fn prepare(&mut self, weight: &Weight) -> Result<()> {
        let Weight { tensor, basis, .. } = weight;
        let kind = self.modules.compute.multiply;
        if self.mode != Mode::Train {
            let ready = no_grad(|| match basis {
                None => Ok(tensor.f_to_kind(kind)?),
                Some(basis) => {
                    let levels = quantizers::weights::levels(&basis.value)?;
                    let quantized = levels.quantize(tensor, Gradient::StraightThrough, false)?;
                    anyhow::Ok(quantized.f_to_kind(kind)?)
                }
            });
            self.weights.push(ready?);
            return Ok(());
        }
        self.weights.push(match basis {
            None => tensor.f_to_kind(kind)?,
            Some(basis) => {
                let levels = quantizers::weights::levels(&basis.value)?;
                let (quantized, fit) =
                    levels.quantize_to_fit(tensor, Gradient::StraightThrough, false)?;
                self.weight_fits.push(fit);
                quantized.f_to_kind(kind)?
            }
        });
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
        let Compute { kind, multiply, .. } = self.modules.compute;
        let images = images.f_to_kind(multiply)?;
        let output = self.run(&self.modules.modules, &images, resolution_index, &mut fits)?;
        let output = output.f_to_kind(kind)?;
        if self.mode == Mode::Train {
            self.fits.push((resolution_index, fits));
        }
        Ok(output)
    }

    /// Moves the bases, once for each resolution that was passed through, in the order of the
    /// resolutions: those of the weights each time, those of the activations where the resolution moves
    /// them. In a pass that does not train, nothing moves.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn move_bases(mut self) -> Result<()> {
        let Shared { weights, bases } = &self.modules.shared;
        let quantized = weights.iter().filter_map(|weight| weight.basis.as_ref());
        // The weights are the same at all resolutions, and so is the basis that fits them.
        for (basis, fit) in quantized.zip(&self.weight_fits) {
            let fitted = quantizers::weights::fitted(fit, &basis.value)?;
            for _ in &self.fits {
                basis.update(&fitted)?;
            }
        }
        self.fits.sort_by_key(|(resolution, _)| *resolution);
        for (place, basis) in bases.iter().enumerate() {
            // All were quantized with the basis as it is now, so all fits fall back to this one.
            let old = basis.value.f_detach_copy()?;
            for (_, fits) in &self.fits {
                if let Some(fit) = &fits[place] {
                    basis.update(&quantizers::activations::fitted(fit, &old)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Adds a part of a layer, and tells its place among the weights.
    fn weight(
        &mut self,
        layer: &str,
        part: &str,
        basis: Option<Basis>,
        parameters: &Parameters,
    ) -> Result<usize> {
        self.weights.push(Weight {
            name: layer.to_owned(),
            tensor: parameters.tensor(&format!("{layer}.{part}"))?,
            basis,
        });
        Ok(self.weights.len() - 1)
    }
}

fn build(
    layers: &[Layer],
    norms: &[u32],
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
    let modules = layers.iter().map(|layer| {
        Ok(match layer {
            Layer::Conv(conv) => {
                let basis = conv.bits.map(|_| basis(&conv.name)).transpose()?;
                Module::Conv {
                    weight: shared.weight(&conv.name, "weight", basis, parameters)?,
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
                branch: build(branch, norms, parameters, shared)?,
                shortcut: build(shortcut, norms, parameters, shared)?,
            },
            Layer::GlobalAveragePool => Module::GlobalAveragePool,
            Layer::Linear(linear) => Module::Linear {
                weight: shared.weight(&linear.name, "weight", None, parameters)?,
                bias: shared.weight(&linear.name, "bias", None, parameters)?,
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
                Module::Conv { conv, weight } => convolve(conv, x, &self.weights[*weight])
                    .with_context(|| format!("in the convolution {:?}", conv.name))?,
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
                    let moves = self.moves.get(resolution).is_some_and(|moves| *moves);
                    if self.mode == Mode::Train && moves {
                        levels
                            .quantize_to_fit(x, Gradient::Rectified, in_place)
                            .map(|(y, fit)| {
                                fits[*quantizer] = Some(fit);
                                y
                            })
                    } else {
                        levels.quantize(x, Gradient::Rectified, in_place)
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
                    .f_linear(&self.weights[*weight], Some(&self.weights[*bias]))
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
