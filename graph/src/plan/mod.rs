//! Connecting a recipe's nodes: names resolved, types matched, schemas carried along, cycles and
//! unread outputs found. Opens no data and no device.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use crate::counters::NodeId;
use crate::node::{Incoming, Kind, Node, NodeKind, Port, Report, Schema};
use crate::problem::{Problem, Problems, did_you_mean, listed, one_of};
use crate::recipe::{Recipe, Reference, Written};

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

/// A resolved input of a written node.
struct Link {
    /// `None` where the reader's kind is not known.
    port: Option<&'static str>,
    from: usize,
    /// `None`: the node is known, but could not be read, so nothing is known of its outputs.
    output: Option<usize>,
}

/// What reads what.
struct Links {
    /// For each node, what it reads from.
    of: Vec<Vec<Link>>,
    /// The types of items that some input takes, but was not rightly given.
    lacking: Vec<&'static str>,
    /// Some node does not even tell what it reads.
    unknown: bool,
}

fn resolve(recipe: &Recipe, problems: &mut Vec<Problem>) -> Links {
    let mut lacking = Vec::new();
    let of = recipe.nodes.iter().map(|reader| {
        let mut links = Vec::new();
        for input in &reader.inputs {
            let wanted = reader
                .kind
                .zip(input.port)
                .and_then(|(kind, port)| kind.inputs.iter().find(|wanted| wanted.name == port));
            match resolve_one(recipe, wanted, input) {
                Ok((from, output)) => links.push(Link {
                    port: input.port,
                    from,
                    output,
                }),
                // Any text may stand in a node of an unknown kind.
                Err(_) if wanted.is_none() => {}
                Err(problem) => problems.push(*problem),
            }
        }
        // An input that was left out of a node that could not be read may be what is wrong.
        for port in reader.kind.iter().flat_map(|kind| kind.inputs) {
            let is_given = links.iter().any(|link| link.port == Some(port.name));
            let is_named = reader
                .inputs
                .iter()
                .any(|input| input.port == Some(port.name));
            if !is_given && (is_named || reader.node.is_none()) {
                lacking.push(port.carries);
            }
        }
        links
    });
    let of: Vec<Vec<Link>> = of.collect();
    let silent = |(node, links): (&Written, &Vec<Link>)| node.kind.is_none() && links.is_empty();
    Links {
        unknown: recipe.nodes.iter().zip(&of).any(silent),
        of,
        lacking,
    }
}

/// `port` is the reader's, if its kind is known.
fn resolve_one(
    recipe: &Recipe,
    port: Option<&Port>,
    input: &Reference,
) -> Result<(usize, Option<usize>), Box<Problem>> {
    let reference = input.name.as_str();
    let span = input.span.clone();
    let wanted = port.map_or("", |port| port.carries);
    let (name, output) = match reference.split_once('.') {
        Some((name, output)) => (name, Some(output)),
        None => (reference, None),
    };
    let Some(from) = recipe.nodes.iter().position(|node| node.name == name) else {
        let fitting = recipe.nodes.iter().flat_map(|node| {
            let all = outputs(node);
            let fitting = all.iter().filter(|output| output.carries == wanted);
            fitting.map(|output| match all {
                [_] => node.name.clone(),
                _ => format!("{}.{}", node.name, output.name),
            })
        });
        let fitting: Vec<String> = fitting.collect();
        let fitting = || fitting.iter().map(String::as_str);
        let all = recipe.nodes.iter().map(|node| node.name.as_str());
        let help = did_you_mean(reference, fitting())
            .or_else(|| did_you_mean(name, all))
            .unwrap_or_else(|| format!("nodes that yield {wanted}: {}", listed(fitting())));
        return Err(Box::new(
            Problem::new(format!("there is no node `{name}`"), span)
                .label("unknown node")
                .help(help),
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
            let fits = |output: &&Port| output.carries == wanted;
            let any_fits = several.iter().any(|output| fits(&output));
            let fitting = several.iter().filter(|output| !any_fits || fits(output));
            let ports = fitting.map(|output| format!("`{name}.{}`", output.name));
            let ports: Vec<String> = ports.collect();
            return Err(Box::new(
                Problem::new(format!("`{name}` has several outputs"), span)
                    .label("which one?")
                    .help(format!("write {}", ports.join(" or "))),
            ));
        }
        (Some(output), outputs) => {
            let Some(position) = outputs.iter().position(|port| port.name == output) else {
                let ports = outputs.iter().map(|port| format!("{name}.{}", port.name));
                let ports: Vec<String> = ports.collect();
                let names = || ports.iter().map(String::as_str);
                return Err(Box::new(
                    Problem::new(format!("`{name}` has no output `{output}`"), span)
                        .label("unknown port")
                        .help(
                            did_you_mean(reference, names())
                                .unwrap_or_else(|| format!("it has {}", listed(names()))),
                        ),
                ));
            };
            position
        }
    };
    let carried = outputs[position].carries;
    if let Some(port) = port
        && carried != wanted
    {
        let between = recipe.catalogue.0.iter().find(|between| {
            between.inputs.iter().any(|port| port.carries == carried)
                && between.outputs.iter().any(|port| port.carries == wanted)
        });
        return Err(Box::new(
            Problem::new(
                format!(
                    "`{}` takes {wanted}, but `{reference}` yields {carried}",
                    port.name
                ),
                span,
            )
            .label(format!("expected {wanted}"))
            .also(source.name_span.clone(), format!("yields {carried}"))
            .maybe_help(between.map(|kind| format!("a `{}` between the two would fit", kind.name))),
        ));
    }
    Ok((from, Some(position)))
}

fn outputs(node: &Written) -> &'static [Port] {
    node.kind.map_or(&[], |kind| kind.outputs)
}

