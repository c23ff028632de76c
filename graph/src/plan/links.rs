//! Resolves input references to edges.

use std::collections::HashMap;
use std::ops::Range;

use rsflow_base::shown::Shown as _;

use crate::node::Port;
use crate::problem::{Problem, SHOWN};
use crate::recipe::{Recipe, Reference, Written};
use crate::words::{did_you_mean, listed};

/// A resolved input of a written node.
pub(super) struct Link {
    /// `None` where the reader's kind is unknown.
    pub(super) port: Option<&'static str>,
    pub(super) from: usize,
    /// `None` where the node's kind is unknown, and so its outputs.
    pub(super) output: Option<usize>,
}

pub(super) struct Links {
    /// For each node, what it reads from.
    pub(super) of: Vec<Vec<Link>>,
    /// The types of inputs that are not validly connected.
    pub(super) lacking: Vec<&'static str>,
    /// Whether there is a node whose inputs are unknown.
    pub(super) unknown: bool,
}

impl Links {
    /// The value of the field `field` of the first node that has one, on the way up from the input `port` of a node.
    pub(super) fn field_before(
        &self,
        recipe: &Recipe,
        node: usize,
        port: &str,
        field: &str,
    ) -> Option<Range<usize>> {
        let text = recipe.text.resolved();
        let mut link = self.of[node].iter().find(|link| link.port == Some(port))?;
        // As many steps as there are nodes: they may be in a cycle.
        for _ in &self.of {
            if let Some(value) = recipe.nodes[link.from].value.at(text, field) {
                return Some(value.span.clone());
            }
            link = self.of[link.from].first()?;
        }
        None
    }
}

pub(super) fn resolve(recipe: &Recipe, problems: &mut Vec<Problem>) -> Links {
    let mut lacking = Vec::new();
    // A name that is there twice refers to the first node.
    let mut positions: HashMap<&str, usize> = HashMap::new();
    for (position, node) in recipe.nodes.iter().enumerate() {
        positions.entry(&node.name).or_insert(position);
    }
    let of = recipe.nodes.iter().map(|reader| {
        let mut links = Vec::new();
        for input in &reader.inputs {
            let wanted = reader
                .kind
                .zip(input.port)
                .and_then(|(kind, port)| kind.inputs.iter().find(|wanted| wanted.name == port));
            let explain = problems.len() < SHOWN;
            match resolve_one(recipe, &positions, wanted, input, explain) {
                Ok((from, output)) => links.push(Link {
                    port: input.port,
                    from,
                    output,
                }),
                // In a node of an unknown kind, any string may be something else.
                Err(_) if wanted.is_none() => {}
                Err(problem) => problems.push(*problem),
            }
        }
        // Includes inputs missing in a node that could not be parsed.
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

/// `port` is the reader's input, if its kind is known. Without `explain` an error has no help.
fn resolve_one(
    recipe: &Recipe,
    positions: &HashMap<&str, usize>,
    port: Option<&Port>,
    input: &Reference,
    explain: bool,
) -> Result<(usize, Option<usize>), Box<Problem>> {
    let reference = input.name.as_str();
    let span = input.span.clone();
    let wanted = port.map_or("", |port| port.carries);
    let (name, output) = match reference.split_once('.') {
        Some((name, output)) => (name, Some(output)),
        None => (reference, None),
    };
    let Some(&from) = positions.get(name) else {
        let problem = Problem::new(format!("there is no node `{}`", name.shown()), span)
            .label("unknown node");
        if !explain {
            return Err(Box::new(problem));
        }
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
        return Err(Box::new(problem.help(help)));
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
                    .label(format!("a {} has no outputs", source_kind.name)),
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
                    .label("ambiguous")
                    .help(format!("write {}", ports.join(" or "))),
            ));
        }
        (Some(output), outputs) => {
            let Some(position) = outputs.iter().position(|port| port.name == output) else {
                let ports = outputs.iter().map(|port| format!("{name}.{}", port.name));
                let ports: Vec<String> = ports.collect();
                let names = || ports.iter().map(String::as_str);
                return Err(Box::new(
                    Problem::new(format!("`{name}` has no output `{}`", output.shown()), span)
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
            .maybe_help(between.map(|kind| format!("put a `{}` between the two", kind.name))),
        ));
    }
    Ok((from, Some(position)))
}

pub(super) fn outputs(node: &Written) -> &'static [Port] {
    node.kind.map_or(&[], |kind| kind.outputs)
}
