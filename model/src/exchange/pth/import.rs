//! A file of PyTorch's weights to a checkpoint.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rsflow_base::shown::{Shown as _, quoted};
use safetensors::Dtype;
use tch::{Kind, Tensor};

use super::container::{Pth, Root, Tensors, dtype_name};
use super::export::bytes;
use super::fit::{Fit, first_parts};
use super::images::ImageConfig;
use super::pickle::TensorRef;
use super::state_dict::StateDict;
use super::{misfit, momentum};
use crate::checkpoint::{Best, Metadata, Snapshot, check_values};
use crate::nn::networks::Network;
use crate::nn::switchable::check_resolutions;

/// The naming scheme of the tensors in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The reference implementation's, with private batch norms and alpha.
    Reference,
    /// torchvision's: a network with one resolution. timm's residual networks have the same names.
    Torchvision,
    /// timm's: a network with one resolution.
    Timm,
}

/// What happened to the optimizer's momentum buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Momentum {
    /// This many buffers were imported; 0 if the file has none.
    Imported(usize),
    /// They were not imported, for this reason.
    Skipped(String),
}

/// An imported file.
#[derive(Debug)]
pub struct Imported {
    pub snapshot: Snapshot,
    pub layout: Layout,
    /// Tensors of the network in the file.
    pub tensors: usize,
    /// The key that they are saved under, in quotes; `None`: the file is the state dict.
    pub key: Option<String>,
    /// Other keys that hold weights, in quotes.
    pub other_keys: Vec<String>,
    /// What all names of tensors began with.
    pub prefix: String,
    pub momentum: Momentum,
    pub images: ImagesFrom,
    /// The interpolation that the network was trained with, if it is replaced by another.
    pub replaced_interpolation: Option<String>,
}

/// Where it is from how images are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagesFrom {
    /// [`Import::config`].
    Config,
    /// The arguments of a training script in the file.
    Arguments,
    /// Nothing says it.
    Assumed,
}

/// A file may take its weights from one storage several times, but not make of a few bytes a large
/// network: the weights have at most this many times the bytes of the file.
const MAX_REUSE: u64 = 4;

/// What to make of a file.
#[derive(Clone, Copy, Debug)]
pub struct Import<'a> {
    /// The network. If its width is the default one, it is that of the tensors.
    pub network: &'a Network,
    /// In the order of the reference's batch norms `bn_0`, `bn_1`, ...
    pub resolutions: &'a [u32],
    /// In the order of the logits; by default they are empty.
    pub class_names: Option<&'a [String]>,
    /// The key of the weights in the file; by default it is found.
    pub key: Option<&'a str>,
    /// How images are made; by default it is what a script's arguments in the file say, else as for
    /// torchvision's weights.
    pub config: Option<&'a ImageConfig>,
    /// The share of an image's short side that is kept, above 0 and up to 1, whatever else says.
    pub fraction: Option<f64>,
}

/// Imports a file of `torch.save` or a safetensors file: a checkpoint of the reference
/// implementation, with epoch, best accuracies and momentum buffers if it has them; or the state
/// dict of a network of torchvision or timm, whose batch norms every resolution gets a copy of. Tensors
/// are converted to float32.
///
/// # Errors
/// As [`Pth::open`]; no weights, or weights under several keys; all tensors that are missing,
/// unknown or mis-shaped; those that are not of floating-point numbers, not finite, or negative
/// variances; the numbers of resolutions and batch norms, or of names and classes, differ. The
/// message names the path.
pub fn import(path: &Path, what: Import) -> Result<Imported> {
    Pth::open(path)
        .and_then(|mut file| import_inner(&mut file, what))
        .with_context(|| format!("cannot import {}", path.shown()))
}

