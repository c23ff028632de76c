//! The forward pass through a list of layers.

use anyhow::{Context, Result, bail, ensure};
use tch::{Tensor, no_grad};

use super::folded::{Folded, Residual};
use super::modules::{Module, Modules, Norm, Shared, Weight};
use super::{Conv, Drops, Mode, NormScope, Padding};
use crate::nn::compute::ExecConfig;
use crate::nn::kernels::{self, Activation, BatchNorm, Kernels, Place, Statistics};
use crate::nn::native;
use crate::nn::quantizers::{self, Fit, Gradient, Levels};

/// Forward passes at one or several resolutions, all with the same weights and the same levels.
#[derive(Debug)]
pub struct Pass<'m> {
    pub(super) modules: &'m Modules,
    pub(super) mode: Mode,
    /// For each resolution.
    updates_activation_bases: Vec<bool>,
    /// Quantized, in the compute dtype.
    pub(super) weights: Vec<Tensor>,
    /// For each quantized weight, in training.
    weight_fits: Vec<Fit>,
    /// For each activation quantizer.
    levels: Vec<Levels>,
    /// For each forward pass in training, the index of its resolution and the fit of each
    /// activation quantizer (`None` if the resolution does not update the bases).
    fits: Vec<(usize, Vec<Option<Fit>>)>,
}

impl<'m> Pass<'m> {
    /// As [`Modules::pass`].
    pub(super) fn begin(
        modules: &'m Modules,
        mode: Mode,
        updates_activation_bases: Vec<bool>,
    ) -> Result<Self> {
        let Shared { weights, bases, .. } = &modules.shared;
        let mut pass = Pass {
            modules,
            mode,
            updates_activation_bases,
            weights: Vec::with_capacity(weights.len()),
            weight_fits: Vec::new(),
            levels: Vec::with_capacity(bases.len()),
            fits: Vec::new(),
        };
        match &modules.frozen {
            Some(_) if mode == Mode::Train => {
                bail!("a frozen network cannot be trained")
            }
            Some(frozen) => pass
                .weights
                .extend(frozen.iter().map(Tensor::shallow_clone)),
            None => pass.prepare_weights(weights)?,
        }
        for basis in bases {
            pass.levels
                .push(quantizers::activations::levels(&basis.value)?);
        }
        Ok(pass)
    }

    /// Quantizes the weights and casts them to the compute dtype.
    fn prepare_weights(&mut self, weights: &[Weight]) -> Result<()> {
        // Weights are cast together up to so many values. Their gradients come back together, too, and
        // those of the last layers not much later than they are known.
        const CAST_TOGETHER: usize = 1 << 20;
        let ExecConfig {
            dtype,
            compute_dtype,
            ..
        } = self.modules.compute;
        let mut together = Vec::new();
        let mut values = 0;
        for weight in weights {
            let quantized = self.quantized(weight);
            let quantized =
                quantized.with_context(|| format!("in the weight of {:?}", weight.layer))?;
            if compute_dtype == dtype {
                self.weights.push(quantized);
                continue;
            }
            values += quantized.numel();
            together.push(quantized);
            if values >= CAST_TOGETHER {
                self.cast(&mut together)?;
                values = 0;
            }
        }
        self.cast(&mut together)
    }

    /// Appends the weights to those that are ready, in the compute dtype.
    fn cast(&mut self, weights: &mut Vec<Tensor>) -> Result<()> {
        let dtype = self.modules.compute.compute_dtype;
        let list: Vec<&Tensor> = weights.iter().collect();
        let cast = || native::cast(&list, dtype);
        self.weights.extend(match self.mode {
            Mode::Train => cast()?,
            _ => no_grad(cast)?,
        });
        weights.clear();
        Ok(())
    }

    /// The weight, quantized if it has a quantizer.
    fn quantized(&mut self, weight: &Weight) -> Result<Tensor> {
        let Weight { tensor, basis, .. } = weight;
        let Some(basis) = basis else {
            return Ok(tensor.shallow_clone());
        };
        let levels = || quantizers::weights::levels(&basis.value);
        let gradient = Gradient::StraightThrough;
        if self.mode != Mode::Train {
            return no_grad(|| levels()?.quantize(tensor, gradient, false));
        }
        let (quantized, fit) = levels()?.quantize_with_statistics(tensor, gradient, false)?;
        self.weight_fits.push(fit);
        Ok(quantized)
    }

