//! Checks of the graph: cycles, unread outputs, inputs that would deadlock, two writers of one file.

use super::links::{Link, Links, outputs};
use crate::problem::Problem;
use crate::recipe::{Recipe, Written};
use crate::words::{listed, one_of};

/// The nodes in topological order. Nodes of a cycle are reported and left out.
pub(super) fn order(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) -> Vec<usize> {
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
    // Every remaining node leads back to a cycle: walk upstream until a node repeats.
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
        for index in walk.into_iter().chain(cycle) {
            reported[index] = true;
        }
    }
    order
}

/// Outputs without a reader, except those of `tapped` nodes.
pub(super) fn unread(recipe: &Recipe, links: &Links, tapped: &[&str], problems: &mut Vec<Problem>) {
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
        // A duplicate name refers to the first node.
        if recipe.nodes[..index]
            .iter()
            .any(|first| first.name == node.name)
        {
            continue;
        }
        let outputs = outputs(node);
        for (position, port) in outputs.iter().enumerate() {
            // An input that is not connected elsewhere probably was meant to read this.
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
                    format!("output `{reference}` ({}) has no reader", port.carries),
                    node.name_span.clone(),
                )
                .label("unread output")
                .help(format!(
                    "add a node that reads it ({}), or remove `{}`",
                    one_of(readers),
                    node.name
                )),
            );
        }
    }
}

/// Inputs of one node that come from the same node. A node reads its inputs in turn; the one that is
/// not read fills up and blocks their common source, so the run would deadlock.
pub(super) fn shared(recipe: &Recipe, links: &Links, problems: &mut Vec<Problem>) {
    // A node and all nodes upstream, the nearest first.
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
    let output_file = |node: &Written| node.kind.map_or("", |kind| kind.output_file);
    for (index, node) in recipe.nodes.iter().enumerate() {
        let file = output_file(node);
        let mut before = recipe.nodes[..index].iter();
        let first = before.find(|first| !file.is_empty() && output_file(first) == file);
        problems.extend(first.map(|first| {
            let names = listed([first.name.as_str(), &node.name]);
            let message = format!("both {names} write `{file}` in the run directory");
            Problem::new(message, node.name_span.clone())
                .label("writes it too")
                .also(first.name_span.clone(), "writes it")
                .help("remove one of them, and the nodes that only it reads")
        }));
    }
}
