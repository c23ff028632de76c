//! What comes first: what ran, in which state it is, how good it is; of several runs, how they differ.

use std::time::Duration;

use maud::{Markup, html};
use rsflow_base::shown::Shown as _;

use super::{percent, table, text};
use crate::catalogue::CATALOGUE;
use crate::commands::report::run::{Run, State, ensembles_differ};
use crate::progress::duration;
use crate::run_log::{Row, called};
use crate::table::{millions, thousands};

/// Of recipes that differ in more fields than this, the first ones say enough.
const MOST_DIFFERENCES: usize = 40;

/// What is said of a run in a line or two, and its main figures.
pub fn head(run: &Run) -> Markup {
    html! {
        header {
            p.kicker { "rsflow report" }
            h1 { (run.name) }
            p.sub { (described(run)) }
            p.path { (run.path.shown()) }
        }
        dl.tiles {
            (tile("state", &state(run.state)))
            (tile(if run.state == State::Running { "time so far" } else { "time" }, &time(run)))
            (tile("epochs", &html! { (epochs(run)) }))
            @if let Some((size, top1, epoch)) = best_of_largest(run) {
                (tile(&format!("best top-1 at {size}"), &html! {
                    (format!("{top1:.2}")) small { " % in epoch " (epoch) }
                }))
            }
            @if let Some(speed) = speed(run) {
                (tile("images a second", &html! { (thousands(speed.round() as u64)) }))
            }
        }
    }
}

pub fn head_of_several(runs: &[Run], title: &str) -> Markup {
    let header = [
        "run",
        "state",
        "network",
        "sizes",
        "images",
        "time",
        "epochs",
        "best top-1",
    ];
    let rows = runs.iter().map(|run| {
        let sizes: Vec<String> = run.sizes().iter().map(u32::to_string).collect();
        vec![
            html! { (run.name) },
            state(run.state),
            html! { (run.about.network.as_deref().unwrap_or("–")) },
            html! { (sizes.join(", ")) },
            html! { (images(run)) },
            time(run),
            html! { (epochs(run)) },
            match best_of_largest(run) {
                Some((size, top1, _)) => html! { (format!("{top1:.2}")) small { " % at " (size) } },
                None => html! { "–" },
            },
        ]
    });
    html! {
        header {
            p.kicker { "rsflow report" }
            h1 { (title) }
        }
        (table(5, &header.map(|it| html! { (it) }), &rows.collect::<Vec<_>>()))
    }
}

/// What could not be read.
pub fn notes(run: &Run) -> Markup {
    html! {
        @if !run.notes.is_empty() {
            ul.notes { @for note in &run.notes { li { (note.as_str()) } } }
        }
    }
}

pub fn state(state: State) -> Markup {
    let (class, word) = match state {
        State::Running => ("running", "running"),
        State::Ended => ("ended", "ended"),
        State::Interrupted => ("interrupted", "interrupted"),
    };
    html! { span class={ "state " (class) } { (word) } }
}

/// `64 70.78, 48 68.56` of the newest validation.
pub fn in_short(run: &Run) -> Markup {
    let rows = run.log.newest().map(|newest| newest.rows.as_slice());
    let each = rows.unwrap_or_default().iter().filter_map(|row| {
        let top1 = row.top1?;
        Some(format!("{} {top1:.2}", called(row.resolution)))
    });
    html! { span.short { (each.collect::<Vec<_>>().join(" · ")) } }
}

