//! A comparison as text.

use std::collections::BTreeSet;

use rsflow_base::shown::Shown as _;
use rsflow_graph::counted;

use super::answers::Column;
use super::statistics::{Difference, LEAST, mean};
use super::{Compared, Comparison};
use crate::table;

/// With fewer validation images an interval is some ten points wide.
const FEW_IMAGES: usize = 200;
/// Of a recipe whose lines are more, the first ones say enough.
const MAX_LINES: usize = 12;

/// What the recipes are, a table of accuracies, one of differences, and a sentence for each recipe.
pub fn text(comparison: &Comparison) -> String {
    let mut parts = vec![recipes(comparison), accuracies(comparison)];
    match comparison.recipes.as_slice() {
        [only] => parts.push(one_recipe(only)),
        [first, others @ ..] => {
            parts.push(differences(comparison, first, others));
            let sentences = others
                .iter()
                .map(|other| sentence(comparison, other, first));
            parts.extend(sentences);
            parts.extend(caution(comparison.images, first, others));
        }
        [] => {}
    }
    parts.join("\n\n")
}

fn recipes(comparison: &Comparison) -> String {
    let of = |recipe: &Compared| {
        // Of networks of single sizes each seed is there several times.
        let seeds: BTreeSet<u64> = recipe.runs.iter().map(|run| run.seed).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let mut lines = vec![match seeds.as_slice() {
            [one] => format!("{}: seed {one}", recipe.name),
            several => format!("{}: seeds {}", recipe.name, several.join(", ")),
        }];
        let shown = recipe.differences.iter().take(MAX_LINES);
        lines.extend(shown.map(|line| format!("  {}", line.shown())));
        let more = recipe.differences.len().saturating_sub(MAX_LINES);
        if more > 0 {
            lines.push(format!("  and {more} more differences"));
        }
        if !recipe.more_sizes.is_empty() {
            let sizes: Vec<String> = recipe.more_sizes.iter().map(u32::to_string).collect();
            lines.push(format!("  not compared: its sizes {}", sizes.join(", ")));
        }
        lines.join("\n")
    };
    let all: Vec<String> = comparison.recipes.iter().map(of).collect();
    all.join("\n")
}

