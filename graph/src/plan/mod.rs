//! Connects a recipe's nodes: resolves names, matches types, propagates schemas, finds cycles and
//! unread outputs. Opens no data and no device.

mod links;
mod overlap;
mod shape;
mod training;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::batch::{Allocator, PlainMemory};
use crate::node::{Incoming, Kind, ListedImages, Node, NodeKind, Report, Role, Schema};
use crate::node_id::NodeId;
use crate::problem::{Problem, Problems};
use crate::recipe::Recipe;
use links::{Links, resolve};
use overlap::overlap;
use shape::{one_writer, order, shared, unread};
use training::{Training, training};

/// A checked graph.
#[derive(Clone)]
pub struct Plan {
    pub(crate) recipe_text: String,
    written: String,
    pub(crate) seed: u64,
    pub(crate) cpu_workers: Option<usize>,
    /// In topological order.
    pub(crate) nodes: Vec<Planned>,
    warnings: Problems,
}

/// A node of a plan.
#[derive(Clone)]
pub struct Planned {
    pub id: NodeId,
    pub kind: &'static Kind,
    pub(crate) node: Arc<dyn Node>,
    /// One for each connected input.
    pub inputs: Vec<Edge>,
    /// In the order of the kind's outputs.
    pub outputs: Vec<Schema>,
}

/// A connection, seen from its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    pub port: &'static str,
    /// The node that is read: an index into [`Plan::nodes`].
    pub node: usize,
    /// Index of its output.
    pub output: usize,
}

impl Planned {
    /// The node itself, if it is of the kind `K`.
    pub fn node<K: NodeKind>(&self) -> Option<&K> {
        let node: &dyn Any = &*self.node;
        node.downcast_ref()
    }

    /// Where the batches come from that it learns from; `None` if it does not train.
    pub fn training_input(&self) -> Option<&Edge> {
        let Role::Trainer { port: training } = self.kind.role else {
            return None;
        };
        self.inputs.iter().find(|edge| edge.port == training)
    }

    /// The images that it lists, see [`Node::lists`].
    pub fn lists(&self) -> Option<ListedImages> {
        self.node.lists()
    }

    /// Images in a full batch of its output, see [`Node::batch_size`].
    pub fn batch_size(&self) -> Option<u64> {
        self.node.batch_size()
    }
}

impl Plan {
    /// Checks the recipe and reports all problems.
    pub fn new(recipe: Recipe) -> Result<Self, Problems> {
        Self::with_taps(recipe, &[])
    }

    /// The same for a run in which [`crate::Tap`]s read all outputs of these nodes.
    pub fn with_taps(recipe: Recipe, tapped: &[&str]) -> Result<Self, Problems> {
        let mut problems = recipe.problems.clone();
        let links = resolve(&recipe, &mut problems);
        let order = order(&recipe, &links, &mut problems);
        let mut warnings = recipe.warnings.clone();
        unread(&recipe, &links, tapped, &mut problems, &mut warnings);
        shared(&recipe, &links, &mut problems);
        one_writer(&recipe, &mut problems);
        overlap(&recipe, &links, &mut problems, &mut warnings);
        let none = training(&recipe, &links, &[], &HashMap::new());
        let mut pass = propagate(&recipe, &links, &order, &none);
        if pass.takes_training {
            let training = training(&recipe, &links, &pass.planned, &pass.position);
            pass = propagate(&recipe, &links, &order, &training);
        }
        problems.append(&mut pass.problems);
        warnings.append(&mut pass.warnings);
        let planned = pass.planned;
        if !problems.is_empty() {
            return Err(Problems::new(recipe.text, problems));
        }
        Ok(Plan {
            recipe_text: recipe.text.without_let(),
            written: recipe.text.written().to_owned(),
            seed: recipe.seed,
            cpu_workers: recipe.cpu_workers,
            nodes: planned,
            warnings: Problems::new(recipe.text, warnings),
        })
    }

    /// The same without the check for unread outputs, where only a part runs ([`Plan::until`]).
    pub fn with_unread(recipe: Recipe) -> Result<Self, Problems> {
        let names: Vec<String> = recipe.nodes.iter().map(|node| node.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::with_taps(recipe, &names)
    }

    /// What its user may not have meant; empty if nothing is suspicious.
    pub fn warnings(&self) -> &Problems {
        &self.warnings
    }

    /// In topological order.
    pub fn nodes(&self) -> &[Planned] {
        &self.nodes
    }

    /// The connected inputs of a node: port and schema.
    pub fn incoming(&self, planned: &Planned) -> Vec<(&'static str, Schema)> {
        let edges = planned.inputs.iter();
        let schema = |edge: &Edge| self.nodes[edge.node].outputs[edge.output].clone();
        edges.map(|edge| (edge.port, schema(edge))).collect()
    }

    /// The nodes that train.
    pub fn trainers(&self) -> impl Iterator<Item = &Planned> {
        let trains = |planned: &&Planned| matches!(planned.kind.role, Role::Trainer { .. });
        self.nodes.iter().filter(trains)
    }

    /// Memory for the batches: what the first node that computes with them asks for, else plain
    /// memory.
    pub fn allocator(&self) -> Arc<dyn Allocator> {
        let mut asked = self
            .nodes
            .iter()
            .filter_map(|planned| planned.node.allocator());
        asked.next().unwrap_or_else(|| Arc::new(PlainMemory))
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The recipe with all overrides applied, and values in place of the names in `let`.
    pub fn recipe_text(&self) -> &str {
        &self.recipe_text
    }

    /// The recipe with all overrides applied, which further ones may change: with its `let`.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The plan of `node` and what is upstream of it; `None` if there is no such node.
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

/// What all nodes say of themselves.
#[derive(Default)]
struct Pass {
    planned: Vec<Planned>,
    /// The index in `planned` of a node without errors.
    position: HashMap<usize, usize>,
    /// Whether a node depends on the resolutions of a trainer's training batches.
    takes_training: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Lets every node check itself, in topological order. Nodes downstream of an error check their
/// parameters only, as the schemas of their inputs are unknown.
fn propagate(recipe: &Recipe, links: &Links, order: &[usize], training: &Training) -> Pass {
    let Pass {
        mut planned,
        mut position,
        mut takes_training,
        mut problems,
        mut warnings,
    } = Pass::default();
    let ordered: HashSet<usize> = order.iter().copied().collect();
    let in_cycles = (0..recipe.nodes.len()).filter(|index| !ordered.contains(index));
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
        let training = training.get(&index).map(Vec::as_slice);
        let upstream = |port: &str, field: &str| links.field_before(recipe, index, port, field);
        let node_written = (written.name.as_str(), &written.value);
        let text = recipe.text.resolved();
        let mut report = Report::new(text, node_written, training, &upstream);
        let outputs = node.plan(&incoming, &mut report);
        takes_training |= report.takes_training;
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
        let is_valid = report.found.is_empty();
        if edges.is_none() {
            report.found.retain(|problem| {
                let mut inputs = written.inputs.iter();
                !inputs.any(|input| problem.span.contains(&input.span.start))
            });
        }
        problems.append(&mut report.found);
        warnings.append(&mut report.warnings);
        let Some(edges) = edges.filter(|_| is_valid) else {
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
    Pass {
        planned,
        position,
        takes_training,
        problems,
        warnings,
    }
}
