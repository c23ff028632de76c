//! A `.pth` file of PyTorch to a checkpoint.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::container::{Pth, Tensors};
use super::names::{reference_name, torchvision_name};
use super::pickle::{TensorRef, Value};
use crate::checkpoint::{Best, MOMENTUM_PREFIX, Metadata, Snapshot};
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
    pub momentum: Momentum,
}

/// The normalization that torchvision's weights were trained with.
const IMAGENET: Normalize = Normalize {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

/// Imports a file of `torch.save`: a checkpoint of the reference implementation, with epoch, best
/// accuracies and momentum buffers if it has them; or the state dict of a torchvision network,
/// whose batch norms every resolution gets a copy of. `resolutions` are in the order of the
/// reference's batch norms `bn_0`, `bn_1`, ... `class_names` are in the order of the logits; by
/// default they are empty. Tensors are converted to float32.
///
/// # Errors
/// As [`Pth::open`]; all tensors that are missing, unknown or mis-shaped; the numbers of
/// resolutions and batch norms, or of names and classes, differ. The message names the path.
pub fn import(
    path: &Path,
    network: &Network,
    resolutions: &[u32],
    class_names: Option<Vec<String>>,
) -> Result<Imported> {
    Pth::open(path)
        .and_then(|mut file| import_inner(&mut file, network, resolutions, class_names))
        .with_context(|| format!("cannot import {}", path.display()))
}

fn import_inner(
    file: &mut Pth,
    network: &Network,
    resolutions: &[u32],
    class_names: Option<Vec<String>>,
) -> Result<Imported> {
    let problems = check_resolutions(network, resolutions)?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let (root, mut tensors) = file.contents();
    let state = StateDict::find(root)?;
    let layout = state.layout();
    if layout == Layout::Reference {
        let batch_norms = state.batch_norms();
        ensure!(
            batch_norms == resolutions.len(),
            "its layers have {batch_norms} batch norms each, one for each resolution it was trained at, but {} sizes were given: {resolutions:?}",
            resolutions.len()
        );
    }
    let classes = state.classes(layout, network, resolutions)?;
    let expected = expected_tensors(layout, network, classes, resolutions)?;
    state.check(network, &expected)?;

    let names = class_names.unwrap_or_else(|| vec![String::new(); classes as usize]);
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
            metadata.epoch = epoch(root)?;
            metadata.best = best(root, metadata.epoch, &mut tensors)?;
            (momentum_buffers, momentum) = state.momentum(root, &expected, &mut tensors)?;
        }
        Layout::Torchvision => metadata.normalize = Some(IMAGENET),
    }
    let mut all = Vec::new();
    for expected in &expected {
        let tensor = match &expected.theirs {
            Some(theirs) => read(&mut tensors, theirs, state.get(theirs)?)?,
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
        momentum,
    })
}

fn read(tensors: &mut Tensors, name: &str, tensor: TensorRef) -> Result<Tensor> {
    tensors
        .get(tensor)
        .and_then(|tensor| Ok(tensor.f_to_kind(Kind::Float)?))
        .with_context(|| format!("cannot read {name:?}"))
}

/// A tensor of the network.
struct Expected {
    ours: String,
    /// Its name in the file; `None` if a file of this layout does not have it.
    theirs: Option<String>,
    shape: Vec<i64>,
}

fn expected_tensors(
    layout: Layout,
    network: &Network,
    classes: u32,
    resolutions: &[u32],
) -> Result<Vec<Expected>> {
    let all = declare(network, classes, resolutions, resolutions)?.into_iter();
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

/// The tensors of a state dict, in the order of the file, by their names without the prefix
/// `module.` that `DataParallel` adds to all of them.
struct StateDict<'a> {
    tensors: Vec<(&'a str, TensorRef<'a>)>,
    positions: HashMap<&'a str, usize>,
}

impl<'a> StateDict<'a> {
    fn find(root: Value<'a>) -> Result<Self> {
        let state = root.get("state_dict").unwrap_or(root);
        let entries: Vec<_> = state
            .entries()
            .context("it has no state dict: neither its `state_dict` nor itself is a dict")?
            // Only momentum=None would need it.
            .filter(|(key, _)| {
                let key = key.text();
                !key.is_some_and(|key| key.ends_with(".num_batches_tracked"))
            })
            .collect();
        let names = entries.iter().map(|(key, _)| key.text());
        let prefixed = names
            .clone()
            .all(|n| n.is_some_and(|n| n.starts_with("module.")));
        let mut tensors = Vec::new();
        for ((_, value), name) in entries.iter().zip(names) {
            let name = name.context("its state dict has a key that is not a string")?;
            let tensor = value
                .tensor()
                .with_context(|| format!("{name:?} of its state dict is not a tensor"))?;
            let bare = name.strip_prefix("module.").filter(|_| prefixed);
            tensors.push((bare.unwrap_or(name), tensor));
        }
        let named = tensors.iter().enumerate();
        let positions = named.map(|(at, (name, _))| (*name, at)).collect();
        Ok(StateDict { tensors, positions })
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.iter().map(|(name, _)| *name)
    }

