//! A file of PyTorch's weights to a checkpoint.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rsflow_base::shown::{Shown as _, quoted};
use safetensors::Dtype;
use tch::{Kind, Tensor};

use super::container::{Pth, Root, Tensors, dtype_name};
use super::export::bytes;
use super::momentum;
use super::names::{reference_name, torchvision_name};
use super::pickle::TensorRef;
use super::state_dict::StateDict;
use crate::checkpoint::{Best, Metadata, Snapshot, check_values};
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Role, join_problems};
use crate::nn::switchable::{ALPHA, check_resolutions, declare};
use crate::nn::transfer::Normalize;

/// The naming scheme of the tensors in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The reference implementation's, with private batch norms and alpha.
    Reference,
    /// torchvision's: a network with one resolution.
    Torchvision,
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
}

/// A file may take its weights from one storage several times, but not make of a few bytes a large
/// network: the weights have at most this many times the bytes of the file.
const MAX_REUSE: u64 = 4;

/// The normalization that torchvision's weights were trained with.
const IMAGENET: Normalize = Normalize {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

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
}

/// Imports a file of `torch.save` or a safetensors file: a checkpoint of the reference
/// implementation, with epoch, best accuracies and momentum buffers if it has them; or the state
/// dict of a torchvision network, whose batch norms every resolution gets a copy of. Tensors are
/// converted to float32.
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
    } = what;
    let problems = check_resolutions(network, resolutions)?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let length = file.length();
    let (root, mut tensors) = file.contents();
    let own = first_parts(network)?;
    let state = StateDict::find(&root, key, |part| own.contains(part))?;
    let layout = layout(&state);
    if layout == Layout::Reference {
        let batch_norms = batch_norms(&state);
        ensure!(
            batch_norms == resolutions.len(),
            "its layers have {batch_norms} batch norms each, one for each resolution it was trained at, but {} sizes were given: {resolutions:?}",
            resolutions.len()
        );
    }
    let network = &network.with_width_of(|name| {
        let theirs = match layout {
            Layout::Reference => reference_name(network, name, None, resolutions),
            Layout::Torchvision => torchvision_name(name, None),
        };
        Some(state.find_one(&theirs?)?.shape.to_vec())
    });
    let classes = classes(&state, layout, network, resolutions)?;
    let expected = expected_tensors(layout, network, classes, resolutions)?;
    check(&state, network, &expected)?;
    let bytes = state.tensors.iter().map(|(_, tensor)| {
        let numel = tensor.shape.iter().product::<i64>().unsigned_abs();
        numel.saturating_mul(tensor.dtype.elt_size_in_bytes() as u64)
    });
    let bytes = bytes.fold(0, u64::saturating_add);
    ensure!(
        bytes <= length.saturating_mul(MAX_REUSE),
        "its tensors share their memory: they have {bytes} bytes, the file {length}"
    );

    let names = match class_names {
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
        Layout::Torchvision => metadata.normalize = Some(IMAGENET),
    }
    let mut all = Vec::new();
    for expected in &expected {
        let tensor = match &expected.theirs {
            Some(theirs) => read_weight(&mut tensors, theirs, state.get(theirs)?)?,
            // alpha, in a file of torchvision: its initial value.
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
    })
}

/// The first parts, up to a dot, of the names of the network's tensors in any layout.
fn first_parts(network: &Network) -> Result<HashSet<String>> {
    let mut parts = HashSet::new();
    for declared in declare(network, 1, &[0], &(&[0]).into())? {
        for layout in [Layout::Reference, Layout::Torchvision] {
            let name = their_name(layout, network, &declared, &[0]);
            let part = name.and_then(|name| name.split('.').next().map(str::to_owned));
            parts.extend(part);
        }
    }
    Ok(parts)
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

/// A tensor of the network.
pub(super) struct Expected {
    pub ours: String,
    /// Its name in the file; `None` if a file of this layout does not have it.
    pub theirs: Option<String>,
    pub shape: Vec<i64>,
}

fn expected_tensors(
    layout: Layout,
    network: &Network,
    classes: u32,
    resolutions: &[u32],
) -> Result<Vec<Expected>> {
    let all = declare(network, classes, resolutions, &resolutions.into())?.into_iter();
    let all = all.map(|declared| Expected {
        theirs: their_name(layout, network, &declared, resolutions),
        ours: declared.name,
        shape: declared.shape,
    });
    Ok(all.collect())
}

fn their_name(
    layout: Layout,
    network: &Network,
    declared: &Declaration,
    resolutions: &[u32],
) -> Option<String> {
    match layout {
        Layout::Reference => {
            reference_name(network, &declared.name, declared.resolution, resolutions)
        }
        Layout::Torchvision => torchvision_name(&declared.name, declared.resolution),
    }
}

fn layout(state: &StateDict) -> Layout {
    if batch_norms(state) > 0 || state.find_one(ALPHA).is_some() {
        Layout::Reference
    } else {
        Layout::Torchvision
    }
}

/// The number of private batch norms of a layer: `bn_0`, `bn_1`, ...
fn batch_norms(state: &StateDict) -> usize {
    let parts = state.names().flat_map(|name| name.split('.'));
    let numbers = parts.filter_map(|part| part.strip_prefix("bn_"));
    numbers.collect::<HashSet<_>>().len()
}

/// The number of classes: the rows of the classifier.
fn classes(
    state: &StateDict,
    layout: Layout,
    network: &Network,
    resolutions: &[u32],
) -> Result<u32> {
    let declared = declare(network, 1, resolutions, &resolutions.into())?;
    let mut classifier = declared
        .iter()
        .filter(|d| matches!(d.role, Role::LinearWeight | Role::LinearBias))
        .filter_map(|d| state.find_one(&their_name(layout, network, d, resolutions)?));
    // Without a classifier any number will do: `check` reports that it is missing.
    let rows = classifier
        .next()
        .map_or(Some(1), |t| t.shape.first().copied());
    let classes = rows.and_then(|rows| u32::try_from(rows).ok());
    classes.filter(|&classes| classes > 0).with_context(|| {
        let rows = rows.map_or_else(|| "no".to_owned(), |rows| rows.to_string());
        format!("its classifier has {rows} rows, one for each class")
    })
}

/// Checks that the file has the expected tensors, with their shapes, and no others.
fn check(state: &StateDict, network: &Network, expected: &[Expected]) -> Result<()> {
    let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for expected in expected {
        // In torchvision's layout the batch norms of all resolutions have one name.
        let theirs = expected.theirs.as_deref();
        let Some(theirs) = theirs.filter(|&theirs| known.insert(theirs)) else {
            continue;
        };
        match state.find_one(theirs) {
            None => missing.push(quoted(theirs)),
            Some(tensor) if tensor.shape != expected.shape => misshaped.push(format!(
                "{} must have the shape {:?}, not {:?}",
                quoted(theirs),
                expected.shape,
                tensor.shape
            )),
            Some(_) => {}
        }
    }
    let unknown = state.names().filter(|name| !known.contains(name));
    let unknown: Vec<String> = unknown.map(quoted).collect();
    let problems: Vec<String> = [
        ("Missing", missing),
        ("Shape mismatch", misshaped),
        ("Not in the network", unknown),
    ]
    .iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {}", join_problems(names)))
    .collect();
    ensure!(
        problems.is_empty(),
        "its tensors do not fit {network}; is it another network? {}",
        problems.join(". ")
    );
    Ok(())
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
