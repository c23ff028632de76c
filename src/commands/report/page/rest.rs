//! The ensemble's weights, where the time went, and the recipe.

use std::time::Duration;

use maud::{Markup, html};
use rsflow_base::run_files::{CHECKPOINTS, RECIPE};
use rsflow_base::shown::{Shown as _, lines};

use super::{figure, quoted, table, text, unreadable};
use crate::commands::report::charts;
use crate::commands::report::run::{Run, WeightsAt};
use crate::commands::report::times::{self, From, NodeTimes, Times};
use crate::figures::percent;
use crate::progress::duration;
use crate::table::{thousands, time};

/// Characters of a recipe that are shown.
const MOST_OF_RECIPE: usize = 200_000;

/// How much each size counts, in the checkpoints that are kept.
pub fn ensemble(run: &Run) -> Markup {
    let Some(newest) = run.weights.last() else {
        return html! {
            p.missing { "There is no checkpoint in " code { (CHECKPOINTS) "/" } " that has the ensemble's weights." }
        };
    };
    if newest.of.len() < 2 {
        return html! { p.missing { "A network of one size has no ensemble." } };
    }
    let header = [html! { "after epoch" }].into_iter();
    let header = header.chain(newest.of.iter().map(|(size, _)| html! { (size) }));
    let header: Vec<Markup> = header.collect();
    let row = |weights: &WeightsAt| {
        let epoch = format!("{:.1}", weights.epoch);
        let epoch = [html! { (epoch.trim_end_matches(".0")) }].into_iter();
        let cells = weights
            .of
            .iter()
            .map(|(_, weight)| html! { (format!("{weight:.3}")) });
        epoch.chain(cells).collect()
    };
    // The chart has those between.
    let rows: Vec<Vec<Markup>> = match run.weights.as_slice() {
        [first, .., last] => [first, last].map(row).into(),
        only => only.iter().map(row).collect(),
    };
    html! {
        @if let Some(it) = charts::weights(run) { div.figures { (figure(&it)) } }
        (table(1, &header, &rows))
        p.note {
            "How much the logits of each size count: softmax(alpha). They are read from the "
            @match run.weights.len() {
                1 => "only checkpoint that is kept",
                count => { (count) " checkpoints that are kept" },
            }
            "; " code { "Checkpoints(keep: N)" } " in a recipe keeps those of more epochs."
        }
    }
}

/// A row for each node, with bars of what it spent its time on.
pub fn times(run: &Run) -> Markup {
    let it = match &run.times {
        Some(Ok(times)) => node_table(times),
        Some(Err(error)) => unreadable(error),
        None => {
            html! { p.missing { "It is not known: the run has not ended, or its log has no figures." } }
        }
    };
    let is_profile = matches!(&run.times, Some(Ok(times)) if times.from == From::Profile);
    html! {
        (it)
        @if !is_profile {
            p.missing {
                "A profile has more: "
                code {
                    "rsflow profile " (quoted(&run.path.join(RECIPE))) " --json " (quoted(&run.path.join(times::FILE)))
                }
            }
        }
    }
}

fn node_table(times: &Times) -> Markup {
    let header = [
        "node",
        "kind",
        "items",
        "time",
        "working",
        "waiting for input",
        "waiting for readers",
        "an item",
        "queue",
    ];
    let row = |node: &NodeTimes| {
        let mean = node
            .mean
            .and_then(|it| Duration::try_from_secs_f64(it).ok());
        vec![
            text(&node.name),
            text(&node.kind),
            html! { (thousands(node.items)) },
            stacked(node),
            html! { (percent(node.busy)) },
            html! { (percent(node.wait_input)) },
            html! { (percent(node.wait_output)) },
            html! { (time(mean)) },
            html! { (node.queue.map_or(String::new(), percent)) },
        ]
    };
    let rows: Vec<Vec<Markup>> = times.nodes.iter().map(row).collect();
    let length = Duration::try_from_secs_f64(times.seconds).map_or(String::new(), duration);
    html! {
        (table(2, &header.map(|it| html! { (it) }), &rows))
        p.legend {
            span.key.busy {} "working " span.key.input {} "waiting for input "
            span.key.output {} "waiting for readers"
        }
        p.note {
            @match times.from {
                From::Profile => "Measured by rsflow profile over ",
                From::Run => "As the run has logged, over ",
            }
            (length)
            @if let Some(workers) = times.workers { ", with " (workers) @if workers == 1 { " worker" } @else { " workers" } }
            @if let Some(rate) = times.images_per_second { ", at " (thousands(rate.round() as u64)) " images/s" }
            ". Work on data is a share of all workers' time."
        }
        @if let Some(verdict) = &times.verdict { p { (lines(verdict)) } }
    }
}

/// Working, waiting for input and waiting for readers, as parts of a bar.
fn stacked(node: &NodeTimes) -> Markup {
    // Of several workers the times of waiting are of another whole.
    let sum = (node.busy + node.wait_input + node.wait_output).max(1.0);
    let width = |share: f64| format!("width:{:.1}%", (100.0 * share / sum).max(0.0));
    html! {
        span.bar.stacked {
            span.busy style=(width(node.busy)) {}
            span.input style=(width(node.wait_input)) {}
            span.output style=(width(node.wait_output)) {}
        }
    }
}

pub fn recipe(run: &Run) -> Markup {
    if run.recipe.is_empty() {
        return html! { p.missing { "There is no " code { (RECIPE) } "." } };
    }
    let count = run.recipe.chars().count();
    // A tab would be shown as an escape.
    let shown: String = run.recipe.replace('\t', "    ");
    let shown: String = shown.chars().take(MOST_OF_RECIPE).collect();
    html! {
        details.recipe {
            summary { code { (RECIPE) } ", as it ran" }
            pre { (lines(&shown.replace('\r', ""))) }
            @if count > MOST_OF_RECIPE {
                p.note { "The first " (thousands(MOST_OF_RECIPE as u64)) " of " (thousands(count as u64)) " characters of "
                    code { (run.path.join(RECIPE).shown()) } "." }
            }
        }
    }
}