    fn find_one(&self, name: &str) -> Option<TensorRef<'a>> {
        Some(self.tensors.get(*self.positions.get(name)?)?.1)
    }

    fn get(&self, name: &str) -> Result<TensorRef<'a>> {
        self.find_one(name)
            .with_context(|| format!("{name:?} is missing"))
    }

    fn layout(&self) -> Layout {
        if self.batch_norms() > 0 || self.find_one(ALPHA).is_some() {
            Layout::Reference
        } else {
            Layout::Torchvision
        }
    }

    /// The number of private batch norms of a layer: `bn_0`, `bn_1`, ...
    fn batch_norms(&self) -> usize {
        let parts = self.names().flat_map(|name| name.split('.'));
        let numbers = parts.filter_map(|part| part.strip_prefix("bn_"));
        numbers.collect::<HashSet<_>>().len()
    }

    /// The number of classes: the rows of the classifier.
    fn classes(&self, layout: Layout, network: &Network, resolutions: &[u32]) -> Result<u32> {
        let declared = declare(network, 1, resolutions, resolutions)?;
        let mut classifier = declared
            .iter()
            .filter(|d| matches!(d.role, Role::LinearWeight | Role::LinearBias))
            .filter_map(|d| self.find_one(&their_name(layout, network, d, resolutions)?));
        // Without a classifier any number will do: `check` reports that it is missing.
        let rows = classifier
            .next()
            .map_or(Some(1), |t| t.shape.first().copied());
        let classes = rows.and_then(|rows| u32::try_from(rows).ok());
        classes
            .filter(|&classes| classes > 0)
            .with_context(|| format!("its classifier has {rows:?} rows, one for each class"))
    }

    /// Checks that the file has the expected tensors, with their shapes, and no others.
    fn check(&self, network: &Network, expected: &[Expected]) -> Result<()> {
        let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for expected in expected {
            // In torchvision's layout the batch norms of all resolutions have one name.
            let theirs = expected.theirs.as_deref();
            let Some(theirs) = theirs.filter(|&theirs| known.insert(theirs)) else {
                continue;
            };
            match self.find_one(theirs) {
                None => missing.push(format!("{theirs:?}")),
                Some(tensor) if tensor.shape != expected.shape => misshaped.push(format!(
                    "{theirs:?} must have the shape {:?}, not {:?}",
                    expected.shape, tensor.shape
                )),
                Some(_) => {}
            }
        }
        let unknown = self.names().filter(|name| !known.contains(name));
        let unknown: Vec<String> = unknown.map(|name| format!("{name:?}")).collect();
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
            "its tensors do not fit {network:?}; is it another network? {}",
            problems.join(". ")
        );
        Ok(())
    }

    /// The momentum buffers under their names in a snapshot. The optimizer numbers the trainable
    /// tensors in the order of the state dict.
    fn momentum(
        &self,
        root: Value<'a>,
        expected: &[Expected],
        tensors: &mut Tensors,
    ) -> Result<(Vec<(String, Tensor)>, Momentum)> {
        let skipped = |why: String| Ok((Vec::new(), Momentum::Skipped(why)));
        let Some(optimizer) = root.get("optimizer") else {
            return Ok((Vec::new(), Momentum::Imported(0)));
        };
        let groups = optimizer.get("param_groups").and_then(Value::items);
        let groups: Vec<Value> = groups.map(Iterator::collect).unwrap_or_default();
        let [group] = groups[..] else {
            return skipped(format!(
                "the optimizer has {} parameter groups, so the order of the parameters is unknown",
                groups.len()
            ));
        };
        let ids = group.get("params").and_then(Value::items);
        let ids: Vec<Option<i128>> = ids
            .map(|ids| ids.map(Value::int).collect())
            .unwrap_or_default();
        let trainable: Vec<&str> = self
            .names()
            .filter(|name| !name.ends_with(".running_mean") && !name.ends_with(".running_var"))
            .collect();
        if ids.len() != trainable.len() {
            return skipped(format!(
                "the optimizer has {} parameters, the network {}",
                ids.len(),
                trainable.len()
            ));
        }
        let states = optimizer.get("state").and_then(Value::entries);
        let states: HashMap<Option<i128>, Value> = states
            .map(|states| states.map(|(id, state)| (id.int(), state)).collect())
            .unwrap_or_default();
        let ours: HashMap<&str, &Expected> = expected
            .iter()
            .filter_map(|expected| Some((expected.theirs.as_deref()?, expected)))
            .collect();
        let mut momentum = Vec::new();
        let mut problems = Vec::new();
        for (id, theirs) in ids.iter().zip(trainable) {
            let state = states
                .get(id)
                .and_then(|state| state.get("momentum_buffer"));
            let (Some(buffer), Some(expected)) = (state.and_then(Value::tensor), ours.get(theirs))
            else {
                continue;
            };
            if buffer.shape != expected.shape {
                problems.push(format!(
                    "that of {theirs:?} must have the shape {:?}, not {:?}",
                    expected.shape, buffer.shape
                ));
                continue;
            }
            let tensor = read(tensors, &format!("the momentum of {theirs}"), buffer)?;
            momentum.push((format!("{MOMENTUM_PREFIX}{}", expected.ours), tensor));
        }
        ensure!(
            problems.is_empty(),
            "the optimizer's momentum does not fit the network: {}",
            join_problems(&problems)
        );
        let imported = Momentum::Imported(momentum.len());
        Ok((momentum, imported))
    }
}

/// The number of finished epochs.
fn epoch(root: Value) -> Result<u64> {
    let Some(epoch) = root.get("epoch") else {
        return Ok(0);
    };
    let epoch = epoch.int().and_then(|epoch| u64::try_from(epoch).ok());
    epoch.context("its `epoch` is not a non-negative integer")
}

/// The best validation. The reference does not store its epoch: the last finished one is taken.
fn best(root: Value, epoch: u64, tensors: &mut Tensors) -> Result<Option<Best>> {
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
