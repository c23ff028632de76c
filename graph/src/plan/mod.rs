//! Connecting a recipe's nodes: names resolved, types matched, schemas carried along, cycles and
//! unread outputs found. Opens no data and no device.

mod links;
mod shape;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use crate::counters::NodeId;
use crate::node::{Incoming, Kind, Node, NodeKind, Report, Schema};
use crate::problem::{Problem, Problems};
use crate::recipe::Recipe;
use links::{Links, resolve};
use shape::{one_writer, order, shared, unread};

/// A graph that fits together. Only a plan can be run.
#[derive(Clone)]
pub struct Plan {
    pub(crate) recipe_text: String,
    pub(crate) seed: u64,
    pub(crate) cpu_workers: Option<usize>,
    /// Every node stands behind those that it reads from.
    pub(crate) nodes: Vec<Planned>,
}

/// A node of a plan.
#[derive(Clone)]
pub struct Planned {
    /// Name and kind.
    pub id: NodeId,
    /// The catalogue's entry.
    pub kind: &'static Kind,
    /// The node itself.
    pub(crate) node: Arc<dyn Node>,
    /// What feeds each input that is connected.
    pub inputs: Vec<Edge>,
    /// What each output carries, in the order of the kind's outputs.
    pub outputs: Vec<Schema>,
}

/// A connection, seen from its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The reader's input port.
    pub port: &'static str,
    /// The node that is read, as an index into [`Plan::nodes`].
    pub node: usize,
    /// Which of its outputs.
    pub output: usize,
}

impl Planned {
    /// The node itself, if it is of the kind `K`.
    pub fn node<K: NodeKind>(&self) -> Option<&K> {
        let node: &dyn Any = &*self.node;
        node.downcast_ref()
    }
}

impl Plan {
    /// Checks the recipe. Every problem is found, not the first alone.
    pub fn new(recipe: Recipe) -> Result<Self, Problems> {
        Self::with_taps(recipe, &[])
    }

    /// The same where [`crate::Tap`]s will read all outputs of these nodes.
    pub fn with_taps(recipe: Recipe, tapped: &[&str]) -> Result<Self, Problems> {
        let mut problems = recipe.problems.clone();
        let links = resolve(&recipe, &mut problems);
        let order = order(&recipe, &links, &mut problems);
        unread(&recipe, &links, tapped, &mut problems);
        shared(&recipe, &links, &mut problems);
        one_writer(&recipe, &mut problems);
        let planned = propagate(&recipe, &links, &order, &mut problems);
        if !problems.is_empty() {
            return Err(Problems::new(recipe.text, problems));
        }
        Ok(Plan {
            recipe_text: recipe.text.resolved().to_owned(),
            seed: recipe.seed,
            cpu_workers: recipe.cpu_workers,
            nodes: planned,
        })
    }

    /// The same where any output may be unread: what will run is a part ([`Plan::until`]).
    pub fn with_unread(recipe: Recipe) -> Result<Self, Problems> {
        let names: Vec<String> = recipe.nodes.iter().map(|node| node.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::with_taps(recipe, &names)
    }

    /// The nodes; every node stands behind those that it reads from.
    pub fn nodes(&self) -> &[Planned] {
        &self.nodes
    }

    /// What comes in at the connected inputs of one of the plan's nodes: port and schema.
    pub fn incoming(&self, planned: &Planned) -> Vec<(&'static str, Schema)> {
        let edges = planned.inputs.iter();
        let schema = |edge: &Edge| self.nodes[edge.node].outputs[edge.output].clone();
        edges.map(|edge| (edge.port, schema(edge))).collect()
    }

    /// The recipe's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The recipe with all overrides applied.
    pub fn recipe_text(&self) -> &str {
        &self.recipe_text
    }

    /// The plan without everything that `node` does not need. Its outputs may be unread.
    pub fn until(&self, node: &str) -> Option<Plan> {
        let target = self
            .nodes
            .iter()
            .position(|planned| planned.id.name == node)?;
        let mut needed = vec![false; self.nodes.len()];
        needed[target] = true;
        for index in (0..=target).rev() {
            if needed[index] {
                for edge in &self.nodes[index].inputs {
                    needed[edge.node] = true;
                }
            }
        }
        let mut renumbered = vec![0; self.nodes.len()];
        let mut nodes = Vec::new();
        for (index, planned) in self.nodes.iter().enumerate() {
            if needed[index] {
                renumbered[index] = nodes.len();
                let mut planned = planned.clone();
                for edge in &mut planned.inputs {
                    edge.node = renumbered[edge.node];
                }
                nodes.push(planned);
            }
        }
        Some(Plan {
            nodes,
            ..self.clone()
        })
    }
}

/// Has every node check itself. What stands behind a mistake is checked too, but its inputs are
/// not: what they bring is wrong or not known.
fn propagate(
    recipe: &Recipe,
    links: &Links,
    order: &[usize],
    problems: &mut Vec<Problem>,
) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    // Where a sound node stands in `planned`.
    let mut position: HashMap<usize, usize> = HashMap::new();
    let in_cycles = (0..recipe.nodes.len()).filter(|index| !order.contains(index));
    for index in order.iter().copied().chain(in_cycles) {
        let written = &recipe.nodes[index];
        let (Some(node), Some(kind)) = (&written.node, written.kind) else {
            continue;
        };
        let edges = node.inputs().into_iter().map(|(port, _)| {
            let mut links = links.of[index].iter();
            let link = links.find(|link| link.port == Some(port))?;
            Some(Edge {
                port,
                node: *position.get(&link.from)?,
                output: link.output?,
            })
        });
        let edges: Vec<Option<Edge>> = edges.collect();
        let inputs = node.inputs().into_iter().zip(&edges);
        let incoming: Vec<Incoming> = inputs
            .map(|((port, input), edge)| {
                let from = edge.map(|edge| (&planned[edge.node], edge.output));
                Incoming {
                    port,
                    node: match from {
                        Some((from, _)) => from.id.name.clone(),
                        None => input.reference.clone(),
                    },
                    schema: match from {
                        Some((from, output)) => from.outputs[output].clone(),
                        None => Schema::default(),
                    },
                }
            })
            .collect();
        let mut report = Report {
            text: recipe.text.resolved(),
            node: written.span.clone(),
            found: Vec::new(),
        };
        let outputs = node.plan(&incoming, &mut report);
        let edges: Option<Vec<Edge>> = edges.into_iter().collect();
        if report.found.is_empty() && outputs.len() != kind.outputs.len() {
            report.found.push(Problem::new(
                format!(
                    "a bug in {}, please report it: it has {} outputs, but planned {}",
                    kind.name,
                    kind.outputs.len(),
                    outputs.len()
                ),
                written.name_span.clone(),
            ));
        }
        let sound = report.found.is_empty();
        if edges.is_none() {
            report.found.retain(|problem| {
                let mut inputs = written.inputs.iter();
                !inputs.any(|input| problem.span.contains(&input.span.start))
            });
        }
        problems.append(&mut report.found);
        let Some(edges) = edges.filter(|_| sound) else {
            continue;
        };
        position.insert(index, planned.len());
        planned.push(Planned {
            id: NodeId {
                name: written.name.clone(),
                kind: kind.name,
            },
            kind,
            node: Arc::clone(node),
            inputs: edges,
            outputs,
        });
    }
    planned
}
