//! Connecting a recipe's nodes: names resolved, types matched, schemas carried along, cycles and
//! unread outputs found. Opens no data and no device.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::counters::NodeId;
use crate::node::{Incoming, Kind, Node, Report, Schema};
use crate::problem::{Problem, Problems, did_you_mean, listed};
use crate::recipe::{Recipe, Written};

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

impl Plan {
    /// Checks the recipe. Every problem is found, not the first alone.
    pub fn new(recipe: Recipe) -> Result<Self, Problems> {
        let mut problems = recipe.problems.clone();
        let links = resolve(&recipe, &mut problems);
        let order = order(&recipe, &links, &mut problems);
        unread(&recipe, &links, &mut problems);
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

    /// The nodes; every node stands behind those that it reads from.
    pub fn nodes(&self) -> &[Planned] {
        &self.nodes
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

/// A resolved input of a written node.
struct Link {
    port: &'static str,
    from: usize,
    /// `None`: the node is known, but could not be read, so nothing is known of its outputs.
    output: Option<usize>,
}

fn resolve(recipe: &Recipe, problems: &mut Vec<Problem>) -> Vec<Vec<Link>> {
    recipe
        .nodes
        .iter()
        .map(|reader| {
            let (Some(node), Some(kind)) = (&reader.node, reader.kind) else {
                return Vec::new();
            };
            let inputs = node.inputs().into_iter();
            inputs
                .filter_map(|(port, input)| {
                    let span = input
                        .span_in(recipe.text.resolved())
                        .unwrap_or_else(|| reader.span.clone());
                    match resolve_one(recipe, kind, port, &input.reference, span) {
                        Ok((from, output)) => Some(Link { port, from, output }),
                        Err(problem) => {
                            problems.push(*problem);
                            None
                        }
                    }
                })
                .collect()
        })
        .collect()
}

fn resolve_one(
    recipe: &Recipe,
    kind: &Kind,
    port: &str,
    reference: &str,
    span: Range<usize>,
) -> Result<(usize, Option<usize>), Box<Problem>> {
    let wanted = kind
        .inputs
        .iter()
        .find(|input| input.name == port)
        .map_or("", |input| input.carries);
    let (name, output) = match reference.split_once('.') {
        Some((name, output)) => (name, Some(output)),
        None => (reference, None),
    };
    let Some(from) = recipe.nodes.iter().position(|node| node.name == name) else {
        let fitting = || {
            let nodes = recipe.nodes.iter();
            nodes
                .filter(|node| outputs(node).iter().any(|output| output.carries == wanted))
                .map(|node| node.name.as_str())
        };
        let all = recipe.nodes.iter().map(|node| node.name.as_str());
        return Err(Box::new(
            Problem::new(format!("there is no node `{name}`"), span)
                .label("unknown node")
                .help(
                    did_you_mean(name, fitting())
                        .or_else(|| did_you_mean(name, all))
                        .unwrap_or_else(|| {
                            format!("nodes that yield {wanted}: {}", listed(fitting()))
                        }),
                ),
        ));
    };
    let source = &recipe.nodes[from];
    let Some(source_kind) = source.kind else {
        return Ok((from, None));
    };
    let outputs = source_kind.outputs;
    let position = match (output, outputs) {
        (_, []) => {
            return Err(Box::new(
                Problem::new(format!("`{name}` has no output"), span)
                    .label(format!("a {} keeps what it is given", source_kind.name)),
            ));
        }
        (None, [_]) => 0,
        (None, several) => {
            let ports = several
                .iter()
                .map(|output| format!("{name}.{}", output.name));
            let ports: Vec<String> = ports.collect();
            return Err(Box::new(
                Problem::new(format!("`{name}` has several outputs"), span)
                    .label("which one?")
                    .help(format!("write {}", ports.join(" or "))),
            ));
        }
        (Some(output), outputs) => {
            let Some(position) = outputs.iter().position(|port| port.name == output) else {
                let names = || outputs.iter().map(|port| port.name);
                return Err(Box::new(
                    Problem::new(format!("`{name}` has no output `{output}`"), span)
                        .label("unknown port")
                        .help(
                            did_you_mean(output, names())
                                .unwrap_or_else(|| format!("it has {}", listed(names()))),
                        ),
                ));
            };
            position
        }
    };
    let carried = outputs[position].carries;
    if carried != wanted {
        let between = recipe.catalogue.0.iter().find(|between| {
            between.inputs.iter().any(|port| port.carries == carried)
                && between.outputs.iter().any(|port| port.carries == wanted)
        });
        return Err(Box::new(
            Problem::new(
                format!("`{port}` takes {wanted}, but `{reference}` yields {carried}"),
                span,
            )
            .label(format!("expected {wanted}"))
            .also(source.name_span.clone(), format!("yields {carried}"))
            .maybe_help(between.map(|kind| format!("a `{}` between the two would fit", kind.name))),
        ));
    }
    Ok((from, Some(position)))
}

fn outputs(node: &Written) -> &'static [crate::node::Port] {
    node.kind.map_or(&[], |kind| kind.outputs)
}

/// The nodes, each behind those that it reads from. Nodes of a cycle are reported and left out.
fn order(recipe: &Recipe, links: &[Vec<Link>], problems: &mut Vec<Problem>) -> Vec<usize> {
    let mut order = Vec::new();
    let mut placed = vec![false; links.len()];
    loop {
        let before = order.len();
        for (index, inputs) in links.iter().enumerate() {
            if !placed[index] && inputs.iter().all(|link| placed[link.from]) {
                placed[index] = true;
                order.push(index);
            }
        }
        if order.len() == before {
            break;
        }
    }
    // Every node left over reads, in the end, from a cycle: walk upstream until a node comes again.
    let mut reported = vec![false; links.len()];
    for start in 0..links.len() {
        if placed[start] || reported[start] {
            continue;
        }
        let mut walk = vec![start];
        let cycle = loop {
            let last = walk[walk.len() - 1];
            let Some(next) = links[last]
                .iter()
                .map(|link| link.from)
                .find(|&from| !placed[from])
            else {
                break None;
            };
            if let Some(at) = walk.iter().position(|&seen| seen == next) {
                break Some(walk.split_off(at));
            }
            walk.push(next);
        };
        let Some(mut cycle) = cycle else { continue };
        if cycle.iter().all(|&index| !reported[index]) {
            // The walk went against the stream.
            cycle.reverse();
            let first = cycle.iter().enumerate().min_by_key(|(_, index)| **index);
            let first = first.map_or(0, |(at, _)| at);
            cycle.rotate_left(first);
            let names: Vec<&str> = cycle
                .iter()
                .chain(cycle.first())
                .map(|&index| recipe.nodes[index].name.as_str())
                .collect();
            problems.push(
                Problem::new(
                    format!("these nodes wait for each other: {}", names.join(" -> ")),
                    recipe.nodes[cycle[0]].name_span.clone(),
                )
                .label("part of a cycle")
                .help("streams flow one way: let one of them read from somewhere else"),
            );
        }
        for index in walk.into_iter().chain(cycle) {
            reported[index] = true;
        }
    }
    order
}

fn unread(recipe: &Recipe, links: &[Vec<Link>], problems: &mut Vec<Problem>) {
    let reads = |from: usize, output: usize| {
        links
            .iter()
            .flatten()
            .any(|link| link.from == from && link.output.is_none_or(|position| position == output))
    };
    // A node that could not be read may well have been meant to read anything.
    if recipe.nodes.iter().any(|node| node.node.is_none()) {
        return;
    }
    for (index, node) in recipe.nodes.iter().enumerate() {
        let outputs = outputs(node);
        for (position, port) in outputs.iter().enumerate() {
            if reads(index, position) {
                continue;
            }
            let reference = match outputs {
                [_] => node.name.clone(),
                _ => format!("{}.{}", node.name, port.name),
            };
            let readers: Vec<&str> = recipe
                .catalogue
                .0
                .iter()
                .filter(|kind| {
                    kind.inputs
                        .iter()
                        .any(|input| input.carries == port.carries)
                })
                .map(|kind| kind.name)
                .collect();
            problems.push(
                Problem::new(
                    format!("nothing reads the {} of `{reference}`", port.carries),
                    node.name_span.clone(),
                )
                .label("unread output")
                .help(format!(
                    "add a node that reads it ({}), or take `{}` out",
                    listed(readers),
                    node.name
                )),
            );
        }
    }
}

fn propagate(
    recipe: &Recipe,
    links: &[Vec<Link>],
    order: &[usize],
    problems: &mut Vec<Problem>,
) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut position: HashMap<usize, usize> = HashMap::new();
    for &index in order {
        let written = &recipe.nodes[index];
        let (Some(node), Some(kind)) = (&written.node, written.kind) else {
            continue;
        };
        let edges: Option<Vec<Edge>> = links[index]
            .iter()
            .map(|link| {
                Some(Edge {
                    port: link.port,
                    node: *position.get(&link.from)?,
                    output: link.output?,
                })
            })
            .collect();
        // Where something before it is wrong, there is nothing to check this node against.
        let Some(edges) = edges.filter(|edges| edges.len() == node.inputs().len()) else {
            continue;
        };
        let incoming: Vec<Incoming> = edges
            .iter()
            .map(|edge| Incoming {
                port: edge.port,
                node: planned[edge.node].id.name.clone(),
                schema: planned[edge.node].outputs[edge.output].clone(),
            })
            .collect();
        let mut report = Report {
            text: recipe.text.resolved(),
            node: written.span.clone(),
            found: Vec::new(),
        };
        let outputs = node.plan(&incoming, &mut report);
        let sound = report.found.is_empty();
        problems.append(&mut report.found);
        if !sound || outputs.len() != kind.outputs.len() {
            continue;
        }
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