fn accuracies(comparison: &Comparison) -> String {
    let columns = &comparison.columns;
    let titles = columns.iter().map(|column| column.to_string());
    let header = ["top-1 %".to_owned()].into_iter().chain(titles);
    let header: Vec<String> = header.chain(["mean of sizes".to_owned()]).collect();
    let cell = |values: &[f64]| match values {
        [] => String::new(),
        [one] => format!("{one:.2}"),
        several => format!("{:.2} ± {:.2}", mean(several), deviation(several)),
    };
    let row = |recipe: &Compared| {
        let cells = columns.iter().map(|column| {
            let found = recipe.top1.iter().find(|(of, _)| of == column);
            cell(
                found
                    .map(|(_, values)| values.as_slice())
                    .unwrap_or_default(),
            )
        });
        let name = recipe.name.clone();
        [name]
            .into_iter()
            .chain(cells)
            .chain([cell(&recipe.means)])
            .collect()
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let images = table::thousands(comparison.images as u64);
    let several = comparison
        .recipes
        .iter()
        .any(|recipe| recipe.top1.iter().any(|(_, of)| of.len() > 1));
    let note = match several {
        true => ": mean of the seeds ± standard deviation between them",
        false => "",
    };
    format!(
        "{}\non {images} images{note}",
        table::grid(&header, comparison.recipes.iter().map(row))
    )
}

/// Between runs; of at least two.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

fn differences(comparison: &Comparison, first: &Compared, others: &[Compared]) -> String {
    let columns = &comparison.columns;
    let titles = columns.iter().map(|column| column.to_string());
    let header = [format!("points above {}", first.name)]
        .into_iter()
        .chain(titles);
    let header: Vec<String> = header.chain(["mean of sizes".to_owned()]).collect();
    // A mean over fewer sizes is another thing; the sentence below has it.
    let all_sizes = columns.iter().filter_map(Column::size).count();
    let cell = |it: &Difference| {
        let mark = if it.may_be_chance() { "" } else { "* " };
        format!("{mark}{:+.2} ± {:.2}", it.points, it.high - it.points)
    };
    let row = |recipe: &Compared| {
        let cells = columns.iter().map(|column| {
            let found = recipe.above.iter().find(|(of, _)| of == column);
            found.map_or_else(String::new, |(_, it)| cell(it))
        });
        let mean = recipe
            .mean_above
            .as_ref()
            .filter(|(sizes, _)| sizes.len() == all_sizes)
            .map_or_else(String::new, |(_, it)| cell(it));
        [recipe.name.clone()]
            .into_iter()
            .chain(cells)
            .chain([mean])
            .collect()
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let grid = table::grid(&header, others.iter().map(row));
    format!(
        "{grid}\n± 95 % intervals (Student's t, paired by image); * more than chance: 0 is outside, and the two differ on \
         at least {LEAST} images"
    )
}

/// Whether a recipe is above or below the first one, or chance would do it.
fn sentence(comparison: &Comparison, other: &Compared, first: &Compared) -> String {
    let Some((sizes, it)) = &other.mean_above else {
        return String::new();
    };
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    let over = match sizes.as_slice() {
        [only] => format!("at {only}"),
        [most @ .., last] => format!("on average over {} and {last}", most.join(", ")),
        [] => String::new(),
    };
    let place = if it.points < 0.0 { "below" } else { "above" };
    let points = it.points.abs();
    let (name, first) = (&other.name, &first.name);
    let differing = table::thousands(it.differing as u64);
    let images = format!("{} images", table::thousands(comparison.images as u64));
    if it.is_undecidable() {
        return format!(
            "{name} is {points:.2} points {place} {first} {over}, but they differ on {differing} of {images}: of fewer \
             than {LEAST} nothing can be concluded."
        );
    }
    let found = match it.may_be_chance() {
        true => "chance may do that, nothing is decided",
        false => "more than chance",
    };
    format!(
        "{name} is {points:.2} points {place} {first} {over} (95 % interval {:+.2} to {:+.2}, by the {differing} of \
         {images} on which they differ): {found}.",
        it.low, it.high
    )
}

/// What the intervals do not cover.
fn caution(images: usize, first: &Compared, others: &[Compared]) -> Option<String> {
    let runs = |recipe: &Compared| recipe.top1.first().map_or(0, |(_, values)| values.len());
    let all = || std::iter::once(first).chain(others);
    let mut notes = Vec::new();
    if all().all(|recipe| runs(recipe) < 2) {
        notes.push(
            "The intervals are those of these networks on other images; with another seed the networks would be \
             others, and differ by more. Several seeds of each recipe (`rsflow sweep --seeds`) show by how much."
                .to_owned(),
        );
    }
    if images < FEW_IMAGES {
        notes.push(format!(
            "One of {} is {:.1} points: so few show large differences only.",
            counted(images, "image"),
            100.0 / images as f64
        ));
    }
    let intervals: usize = others.iter().map(|recipe| recipe.above.len() + 1).sum();
    if intervals > 4 {
        notes.push(format!(
            "Of these {intervals} intervals, about one in twenty is marked by chance."
        ));
    }
    (!notes.is_empty()).then(|| notes.join("\n"))
}

/// Runs of one recipe differ by chance, whatever the figures are.
fn one_recipe(recipe: &Compared) -> String {
    let values: Vec<&[f64]> = recipe.top1.iter().map(|(_, of)| of.as_slice()).collect();
    let header: Vec<String> = recipe
        .top1
        .iter()
        .map(|(column, _)| column.to_string())
        .collect();
    let header = ["seed".to_owned()].into_iter().chain(header);
    let header: Vec<String> = header.collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = recipe.runs.iter().enumerate().map(|(at, run)| {
        let cells = values
            .iter()
            .map(|of| of.get(at).map_or_else(String::new, |it| format!("{it:.2}")));
        [run.seed.to_string()].into_iter().chain(cells).collect()
    });
    let spread = match recipe.means.as_slice() {
        means if means.len() > 1 => format!(
            " The standard deviation of a run's mean over the sizes is {:.2} points.",
            deviation(means)
        ),
        _ => String::new(),
    };
    format!(
        "{}\n\nThese are runs of one recipe, which differ in the seed alone: what lies between them is chance.{spread}",
        table::grid(&header, rows)
    )
}
