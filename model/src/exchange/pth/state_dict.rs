//! The weights within a file: which of its dicts they are, and their names without the prefixes of
//! the programs that wrote them.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rsflow_base::shown::quoted;

use super::container::Root;
use super::pickle::{TensorRef, Value};
use crate::nn::parameters::join_problems;

/// The keys that programs save weights under, in the order in which they are looked for: the
/// reference, timm and Lightning; torchvision's reference scripts; PyTorch's tutorials; others.
const WEIGHTS: [&str; 6] = [
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "module",
];
/// The end of the name of what is only needed where `momentum=None`.
const COUNTER: &str = ".num_batches_tracked";
/// What `torch.optim.swa_utils.AveragedModel` adds: the number of updates.
const UPDATES: &str = "n_averaged";

/// The tensors of a network in a file, in its order, by their names without `prefix`.
pub(super) struct StateDict<'a> {
    pub tensors: Vec<(&'a str, TensorRef<'a>)>,
    positions: HashMap<&'a str, usize>,
    /// The key that it is saved under; `None`: it is all of the file.
    pub key: Option<String>,
    /// Other keys that hold weights.
    pub others: Vec<String>,
    /// What all names began with: `module.` of `DataParallel`, `_orig_mod.` of `torch.compile`, the
    /// name of an attribute of a `LightningModule`.
    pub prefix: String,
}

impl<'a> StateDict<'a> {
    /// The weights under `key`, by default under the first of [`WEIGHTS`] that is there, else all
    /// of the file, else under the only key that holds tensors. `is_own`: whether names of the
    /// network begin with this part, which then is no prefix.
    ///
    /// # Errors
    /// There are no weights, or none under `key`; weights under several other keys; a value that is
    /// not a tensor; a name that is there twice.
    pub fn find(root: &Root<'a>, key: Option<&str>, is_own: impl Fn(&str) -> bool) -> Result<Self> {
        let value = match root {
            Root::Value(value) => *value,
            Root::Tensors(tensors) => {
                ensure!(
                    key.is_none(),
                    "a safetensors file has no keys to choose from; leave --key out"
                );
                return Self::new(tensors.iter().copied(), is_own);
            }
        };
        let candidates: Vec<&str> = value
            .entries()
            .context("it has no state dict: its value is not a dict; save `model.state_dict()`")?
            .filter(|(_, value)| holds_tensors(*value))
            .filter_map(|(key, _)| key.text())
            .collect();
        let known = WEIGHTS.iter().find(|known| candidates.contains(known));
        let chosen = match (key, known, &candidates[..]) {
            (Some(key), _, _) => {
                ensure!(
                    candidates.contains(&key),
                    "there are no weights under the key {}; {}",
                    quoted(key),
                    offer(&candidates)
                );
                Some(key)
            }
            (None, Some(known), _) => Some(*known),
            (None, None, _) if holds_tensors(value) => None,
            (None, None, &[only]) => Some(only),
            (None, None, []) => bail!(
                "it has no state dict: no tensors, but {}; save `model.state_dict()`",
                keys(value)
            ),
            (None, None, several) => bail!("it has several state dicts; {}", offer(several)),
        };
        let dict = chosen.and_then(|key| value.get(key)).unwrap_or(value);
        let mut tensors = Vec::new();
        for (name, value) in dict.entries().into_iter().flatten() {
            let name = name
                .text()
                .context("its state dict has a key that is not a string")?;
            let tensor = value.tensor();
            let tensor = tensor
                .with_context(|| format!("{} of its state dict is not a tensor", quoted(name)))?;
            tensors.push((name, tensor));
        }
        let mut found = Self::new(tensors.into_iter(), is_own)?;
        let others = candidates.iter().filter(|&&key| Some(key) != chosen);
        found.others = others.map(|key| quoted(key)).collect();
        found.key = chosen.map(quoted);
        Ok(found)
    }

    fn new(
        tensors: impl Iterator<Item = (&'a str, TensorRef<'a>)>,
        is_own: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut tensors: Vec<(&str, TensorRef)> = tensors
            .filter(|(name, _)| !name.ends_with(COUNTER) && *name != UPDATES)
            .collect();
        let mut prefix = String::new();
        while let Some(part) = shared_part(&tensors).filter(|part| !is_own(part)) {
            prefix.push_str(part);
            prefix.push('.');
            for (name, _) in &mut tensors {
                *name = &name[part.len() + 1..];
            }
        }
        let mut positions = HashMap::with_capacity(tensors.len());
        for (at, (name, _)) in tensors.iter().enumerate() {
            ensure!(
                positions.insert(*name, at).is_none(),
                "{} is there twice",
                quoted(name)
            );
        }
        Ok(StateDict {
            tensors,
            positions,
            key: None,
            others: Vec::new(),
            prefix,
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.iter().map(|(name, _)| *name)
    }

    pub fn find_one(&self, name: &str) -> Option<TensorRef<'a>> {
        Some(self.tensors.get(*self.positions.get(name)?)?.1)
    }

    pub fn get(&self, name: &str) -> Result<TensorRef<'a>> {
        self.find_one(name)
            .with_context(|| format!("{} is missing", quoted(name)))
    }
}

/// The first part, up to a dot, that all names have in common.
fn shared_part<'a>(tensors: &[(&'a str, TensorRef)]) -> Option<&'a str> {
    let (first, _) = tensors.first()?;
    let (part, _) = first.split_once('.')?;
    let mut names = tensors.iter().map(|(name, _)| name.split_once('.'));
    names
        .all(|name| name.is_some_and(|(of, rest)| of == part && !rest.is_empty()))
        .then_some(part)
}

/// Whether it is a dict with a tensor in it.
fn holds_tensors(value: Value) -> bool {
    let mut entries = value.entries().into_iter().flatten();
    entries.any(|(_, value)| value.tensor().is_some())
}

fn keys(value: Value) -> String {
    let keys = value.entries().into_iter().flatten();
    let keys: Vec<String> = keys
        .map(|(key, _)| key.text().map_or_else(|| "?".to_owned(), quoted))
        .take(8)
        .collect();
    match keys.len() {
        0 => "nothing".to_owned(),
        _ => keys.join(", "),
    }
}

/// The way out where no key was chosen.
fn offer(candidates: &[&str]) -> String {
    let names: Vec<String> = candidates.iter().map(|key| quoted(key)).collect();
    match names.len() {
        0 => "no key of the file holds weights".to_owned(),
        _ => format!("--key names one: {}", join_problems(&names)),
    }
}