    /// Runs the layers on `[batch, channels, height, width]` without what `drops` leaves out, with the batch
    /// norms of the resolution at `resolution_index`. The size of the images is not compared with that
    /// resolution: images may be run with the batch norms of another. Images must be square if a
    /// max pooling is padded as TensorFlow's `SAME`. Returns `[batch, classes]` in the dtype of the
    /// parameters.
    ///
    /// # Errors
    /// No such resolution; libtorch errors, with the name of the layer.
    pub fn forward(
        &mut self,
        images: &Tensor,
        resolution_index: usize,
        drops: &Drops,
    ) -> Result<Tensor> {
        let modules = &self.modules.modules;
        let (output, fits) = self.output_of(modules, images, (resolution_index, drops))?;
        if self.mode == Mode::Train {
            let mut earlier = self.fits.iter_mut();
            match earlier.find(|(resolution, _)| *resolution == resolution_index) {
                // Another part of the batch.
                Some((_, sums)) => {
                    for (sum, fit) in sums.iter_mut().flatten().zip(fits.iter().flatten()) {
                        sum.add(fit)?;
                    }
                }
                None => self.fits.push((resolution_index, fits)),
            }
        }
        Ok(output)
    }

    /// What the classifier gets, in [`Mode::Evaluate`]: the last feature maps averaged over their pixels,
    /// `[batch, features]` in the dtype of the parameters.
    ///
    /// # Errors
    /// As [`Pass::forward`]; another mode.
    pub fn features(&self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        ensure!(self.mode == Mode::Evaluate, "features are for inference");
        let before = match self.modules.modules.as_slice() {
            [before @ .., Module::Linear { .. }] => before,
            _ => bail!("the network has no classifier at its end"),
        };
        let at = (resolution_index, &Drops::default());
        Ok(self.output_of(before, images, at)?.0)
    }

    /// What the first layers of the network give in the dtype of the parameters, and the fits of the activation
    /// quantizers.
    fn output_of(
        &self,
        modules: &[Module],
        images: &Tensor,
        (resolution, drops): (usize, &Drops),
    ) -> Result<(Tensor, Vec<Option<Fit>>)> {
        let of = self.modules.resolutions;
        ensure!(
            resolution < of,
            "there is no resolution {resolution}: the network has {of}"
        );
        let mut fits = Vec::new();
        fits.resize_with(self.levels.len(), || None);
        let ExecConfig {
            dtype,
            compute_dtype,
            ..
        } = self.modules.compute;
        let images = images.f_to_kind(compute_dtype)?;
        let output = match self.folded().is_some_and(Folded::is_float) {
            true => self.run_divided(modules, &images, resolution)?,
            false => self.run(modules, &images, (resolution, drops), &mut fits)?,
        };
        Ok((output.f_to_kind(dtype)?, fits))
    }

    /// The sums over activations that [`Pass::update_bases`] fits bases to: of several processes, those of
    /// all together. Those over weights are the same in each.
    pub fn activation_sums(&self) -> Vec<&Tensor> {
        let fits = self.fits.iter().flat_map(|(_, fits)| fits).flatten();
        fits.flat_map(Fit::sums).collect()
    }

