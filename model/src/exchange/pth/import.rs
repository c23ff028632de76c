//! A file of PyTorch's to a checkpoint of ours.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::container::{Pth, Tensors};
use super::names::{reference_name, single_name};
use super::pickle::{Described, Value};
use crate::checkpoint::{Best, MOMENTUM, Metadata, Snapshot};
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Role, list};
use crate::nn::rs_net::{ALPHA, check_resolutions, declare};
use crate::nn::transfer::Normalize;

/// Whose names the tensors of a file have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The reference implementation's: private batch norms and alpha.
    Reference,
    /// Those of a network with one resolution, as torchvision has them.
    Single,
}

/// What became of the optimizer's momentum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Momentum {
    /// It was taken over, for so many tensors; 0 if the file has none.
    Taken(usize),
    /// It was left out, for this reason.
    LeftOut(String),
}

/// A file that was read.
#[derive(Debug)]
pub struct Imported {
    /// What is to be written.
    pub snapshot: Snapshot,
    /// Whose names its tensors had.
    pub layout: Layout,
    /// How many tensors of the network the file has.
    pub tensors: usize,
    /// What became of the momentum.
    pub momentum: Momentum,
}

/// How torchvision's weights want their images.
const IMAGENET: Normalize = Normalize {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

/// Reads a file that `torch.save` wrote: a checkpoint of the reference implementation, with epoch,
/// best accuracies and momentum as far as they are there, or the weights of a network with one
/// resolution, whose batch norms every size then starts with. `sizes` are the resolutions, the
/// reference's batch norms `bn_0`, `bn_1`, ... in their order. `class_names` are in the order of
/// the logits; left out, they are not known. Tensors become single precision.
///
/// # Errors
/// As [`Pth::open`]; all tensors that are missing, unknown or mis-shaped; another number of sizes
/// or names than the file has batch norms or classes. The message names the path.
pub fn import(
    path: &Path,
    network: &Network,
    sizes: &[u32],
    class_names: Option<Vec<String>>,
) -> Result<Imported> {
    Pth::open(path)
        .and_then(|mut file| import_inner(&mut file, network, sizes, class_names))
        .with_context(|| format!("cannot import {}", path.display()))
}

fn import_inner(
    file: &mut Pth,
    network: &Network,
    sizes: &[u32],
    class_names: Option<Vec<String>>,
) -> Result<Imported> {
    let problems = check_resolutions(network, sizes)?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let (root, mut tensors) = file.parts();
    let state = State::find(root)?;
    let layout = state.layout();
    if layout == Layout::Reference {
        let norms = state.norms();
        ensure!(
            norms == sizes.len(),
            "its layers have {norms} batch norms each, one for each resolution it was trained at, but {} sizes were named: {sizes:?}",
            sizes.len()
        );
    }
    let classes = state.classes(layout, network, sizes)?;
    let wanted = wanted(layout, network, classes, sizes)?;
    state.check(network, &wanted)?;

    let names = class_names.unwrap_or_else(|| vec![String::new(); classes as usize]);
    ensure!(
        names.len() == classes as usize,
        "it has {classes} classes, but {} were named",
        names.len()
    );
    let mut metadata = Metadata::new(network.clone(), names, sizes.to_vec());
    let mut momentum = (Vec::new(), Momentum::Taken(0));
    match layout {
        Layout::Reference => {
            metadata.epoch = epoch(root)?;
            metadata.best = best(root, metadata.epoch, &mut tensors)?;
            momentum = state.momentum(root, &wanted, &mut tensors)?;
        }
        Layout::Single => metadata.normalize = Some(IMAGENET),
    }
    let mut all = Vec::new();
    for wanted in &wanted {
        let tensor = match &wanted.theirs {
            Some(theirs) => read(&mut tensors, theirs, state.get(theirs)?)?,
            None => Tensor::f_ones(&wanted.shape, (Kind::Float, tch::Device::Cpu))?,
        };
        all.push((wanted.ours.clone(), tensor));
    }
    let (momentum, told) = momentum;
    all.extend(momentum);
    let snapshot = Snapshot::of(metadata, all.iter().map(|(n, t)| (n.clone(), t)).collect())?;
    Ok(Imported {
        snapshot,
        layout,
        tensors: state.tensors.len(),
        momentum: told,
    })
}

fn read(tensors: &mut Tensors, name: &str, tensor: Described) -> Result<Tensor> {
    tensors
        .get(tensor)
        .and_then(|tensor| Ok(tensor.f_to_kind(Kind::Float)?))
        .with_context(|| format!("cannot read {name:?}"))
}

/// A tensor of ours.
struct Wanted {
    ours: String,
    /// Its name in the file; `None` if a file of this layout has no such tensor.
    theirs: Option<String>,
    shape: Vec<i64>,
}

/// All tensors of the network.
fn wanted(layout: Layout, network: &Network, classes: u32, sizes: &[u32]) -> Result<Vec<Wanted>> {
    let all = declare(network, classes, sizes, sizes)?.into_iter();
    let all = all.map(|declared| Wanted {
        theirs: their_name(layout, network, &declared, sizes),
        ours: declared.name,
        shape: declared.shape,
    });
    Ok(all.collect())
}

fn their_name(
    layout: Layout,
    network: &Network,
    declared: &Declaration,
    sizes: &[u32],
) -> Option<String> {
    match layout {
        Layout::Reference => reference_name(network, &declared.name, declared.resolution, sizes),
        Layout::Single => single_name(&declared.name, declared.resolution),
    }
}

/// The tensors of a network, in the order of the file, by their names without `module.`, which a
/// wrapper of PyTorch's puts before all of them.
struct State<'a> {
    tensors: Vec<(&'a str, Described<'a>)>,
    positions: HashMap<&'a str, usize>,
}

