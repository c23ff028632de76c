//! The resolutions of a trainer's training batches, for the nodes that it validates on.

use std::collections::{HashMap, HashSet};

use super::Planned;
use super::links::Links;
use crate::node::Role;
use crate::recipe::Recipe;

/// By node of the recipe; empty where they are not known.
pub(super) type Training = HashMap<usize, Vec<u32>>;

/// `planned`: the nodes planned so far, of which `position` has those of the recipe.
pub(super) fn training(
    recipe: &Recipe,
    links: &Links,
    planned: &[Planned],
    position: &HashMap<usize, usize>,
) -> Training {
    let mut found = Training::new();
    for (trainer, node) in recipe.nodes.iter().enumerate() {
        let Some(Role::Trainer { port }) = node.kind.map(|kind| kind.role) else {
            continue;
        };
        let (train, others): (Vec<_>, Vec<_>) = links.of[trainer]
            .iter()
            .partition(|link| link.port == Some(port));
        let schema = train.first().and_then(|link| {
            let source = &planned[*position.get(&link.from)?];
            source.outputs.get(link.output?)
        });
        let resolutions = schema.map(|schema| schema.resolutions.clone());
        let resolutions = resolutions.unwrap_or_default();
        let own = upstream(links, train.iter().map(|link| link.from));
        for node in upstream(links, others.iter().map(|link| link.from)) {
            if !own.contains(&node) {
                found.entry(node).or_insert_with(|| resolutions.clone());
            }
        }
    }
    found
}

/// Some nodes and all that they read from.
pub(super) fn upstream(links: &Links, from: impl Iterator<Item = usize>) -> HashSet<usize> {
    let mut next: Vec<usize> = from.collect();
    let mut found: HashSet<usize> = next.iter().copied().collect();
    while let Some(node) = next.pop() {
        let inputs = links.of[node].iter().map(|link| link.from);
        next.extend(inputs.filter(|&from| found.insert(from)));
    }
    found
}