/// The nodes, each behind those that it reads from. Nodes of a cycle are reported and left out.
fn order(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) -> Vec<usize> {
    let links = &links.of;
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

fn unread(recipe: &Recipe, links: &Links, tapped: &[&str], problems: &mut Vec<Problem>) {
    let reads = |from: usize, output: usize| {
        let mut all = links.of.iter().flatten();
        all.any(|link| link.from == from && link.output.is_none_or(|position| position == output))
    };
    if links.unknown {
        return;
    }
    for (index, node) in recipe.nodes.iter().enumerate() {
        if tapped.contains(&node.name.as_str()) {
            continue;
        }
        // A name that is given twice means the first node.
        if recipe.nodes[..index]
            .iter()
            .any(|first| first.name == node.name)
        {
            continue;
        }
        let outputs = outputs(node);
        for (position, port) in outputs.iter().enumerate() {
            // What is missing elsewhere was likely meant to be this.
            if reads(index, position) || links.lacking.contains(&port.carries) {
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
                    one_of(readers),
                    node.name
                )),
            );
        }
    }
}

/// Inputs of one node that come from the same node. It reads one for a while and then the other, which
/// until then holds up what comes before both: the run would stand still.
fn shared(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) {
    // A node and all that it reads from, the nearest first.
    let upstream = |start: usize| {
        let mut found = vec![start];
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            for link in &links.of[node] {
                if !found.contains(&link.from) {
                    found.push(link.from);
                }
            }
            next += 1;
        }
        found
    };
    for (reader, inputs) in recipe.nodes.iter().zip(&links.of) {
        let written = |link: &Link| {
            let mut inputs = reader.inputs.iter();
            Some((inputs.find(|input| input.port == link.port)?, link.port?))
        };
        for (position, later) in inputs.iter().enumerate() {
            let all = upstream(later.from);
            let both = inputs[..position].iter().find_map(|earlier| {
                let others = upstream(earlier.from);
                let source = all.iter().find(|node| others.contains(node))?;
                Some((*source, written(earlier)?, written(later)?))
            });
            let Some((source, (first, first_port), (second, second_port))) = both else {
                continue;
            };
            let source = &recipe.nodes[source].name;
            if recipe
                .nodes
                .iter()
                .filter(|node| node.name == *source)
                .count()
                > 1
            {
                continue; // one of two nodes of this name, as the user has been told
            }
            let what = format!(
                "`{first_port}` and `{second_port}` of `{}` both come from `{source}`",
                reader.name
            );
            problems.push(
                Problem::new(what, second.span.clone())
                    .label(format!("comes from `{source}`"))
                    .also(first.span.clone(), "so does this")
                    .help(
                        "they are read in turn, so one would wait for the other for ever: give each of them \
                         nodes of its own, down to the source",
                    ),
            );
        }
    }
}

/// What a node writes alone has one such node.
fn one_writer(recipe: &Recipe, problems: &mut Vec<Problem>) {
    let writes = |node: &Written| node.kind.map_or("", |kind| kind.writes);
    for (index, node) in recipe.nodes.iter().enumerate() {
        let file = writes(node);
        let mut before = recipe.nodes[..index].iter();
        let first = before.find(|first| !file.is_empty() && writes(first) == file);
        problems.extend(first.map(|first| {
            let names = listed([first.name.as_str(), &node.name]);
            let message = format!("both {names} write `{file}` in the run directory");
            Problem::new(message, node.name_span.clone())
                .label("writes it too")
                .also(first.name_span.clone(), "writes it")
                .help("take one of them out")
        }));
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