impl<'a> State<'a> {
    fn find(root: Value<'a>) -> Result<Self> {
        let state = root.get("state_dict").unwrap_or(root);
        let entries: Vec<_> = state
            .entries()
            .context("it holds no state dict: neither its `state_dict` nor itself is a dict")?
            // How many batches the statistics have seen: nothing here depends on it.
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
            let tensor = value.tensor().with_context(|| {
                format!(
                    "{name:?} of its state dict is not a tensor; a state dict holds nothing else"
                )
            })?;
            let bare = name.strip_prefix("module.").filter(|_| prefixed);
            tensors.push((bare.unwrap_or(name), tensor));
        }
        let named = tensors.iter().enumerate();
        let positions = named.map(|(at, (name, _))| (*name, at)).collect();
        Ok(State { tensors, positions })
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.iter().map(|(name, _)| *name)
    }

    fn find_one(&self, name: &str) -> Option<Described<'a>> {
        Some(self.tensors.get(*self.positions.get(name)?)?.1)
    }

    fn get(&self, name: &str) -> Result<Described<'a>> {
        self.find_one(name)
            .with_context(|| format!("{name:?} is missing"))
    }

    fn layout(&self) -> Layout {
        if self.norms() > 0 || self.find_one(ALPHA).is_some() {
            Layout::Reference
        } else {
            Layout::Single
        }
    }

    /// How many private batch norms its layers have: those called `bn_0`, `bn_1`, ...
    fn norms(&self) -> usize {
        let parts = self.names().flat_map(|name| name.split('.'));
        let numbers = parts.filter_map(|part| part.strip_prefix("bn_"));
        numbers.collect::<HashSet<_>>().len()
    }

    /// The number of classes: the rows of the classifier.
    fn classes(&self, layout: Layout, network: &Network, sizes: &[u32]) -> Result<u32> {
        let declared = declare(network, 1, sizes, sizes)?;
        let mut classifier = declared
            .iter()
            .filter(|d| matches!(d.role, Role::LinearWeight | Role::LinearBias))
            .filter_map(|d| self.find_one(&their_name(layout, network, d, sizes)?));
        // Without a classifier any number will do: it is missing, and that is told.
        let rows = classifier
            .next()
            .map_or(Some(1), |t| t.shape.first().copied());
        let classes = rows.and_then(|rows| u32::try_from(rows).ok());
        classes
            .filter(|&classes| classes > 0)
            .with_context(|| format!("its classifier has {rows:?} rows, one for each class"))
    }

    /// Makes sure that the file has the wanted tensors, with their shapes, and no others.
    fn check(&self, network: &Network, wanted: &[Wanted]) -> Result<()> {
        let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for wanted in wanted {
            // Of one resolution's batch norm all of ours are copies.
            let theirs = wanted.theirs.as_deref();
            let Some(theirs) = theirs.filter(|&theirs| known.insert(theirs)) else {
                continue;
            };
            match self.find_one(theirs) {
                None => missing.push(format!("{theirs:?}")),
                Some(tensor) if tensor.shape != wanted.shape => misshaped.push(format!(
                    "{theirs:?} should have the shape {:?}, not {:?}",
                    wanted.shape, tensor.shape
                )),
                Some(_) => {}
            }
        }
        let unknown = self.names().filter(|name| !known.contains(name));
        let unknown: Vec<String> = unknown.map(|name| format!("{name:?}")).collect();
        let problems: Vec<String> = [
            ("Missing", missing),
            ("Of another shape", misshaped),
            ("Not in the network", unknown),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", list(names)))
        .collect();
        ensure!(
            problems.is_empty(),
            "its tensors do not fit {network:?}; is it another network? {}",
            problems.join(". ")
        );
        Ok(())
    }

    /// The momentum by our names, ready for a snapshot. The optimizer counts the trainable tensors
    /// in the order of the state dict.
    fn momentum(
        &self,
        root: Value<'a>,
        wanted: &[Wanted],
        tensors: &mut Tensors,
    ) -> Result<(Vec<(String, Tensor)>, Momentum)> {
        let left_out = |why: String| Ok((Vec::new(), Momentum::LeftOut(why)));
        let Some(optimizer) = root.get("optimizer") else {
            return Ok((Vec::new(), Momentum::Taken(0)));
        };
        let groups = optimizer.get("param_groups").and_then(Value::items);
        let groups: Vec<Value> = groups.map(Iterator::collect).unwrap_or_default();
        let [group] = groups[..] else {
            return left_out(format!(
                "the optimizer has {} groups of parameters, so that their order is not known",
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
            return left_out(format!(
                "the optimizer has {} parameters, the network {}",
                ids.len(),
                trainable.len()
            ));
        }
        let states = optimizer.get("state").and_then(Value::entries);
        let states: HashMap<Option<i128>, Value> = states
            .map(|states| states.map(|(id, state)| (id.int(), state)).collect())
            .unwrap_or_default();
        let ours: HashMap<&str, &Wanted> = wanted
            .iter()
            .filter_map(|wanted| Some((wanted.theirs.as_deref()?, wanted)))
            .collect();
        let mut momentum = Vec::new();
        let mut problems = Vec::new();
        for (id, theirs) in ids.iter().zip(trainable) {
            let state = states
                .get(id)
                .and_then(|state| state.get("momentum_buffer"));
            let (Some(buffer), Some(wanted)) = (state.and_then(Value::tensor), ours.get(theirs))
            else {
                continue;
            };
            if buffer.shape != wanted.shape {
                problems.push(format!(
                    "that of {theirs:?} should have the shape {:?}, not {:?}",
                    wanted.shape, buffer.shape
                ));
                continue;
            }
            let tensor = read(tensors, &format!("the momentum of {theirs}"), buffer)?;
            momentum.push((format!("{MOMENTUM}{}", wanted.ours), tensor));
        }
        ensure!(
            problems.is_empty(),
            "the optimizer's momentum does not fit the network: {}",
            list(&problems)
        );
        let taken = Momentum::Taken(momentum.len());
        Ok((momentum, taken))
    }
}

/// How many epochs are finished.
fn epoch(root: Value) -> Result<u64> {
    let Some(epoch) = root.get("epoch") else {
        return Ok(0);
    };
    let epoch = epoch.int().and_then(|epoch| u64::try_from(epoch).ok());
    epoch.context("its `epoch` is not a whole number of at least 0")
}

/// The best validation, as far as the reference keeps it: not when it was; after the last epoch at
/// the latest.
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