    /// Updates the bases once for each resolution that was run, in the order of the resolutions:
    /// the bases of weights for each, those of activations if the resolution updates them. Does
    /// nothing unless the mode is [`Mode::Train`].
    pub fn update_bases(mut self) -> Result<()> {
        let Shared { weights, bases, .. } = &self.modules.shared;
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

    pub(super) fn run(
        &self,
        modules: &[Module],
        input: &Tensor,
        (resolution, drops): (usize, &Drops),
        fits: &mut [Option<Fit>],
    ) -> Result<Tensor> {
        // None: still the caller's tensor, which must not be changed in place.
        let mut own: Option<Tensor> = None;
        let mut modules = modules;
        while let [module, after @ ..] = modules {
            let x = own.as_ref().unwrap_or(input);
            let block = self.run_inverted(modules, None, x, None, resolution)?;
            if let Some((y, after)) = block {
                (own, modules) = (Some(y), after);
                continue;
            }
            modules = after;
            let y = match module {
                Module::Conv { conv, weight } => match after {
                    [Module::Norm(norm), after @ ..] if self.folded().is_some() => {
                        modules = after;
                        self.folded_conv((conv, *weight), norm, x, None, resolution)
                    }
                    _ => self.conv2d(conv, x, &self.weights[*weight]),
                }
                .with_context(|| format!("in the convolution {:?}", conv.name))?,
                Module::Norm(norm) => self.norm(norm, x, None, norm.activation, resolution)?,
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
                    index,
                } => {
                    let at = (resolution, drops);
                    if let (Some(norm), Some((Module::Conv { conv, weight }, before))) =
                        (norm, branch.split_last())
                        && self.folded().is_some()
                    {
                        if shortcut.is_empty()
                            && let Some((y, _)) =
                                self.run_inverted(branch, Some(norm), x, Some(x), resolution)?
                        {
                            own = Some(y);
                            continue;
                        }
                        let end = self.run(before, x, at, fits)?;
                        // The sum may take its place: that of x, if it is ours and not what the
                        // convolution reads.
                        let shortcut = match (shortcut.is_empty(), &own) {
                            (true, Some(own)) if !before.is_empty() => {
                                Residual::Own(own.shallow_clone())
                            }
                            (true, _) => Residual::Other(x),
                            (false, _) => Residual::Own(self.run(shortcut, x, at, fits)?),
                        };
                        let at = (conv, *weight);
                        let sum = self.folded_conv(at, norm, &end, Some(shortcut), resolution);
                        own = Some(
                            sum.with_context(|| format!("in the convolution {:?}", conv.name))?,
                        );
                        continue;
                    }
                    let mut branch = self.run(branch, x, at, fits)?;
                    // Without layers it is x.
                    let shortcut = self.run(shortcut, x, at, fits)?;
                    match (norm, drops.of_branch(*index)?) {
                        (Some(norm), None) => {
                            let of_sum = norm.activation;
                            self.norm(norm, &branch, Some(&shortcut), of_sum, resolution)?
                        }
                        (None, None) => branch.f_add_(&shortcut)?,
                        (Some(norm), Some(kept)) => {
                            let branch =
                                self.norm(norm, &branch, None, Activation::None, resolution)?;
                            let mut sum = branch.f_mul(&kept)?.f_add_(&shortcut)?;
                            match norm.activation {
                                Activation::None => sum,
                                Activation::Relu => sum.f_relu_()?,
                                Activation::Relu6 => sum.f_relu6_()?,
                            }
                        }
                        (None, Some(kept)) => branch.f_mul(&kept)?.f_add_(&shortcut)?,
                    }
                }
                Module::GlobalAveragePool => x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?,
                Module::Linear { name, weight, bias } => {
                    let kept = drops.features.as_ref();
                    let kept = kept.map(|factors| x.f_mul(factors)).transpose()?;
                    self.linear(kept.as_ref().unwrap_or(x), *weight, *bias)
                        .with_context(|| format!("in the linear layer {name:?}"))?
                }
            };
            own = Some(y);
        }
        Ok(own.unwrap_or_else(|| input.shallow_clone()))
    }

    /// A batch norm with an activation, after the addition of `residual` if there is one.
    fn norm(
        &self,
        norm: &Norm,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
        resolution: usize,
    ) -> Result<Tensor> {
        let tensors = &norm.by_resolution[resolution];
        let statistics = Statistics {
            of_batch: self.mode != Mode::Evaluate,
            momentum: match self.mode {
                Mode::Calibrate { share } => share,
                Mode::Train | Mode::Evaluate => self.modules.norm_options.momentum,
            },
            epsilon: self.modules.norm_options.epsilon,
        };
        let whole = |x: &Tensor, tensors: &BatchNorm, residual: Option<&Tensor>| {
            let kernels = self.modules.compute.kernels;
            if let (NormScope::AllProcesses(joint), true) =
                (&self.modules.norm_scope, statistics.of_batch)
            {
                return kernels::joint_batch_norm(
                    joint, kernels, x, tensors, residual, activation, statistics,
                );
            }
            if let Some(which) = kernels {
                let y = kernels::batch_norm(which, x, tensors, residual, activation, statistics)?;
                if let Some(y) = y {
                    return Ok(y);
                }
            }
            kernels::composed(x, tensors, residual, activation, statistics)
        };
        let y = match self.modules.norm_scope {
            NormScope::Groups(size) if statistics.of_batch && x.size4()?.0 > size => {
                in_groups(size, x, tensors, residual, whole)
            }
            _ => whole(x, tensors, residual),
        };
        y.with_context(|| format!("in the batch norm {:?}", norm.name))
    }

    fn linear(&self, x: &Tensor, weight: usize, bias: usize) -> Result<Tensor> {
        let tensors = (&self.weights[weight], &self.weights[bias]);
        if let Some(folded) = self.folded()
            && let Some(y) = folded.linear(weight, tensors, x)?
        {
            return Ok(y);
        }
        Ok(x.f_linear(tensors.0, Some(tensors.1))?)
    }

    /// With our kernels for GPUs.
    fn on_gpu(&self) -> bool {
        self.modules.compute.kernels == Some(Kernels::Gpu)
    }