fn tile(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn described(run: &Run) -> Markup {
    let about = &run.about;
    let sizes: Vec<String> = run.sizes().iter().map(u32::to_string).collect();
    let mut parts: Vec<String> = Vec::new();
    parts.extend(about.network.as_ref().map(|it| it.shown().into_owned()));
    parts.extend(about.classes.map(|it| format!("{} classes", thousands(it))));
    if !sizes.is_empty() {
        let noun = if sizes.len() == 1 { "size" } else { "sizes" };
        parts.push(format!("{noun} {}", sizes.join(", ")));
    }
    parts.push(images(run));
    parts.retain(|part| !part.is_empty());
    html! { (parts.join(" · ")) }
}

/// `2,496 training images, 3,925 for validation`.
fn images(run: &Run) -> String {
    let training = run.about.images.filter(|count| *count > 0);
    let training = training.map(|count| format!("{} training images", thousands(count)));
    let validation = run.log.newest().map(|newest| newest.images);
    let validation = validation.filter(|count| *count > 0);
    let validation = validation.map(|count| format!("{} for validation", thousands(count)));
    let parts: Vec<String> = training.into_iter().chain(validation).collect();
    parts.join(", ")
}

fn time(run: &Run) -> Markup {
    let seconds = run.seconds.map(|seconds| seconds.max(0.0));
    let time = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
    html! { (time.map_or("–".to_owned(), duration)) }
}

/// Epochs that are over, or the one that it is in.
fn epochs(run: &Run) -> String {
    let over = run.log.last_epoch().map_or(0, |epoch| epoch.epoch);
    let last = run.log.steps.last().map_or(0, |step| step.epoch);
    match (over, last) {
        (0, 0) => "none yet".to_owned(),
        (over, last) if last > over => format!("{over}, in {last}"),
        (over, _) => over.to_string(),
    }
}

/// The largest size, its best top-1, and the epoch.
fn best_of_largest(run: &Run) -> Option<(u32, f64, u64)> {
    let size = *run.sizes().first()?;
    let (top1, epoch) = best(run, Some(size))?;
    Some((size, top1, epoch))
}

/// The best top-1 of all validations, and its epoch: the first of equal ones.
fn best(run: &Run, size: Option<u32>) -> Option<(f64, u64)> {
    let all = run.log.validations().filter_map(|epoch| {
        let row = epoch.rows.iter().find(|row| row.resolution == size)?;
        Some((row.top1?, epoch.epoch))
    });
    all.reduce(|best, other| if other.0 > best.0 { other } else { best })
}

/// Mean of the images a second that were logged.
fn speed(run: &Run) -> Option<f64> {
    let means = run.log.epochs.iter().filter_map(|it| it.training.as_ref());
    let mut speeds: Vec<f64> = means.filter_map(|it| it.images_per_second).collect();
    if speeds.is_empty() {
        let steps = run.log.steps.iter();
        speeds.extend(steps.filter_map(|step| step.terms.images_per_second));
    }
    speeds.sort_unstable_by(f64::total_cmp);
    // The median: while a run starts, or waits for a disk, it is slow.
    speeds.get(speeds.len() / 2).copied()
}

/// The newest validation as a table, and the best of each size.
pub fn by_size(run: &Run) -> Markup {
    let Some(newest) = run.log.newest().filter(|newest| !newest.rows.is_empty()) else {
        return html! { p.missing { "There is no validation yet." } };
    };
    let header = [
        "size",
        "top-1 %",
        "best",
        "in epoch",
        "top-5 %",
        "loss",
        "multiply-adds",
        "parameters",
    ];
    let row = |row: &Row| {
        let best = best(run, row.resolution);
        vec![
            html! { (called(row.resolution)) },
            html! { strong { (percent(row.top1)) } },
            percent(best.map(|(top1, _)| top1)),
            html! { (best.map_or("–".to_owned(), |(_, epoch)| epoch.to_string())) },
            percent(row.top5),
            html! { (row.loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"))) },
            html! { (millions(row.multiply_adds)) },
            html! { (millions(row.parameters)) },
        ]
    };
    let rows: Vec<Vec<Markup>> = newest.rows.iter().map(row).collect();
    html! {
        (table(1, &header.map(|it| html! { (it) }), &rows))
        p.note {
            "After epoch " (newest.epoch) ", on " (thousands(newest.images)) " validation images"
            @if newest.is_average { ", with the average of the weights" }
            "."
        }
    }
}

/// The newest validation of each run: a row for each, a column for each size.
pub fn of_several(runs: &[Run]) -> Markup {
    let mut sizes: Vec<Option<u32>> = runs.iter().flat_map(Run::sizes).map(Some).collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    sizes.dedup();
    sizes.push(None);
    let top1 = |run: &Run, size: Option<u32>| {
        let rows = run.log.newest().map(|newest| newest.rows.as_slice());
        let mut rows = rows.unwrap_or_default().iter();
        rows.find(|row| row.resolution == size)
            .and_then(|row| row.top1)
    };
    let differ = ensembles_differ(runs);
    let best = |size: &Option<u32>| {
        // Ensembles of different sizes are no rivals.
        let rivals = runs.iter().filter(|_| size.is_some() || !differ);
        rivals.filter_map(|run| top1(run, *size)).reduce(f64::max)
    };
    let best: Vec<Option<f64>> = sizes.iter().map(best).collect();
    let header = ["run".to_owned(), "after epoch".to_owned()].into_iter();
    let header = header.chain(sizes.iter().map(|size| called(*size)));
    let header: Vec<Markup> = header.map(|it| html! { (it) }).collect();
    let rows = runs.iter().map(|run| {
        let epoch = run
            .log
            .newest()
            .map_or("–".to_owned(), |it| it.epoch.to_string());
        let cells = sizes.iter().zip(&best).map(|(size, best)| {
            let value = top1(run, *size);
            let of = run.ensemble().filter(|_| size.is_none() && differ);
            html! {
                @if value.is_some() && value == *best { strong { (percent(value)) } }
                @else { (percent(value)) }
                @if let Some(of) = of { small { " of " (of) } }
            }
        });
        let first = [html! { (run.name) }, html! { (epoch) }];
        first.into_iter().chain(cells).collect()
    });
    html! {
        (table(1, &header, &rows.collect::<Vec<_>>()))
        p.note {
            "Top-1 in percent of the newest validation; the best of each "
            @if differ { "size" } @else { "column" } " is bold. "
            @match runs.iter().find_map(Run::ensemble) {
                Some(_) if differ => "Each ensemble is of all sizes of its run: they differ, and so do its costs. ",
                Some(sizes) => { "The ensemble is of " (sizes) ". " },
                None => {},
            }
            "Whether chance would do as much: " code { "rsflow compare" } "."
        }
    }
}

/// What the recipes say differently from the first one.
pub fn differences(runs: &[Run]) -> Markup {
    let Some((first, others)) = runs.split_first() else {
        return html! {};
    };
    html! {
        p.note { "Compared with " strong { (first.name) } ": what a recipe has now, and what the first one has." }
        dl.differences {
            @for run in others {
                dt { (run.name) }
                dd { (difference(run, first)) }
            }
        }
    }
}

fn difference(run: &Run, first: &Run) -> Markup {
    let without = [run, first].into_iter().find(|run| run.recipe.is_empty());
    if let Some(without) = without {
        return html! { p.missing { "The recipe of " (without.name) " is not there." } };
    }
    let found = rsflow_graph::differences(&run.recipe, &first.recipe, CATALOGUE);
    let more = found.len().saturating_sub(MOST_DIFFERENCES);
    html! {
        @if found.is_empty() { p { "The same recipe." } }
        ul { @for line in found.iter().take(MOST_DIFFERENCES) { li { code { (text(line)) } } } }
        @if more > 0 { p.note { "and " (more) " more." } }
    }
}
