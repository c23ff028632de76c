//! What a network expects of a file: the tensors under the names of its layout, with their shapes.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use rsflow_base::shown::quoted;

use super::import::Layout;
use super::names::{reference_name, timm_name, torchvision_name};
use super::state_dict::StateDict;
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Role};
use crate::nn::switchable::{ALPHA, declare};

/// A tensor of the network.
pub(super) struct Expected {
    pub ours: String,
    /// Its name in the file; `None` if a file of this layout does not have it.
    pub theirs: Option<String>,
    pub shape: Vec<i64>,
    pub is_classifier: bool,
}

/// A network, and the tensors that a file of a layout must have for it.
pub(super) struct Fit {
    pub layout: Layout,
    /// With the width of the tensors.
    pub network: Network,
    pub classes: u32,
    pub expected: Vec<Expected>,
}

/// What is wrong with the tensors of a file; names are in quotes.
#[derive(Default)]
pub(super) struct Problems {
    pub missing: Vec<String>,
    pub misshaped: Vec<String>,
    pub unknown: Vec<String>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty() && self.unknown.is_empty()
    }
}

impl Fit {
    /// # Errors
    /// The file has another number of batch norms than there are resolutions; its classifier has no rows.
    pub fn new(state: &StateDict, network: &Network, resolutions: &[u32]) -> Result<Self> {
        let layout = layout(state, network)?;
        if layout == Layout::Reference {
            let batch_norms = batch_norms(state);
            ensure!(
                batch_norms == resolutions.len(),
                "its layers have {batch_norms} batch norms each, one for each resolution it was trained at, but {} sizes were given: {resolutions:?}",
                resolutions.len()
            );
        }
        let network = network.with_width_of(|name| {
            let theirs = their_name(layout, network, name, None, resolutions)?;
            Some(state.find_one(&theirs)?.shape.to_vec())
        });
        let classes = classes(state, layout, &network, resolutions)?;
        let declared = declare(&network, classes, resolutions, &resolutions.into())?;
        let expected = declared.into_iter().map(|declared| Expected {
            theirs: name_of(layout, &network, &declared, resolutions),
            is_classifier: is_classifier(&declared),
            ours: declared.name,
            shape: declared.shape,
        });
        Ok(Fit {
            layout,
            expected: expected.collect(),
            network,
            classes,
        })
    }

    /// Compares the names and shapes of the file's tensors.
    pub fn problems(&self, state: &StateDict) -> Problems {
        let mut problems = Problems::default();
        let mut known = HashSet::new();
        for expected in &self.expected {
            // In the layouts of a single resolution the batch norms of all resolutions have one name.
            let theirs = expected.theirs.as_deref();
            let Some(theirs) = theirs.filter(|&theirs| known.insert(theirs)) else {
                continue;
            };
            match state.find_one(theirs) {
                None => problems.missing.push(quoted(theirs)),
                Some(tensor) if tensor.shape != expected.shape => {
                    problems.misshaped.push(format!(
                        "{} must have the shape {:?}, not {:?}",
                        quoted(theirs),
                        expected.shape,
                        tensor.shape
                    ));
                }
                Some(_) => {}
            }
        }
        let unknown = state.names().filter(|name| !known.contains(name));
        problems.unknown = unknown.map(quoted).collect();
        problems
    }
}

/// The first parts, up to a dot, of the names of the network's tensors in any layout.
pub(super) fn first_parts(network: &Network) -> Result<HashSet<String>> {
    let mut parts = HashSet::new();
    for declared in declare(network, 1, &[0], &(&[0]).into())? {
        for layout in [Layout::Reference, Layout::Torchvision, Layout::Timm] {
            let name = name_of(layout, network, &declared, &[0]);
            let part = name.and_then(|name| name.split('.').next().map(str::to_owned));
            parts.extend(part);
        }
    }
    Ok(parts)
}

fn name_of(
    layout: Layout,
    network: &Network,
    declared: &Declaration,
    resolutions: &[u32],
) -> Option<String> {
    let Declaration {
        name, resolution, ..
    } = declared;
    their_name(layout, network, name, *resolution, resolutions)
}

fn their_name(
    layout: Layout,
    network: &Network,
    name: &str,
    resolution: Option<u32>,
    resolutions: &[u32],
) -> Option<String> {
    match layout {
        Layout::Reference => reference_name(network, name, resolution, resolutions),
        Layout::Torchvision => torchvision_name(name, resolution),
        Layout::Timm => timm_name(network, name, resolution),
    }
}

/// Of torchvision's and timm's names, those of which the file has more.
fn layout(state: &StateDict, network: &Network) -> Result<Layout> {
    if batch_norms(state) > 0 || state.find_one(ALPHA).is_some() {
        return Ok(Layout::Reference);
    }
    let declared = declare(network, 1, &[0], &(&[0]).into())?;
    let found = |layout| {
        let names = declared.iter();
        let names = names.filter_map(|declared| name_of(layout, network, declared, &[0]));
        names.filter(|name| state.find_one(name).is_some()).count()
    };
    Ok(match found(Layout::Timm) > found(Layout::Torchvision) {
        true => Layout::Timm,
        false => Layout::Torchvision,
    })
}

/// The number of private batch norms of a layer: `bn_0`, `bn_1`, ...
fn batch_norms(state: &StateDict) -> usize {
    let parts = state.names().flat_map(|name| name.split('.'));
    let numbers = parts.filter_map(|part| part.strip_prefix("bn_"));
    numbers.collect::<HashSet<_>>().len()
}

fn is_classifier(declared: &Declaration) -> bool {
    matches!(declared.role, Role::LinearWeight | Role::LinearBias)
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
        .filter(|declared| is_classifier(declared))
        .filter_map(|d| state.find_one(&name_of(layout, network, d, resolutions)?));
    // Without a classifier any number will do: it is reported as missing.
    let rows = classifier
        .next()
        .map_or(Some(1), |t| t.shape.first().copied());
    let classes = rows.and_then(|rows| u32::try_from(rows).ok());
    classes.filter(|&classes| classes > 0).with_context(|| {
        let rows = rows.map_or_else(|| "no".to_owned(), |rows| rows.to_string());
        format!("its classifier has {rows} rows, one for each class")
    })
}