    fn conv2d(&self, conv: &Conv, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let [rows, columns] = pad_amounts(x, conv.padding, conv.kernel, conv.stride)?;
        if self.on_gpu() && conv.kernel == 3 && conv.is_depthwise() {
            let (_, _, height, width) = x.size4()?;
            let out =
                [height, width].map(|side| conv.padding.output(side, conv.kernel, conv.stride));
            let y = kernels::depthwise(x, weight, conv.stride, [rows.0, columns.0], out)?;
            if let Some(y) = y {
                return Ok(y);
            }
        }
        let geometry = (conv.kernel, conv.stride, conv.groups, rows, columns);
        let trains = self.mode == Mode::Train && self.modules.compute.kernels == Some(Kernels::Cpu);
        if trains
            && geometry == (3, 1, 1, (1, 1), (1, 1))
            && kernels::are_small_maps(x, conv.out_channels)
        {
            return kernels::small_maps_convolution(x, weight);
        }
        conv2d(conv, x, weight, [rows, columns])
    }

    fn max_pool(&self, x: &Tensor, kernel: i64, stride: i64, padding: Padding) -> Result<Tensor> {
        let [rows, columns] = pad_amounts(x, padding, kernel, stride)?;
        let (_, _, height, width) = x.size4()?;
        let output = [height, width].map(|side| padding.output(side, kernel, stride));
        let padding = [rows.0, columns.0];
        if self.on_gpu()
            && let Some(y) = kernels::max_pool(x, kernel, stride, padding, output)?
        {
            return Ok(y);
        }
        if self.folded().is_some_and(Folded::is_float) {
            return kernels::max_pool_cpu(0, x, kernel, stride, Place { padding, output });
        }
        max_pool(x, kernel, stride, [rows, columns])
    }
}

/// A batch norm of so many consecutive images at a time. The running statistics become the means of what
/// each group makes of them, as if each were another process.
fn in_groups(
    size: i64,
    x: &Tensor,
    tensors: &BatchNorm,
    residual: Option<&Tensor>,
    norm: impl Fn(&Tensor, &BatchNorm, Option<&Tensor>) -> Result<Tensor>,
) -> Result<Tensor> {
    let copied = |tensor: &Tensor| tensor.f_detach_copy();
    let groups = x.f_split(size, 0)?;
    let residuals = residual
        .map(|residual| residual.f_split(size, 0))
        .transpose()?;
    let (mut all, mut means, mut vars) = (Vec::new(), Vec::new(), Vec::new());
    for (at, group) in groups.iter().enumerate() {
        let own = BatchNorm {
            weight: tensors.weight.shallow_clone(),
            bias: tensors.bias.shallow_clone(),
            running_mean: copied(&tensors.running_mean)?,
            running_var: copied(&tensors.running_var)?,
        };
        let residual = residuals.as_ref().and_then(|all| all.get(at));
        all.push(norm(group, &own, residual)?);
        means.push(own.running_mean);
        vars.push(own.running_var);
    }
    no_grad(|| {
        let count = groups.len() as i64;
        for (running, of_groups) in [(&tensors.running_mean, means), (&tensors.running_var, vars)] {
            let shares: Result<Vec<Tensor>, _> = of_groups
                .iter()
                .map(|own| own.f_div_scalar(count))
                .collect();
            let mean = Tensor::f_stack(&shares?, 0)?.f_sum_dim_intlist(0, false, None)?;
            running.shallow_clone().f_copy_(&mean)?;
        }
        anyhow::Ok(())
    })?;
    Ok(Tensor::f_cat(&all, 0)?)
}

/// The padding before and after the height, and before and after the width, of `x`.
pub(super) fn pad_amounts(
    x: &Tensor,
    padding: Padding,
    kernel: i64,
    stride: i64,
) -> Result<[(i64, i64); 2]> {
    let (_, _, height, width) = x.size4()?;
    Ok([height, width].map(|side| padding.amounts(side, kernel, stride)))
}

/// The images padded as far as libtorch's convolutions cannot do it, which pad both sides of a dimension alike,
/// and the padding that is left for them.
pub(super) fn padded(
    x: &Tensor,
    [rows, columns]: [(i64, i64); 2],
) -> Result<(Option<Tensor>, [i64; 2])> {
    if rows.0 == rows.1 && columns.0 == columns.1 {
        return Ok((None, [rows.0, columns.0]));
    }
    let padded = x.f_constant_pad_nd([columns.0, columns.1, rows.0, rows.1])?;
    Ok((Some(padded), [0, 0]))
}

fn conv2d(conv: &Conv, x: &Tensor, weight: &Tensor, amounts: [(i64, i64); 2]) -> Result<Tensor> {
    let (padded, padding) = padded(x, amounts)?;
    let x = padded.as_ref().unwrap_or(x);
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