fn import_inner(file: &mut Pth, what: Import) -> Result<Imported> {
    let Import {
        network,
        resolutions,
        class_names,
        key,
        config,
        fraction,
    } = what;
    let problems = check_resolutions(network, resolutions)?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let length = file.length();
    let (root, mut tensors) = file.contents();
    let own = first_parts(network)?;
    let state = StateDict::find(&root, key, |part| own.contains(part))?;
    let fit = Fit::new(&state, network, resolutions)?;
    let problems = fit.problems(&state);
    if !problems.is_empty() {
        bail!(misfit::explain(&state, &fit, resolutions, &problems)?);
    }
    let Fit {
        layout,
        network,
        classes,
        expected,
    } = fit;
    let bytes = state.tensors.iter().map(|(_, tensor)| {
        let numel = tensor.shape.iter().product::<i64>().unsigned_abs();
        numel.saturating_mul(tensor.dtype.elt_size_in_bytes() as u64)
    });
    let bytes = bytes.fold(0, u64::saturating_add);
    ensure!(
        bytes <= length.saturating_mul(MAX_REUSE),
        "its tensors share their memory: they have {bytes} bytes, the file {length}"
    );

    let arguments = root.get("args").and_then(ImageConfig::of_arguments);
    let (images, images_from) = match (config, arguments) {
        (Some(config), _) => (config.clone(), ImagesFrom::Config),
        (None, Some(arguments)) if layout != Layout::Reference => {
            (arguments, ImagesFrom::Arguments)
        }
        _ => (ImageConfig::default(), ImagesFrom::Assumed),
    };
    let names = class_names.or_else(|| images.class_names(classes as usize));
    let names = match names {
        Some(names) => names.to_vec(),
        None => vec![String::new(); classes as usize],
    };
    ensure!(
        names.len() == classes as usize,
        "it has {classes} classes, but the list of names has {}",
        names.len()
    );
    let mut metadata = Metadata::new(network.clone(), names, resolutions.to_vec());
    let mut momentum_buffers = Vec::new();
    let mut momentum = Momentum::Imported(0);
    match layout {
        Layout::Reference => {
            metadata.epoch = epoch(&root)?;
            metadata.best = best(&root, metadata.epoch, &mut tensors)?;
            (momentum_buffers, momentum) =
                momentum::read(&state, root.get("optimizer"), &expected, &mut tensors)?;
        }
        Layout::Torchvision | Layout::Timm => {}
    }
    let known = layout != Layout::Reference || images_from != ImagesFrom::Assumed;
    metadata.normalize = known.then(|| images.normalize());
    if known || fraction.is_some() {
        let preprocess = images.preprocess(fraction);
        preprocess.check()?;
        metadata.preprocess = Some(preprocess);
    }
    let mut all = Vec::new();
    for expected in &expected {
        let tensor = match &expected.theirs {
            Some(theirs) => read_weight(&mut tensors, theirs, state.get(theirs)?)?,
            // alpha, in a file of a single resolution: its initial value.
            None => Tensor::f_ones(&expected.shape, (Kind::Float, tch::Device::Cpu))?,
        };
        all.push((expected.ours.clone(), tensor));
    }
    all.extend(momentum_buffers);
    let snapshot =
        Snapshot::from_tensors(metadata, all.iter().map(|(n, t)| (n.clone(), t)).collect())?;
    Ok(Imported {
        snapshot,
        layout,
        tensors: state.tensors.len(),
        key: state.key,
        other_keys: state.others,
        prefix: state.prefix,
        momentum,
        images: images_from,
        replaced_interpolation: images.replaced_interpolation().map(str::to_owned),
    })
}

/// A tensor of any dtype, in float32.
pub(super) fn read(tensors: &mut Tensors, name: &str, tensor: TensorRef) -> Result<Tensor> {
    tensors
        .get(tensor)
        .and_then(|tensor| Ok(tensor.f_to_kind(Kind::Float)?))
        .with_context(|| format!("cannot read {}", quoted(name)))
}

/// A tensor of a network or of an optimizer, in float32.
pub(super) fn read_weight(tensors: &mut Tensors, name: &str, tensor: TensorRef) -> Result<Tensor> {
    let floats = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];
    ensure!(
        floats.contains(&tensor.dtype),
        "{} has the dtype {}, but weights are floating-point numbers",
        quoted(name),
        dtype_name(tensor.dtype)
    );
    let tensor = read(tensors, name, tensor)?;
    check_values(name, Dtype::F32, &bytes(&tensor)?)?;
    Ok(tensor)
}

/// The number of finished epochs.
fn epoch(root: &Root) -> Result<u64> {
    let Some(epoch) = root.get("epoch") else {
        return Ok(0);
    };
    let epoch = epoch.int().and_then(|epoch| u64::try_from(epoch).ok());
    epoch.context("its `epoch` is not a non-negative integer")
}

/// The best validation. The reference does not store its epoch: the last finished one is taken.
fn best(root: &Root, epoch: u64, tensors: &mut Tensors) -> Result<Option<Best>> {
    let mut number = |key: &str| -> Result<Option<f64>> {
        let Some(value) = root.get(key) else {
            return Ok(None);
        };
        match value.tensor() {
            Some(tensor) if tensor.shape.iter().all(|&size| size == 1) => {
                Ok(Some(read(tensors, key, tensor)?.f_double_value(&[])?))
            }
            _ => Ok(value.number()),
        }
    };
    let (first_top1, mean) = (number("best_acc0")?, number("best_acc")?);
    let both = first_top1.zip(mean);
    Ok(both.map(|(first_top1, mean)| Best::new(epoch.saturating_sub(1), first_top1, mean)))
}
