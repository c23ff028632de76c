//! Checks of the graph: cycles, unread outputs, inputs that would deadlock, two writers of one file.

use std::collections::{HashMap, HashSet};

use super::links::{Link, Links, outputs};
use crate::node::{Port, Role};
use crate::problem::Problem;
use crate::recipe::{Recipe, Written};
use crate::words::{listed, one_of};

/// The nodes in topological order. Nodes of a cycle are reported and left out.
pub(super) fn order(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) -> Vec<usize> {
    let links = &links.of;
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); links.len()];
    let mut missing: Vec<usize> = links.iter().map(Vec::len).collect();
    for (reader, inputs) in links.iter().enumerate() {
        for link in inputs {
            readers[link.from].push(reader);
        }
    }
    // As if one went through the recipe from its start, again and again, and took every node whose
    // inputs were taken before: the round in which a node is taken.
    let mut round = vec![0; links.len()];
    let mut order: Vec<usize> = (0..links.len())
        .filter(|&node| missing[node] == 0)
        .collect();
    let mut next = 0;
    while let Some(&node) = order.get(next) {
        for &reader in &readers[node] {
            round[reader] = round[reader].max(round[node] + usize::from(reader < node));
            missing[reader] -= 1;
            if missing[reader] == 0 {
                order.push(reader);
            }
        }
        next += 1;
    }
    order.sort_by_key(|&node| (round[node], node));
    let mut placed = vec![false; links.len()];
    for &node in &order {
        placed[node] = true;
    }
    // Every remaining node leads back to a cycle: walk upstream until a node repeats.
    let mut reported = vec![false; links.len()];
    for start in 0..links.len() {
        if placed[start] || reported[start] {
            continue;
        }
        let mut walk = vec![start];
        let mut seen = HashMap::from([(start, 0)]);
        let cycle = loop {
            let last = walk[walk.len() - 1];
            let mut inputs = links[last].iter().map(|link| link.from);
            let Some(next) = inputs.find(|&from| !placed[from] && !reported[from]) else {
                break None;
            };
            if let Some(&at) = seen.get(&next) {
                break Some(walk.split_off(at));
            }
            seen.insert(next, walk.len());
            walk.push(next);
        };
        for &index in &walk {
            reported[index] = true;
        }
        let Some(mut cycle) = cycle else { continue };
        for &index in &cycle {
            reported[index] = true;
        }
        {
            // From upstream to downstream.
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
                    format!("these nodes form a cycle: {}", names.join(" -> ")),
                    recipe.nodes[cycle[0]].name_span.clone(),
                )
                .label("part of a cycle")
                .help("connect one of them to another node"),
            );
        }
    }
    order
}

/// Outputs without a reader, except those of `tapped` nodes. They are errors where nothing would run, else
/// warnings.
pub(super) fn unread(
    recipe: &Recipe,
    links: &Links,
    tapped: &[&str],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    if links.unknown {
        return;
    }
    // The outputs of each node that are read; `None`: some output.
    let mut read: Vec<Vec<Option<usize>>> = vec![Vec::new(); recipe.nodes.len()];
    for link in links.of.iter().flatten() {
        read[link.from].push(link.output);
    }
    let mut kinds = recipe.nodes.iter().filter_map(|node| node.kind);
    let runs = kinds.any(|kind| kind.role != Role::Data);
    let tapped: HashSet<&str> = tapped.iter().copied().collect();
    let mut names = HashSet::new();
    for (node, read) in recipe.nodes.iter().zip(read) {
        // A duplicate name refers to the first node.
        if !names.insert(&node.name) || tapped.contains(node.name.as_str()) {
            continue;
        }
        let is_read = |position: usize| {
            let mut outputs = read.iter();
            outputs.any(|output| output.is_none_or(|output| output == position))
        };
        for (position, port) in outputs(node).iter().enumerate() {
            // An input that is not connected elsewhere probably was meant to read this.
            if is_read(position) || links.lacking.contains(&port.carries) {
                continue;
            }
            let problem = unread_output(recipe, node, port);
            match runs {
                true => warnings.push(Problem {
                    is_warning: true,
                    ..problem
                }),
                false => problems.push(problem),
            }
        }
    }
}

fn unread_output(recipe: &Recipe, node: &Written, port: &Port) -> Problem {
    let reference = match outputs(node) {
        [_] => node.name.clone(),
        _ => format!("{}.{}", node.name, port.name),
    };
    let readers = recipe.catalogue.0.iter().filter(|kind| {
        let mut inputs = kind.inputs.iter();
        inputs.any(|input| input.carries == port.carries)
    });
    let readers: Vec<&str> = readers.map(|kind| kind.name).collect();
    let is_data = node.kind.is_none_or(|kind| kind.role == Role::Data);
    let (message, instead) = match is_data {
        true => (
            format!("output `{reference}` ({}) has no reader", port.carries),
            format!(", or remove `{}`", node.name),
        ),
        // A line that says what is lost.
        false => (
            format!(
                "nothing reads `{reference}`: its {} are not kept",
                port.carries
            ),
            String::new(),
        ),
    };
    Problem::new(message, node.name_span.clone())
        .label("unread output")
        .help(format!(
            "add a node that reads it ({}){instead}",
            one_of(readers)
        ))
}

/// Inputs of one node that come from the same node. A node reads its inputs in turn; the one that is
/// not read fills up and blocks their common source, so the run would deadlock.
pub(super) fn shared(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) {
    // A node and all nodes upstream, the nearest first.
    let upstream = |start: usize| {
        let mut found = vec![start];
        let mut is_found = HashSet::from([start]);
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            let inputs = links.of[node].iter().map(|link| link.from);
            found.extend(inputs.filter(|&from| is_found.insert(from)));
            next += 1;
        }
        (found, is_found)
    };
    for (reader, inputs) in recipe.nodes.iter().zip(&links.of) {
        if inputs.len() < 2 {
            continue;
        }
        let written = |link: &Link| {
            let mut inputs = reader.inputs.iter();
            Some((inputs.find(|input| input.port == link.port)?, link.port?))
        };
        for (position, later) in inputs.iter().enumerate() {
            let (all, _) = upstream(later.from);
            let both = inputs[..position].iter().find_map(|earlier| {
                let (_, others) = upstream(earlier.from);
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
                continue; // a duplicate name, reported elsewhere
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
                        "the inputs are read in turn, so the run would deadlock; give each input its own \
                         chain of nodes, including the source",
                    ),
            );
        }
    }
}

/// Two nodes that write the same file.
pub(super) fn one_writer(recipe: &Recipe, problems: &mut Vec<Problem>) {
    let mut writers: HashMap<&str, &Written> = HashMap::new();
    for node in &recipe.nodes {
        let file = node.kind.map_or("", |kind| kind.output_file);
        if file.is_empty() {
            continue;
        }
        let first = *writers.entry(file).or_insert(node);
        if std::ptr::eq(first, node) {
            continue;
        }
        let names = listed([first.name.as_str(), &node.name]);
        let message = format!("both {names} write `{file}` in the run directory");
        problems.push(
            Problem::new(message, node.name_span.clone())
                .label("writes it too")
                .also(first.name_span.clone(), "writes it")
                .help("remove one of them, and the nodes that only it reads"),
        );
    }
}
