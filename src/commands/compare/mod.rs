//! `rsflow compare`: how far runs are apart, and whether chance would do it.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the command, and the comparison as data |
//! | `runs` | the runs: found, read, grouped by recipe |
//! | `answers` | whether each run is right, image by image |
//! | `statistics` | differences and their intervals |
//! | `report` | the comparison as text |

mod answers;
mod report;
pub mod runs;
mod statistics;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::differences;
use serde::Serialize;
use serde_json::json;

use super::usage::Usage;
use crate::catalogue::CATALOGUE;
use crate::cli::{Compare, Which};
use crate::files::{check_output, is_stdout, write_json};
use crate::process::say;
use answers::{Column, Right};
use runs::{Arm, Run};
use statistics::{Difference, Spread, difference, mean, mean_of, shares, spread};

pub fn run(arguments: &Compare, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(json) = &arguments.json {
        check_output(json, "--json", arguments.force, &[])?;
    }
    let comparison = Comparison::of(&arguments.runs, arguments.checkpoint)?;
    if !is_stdout(arguments.json.as_deref()) {
        writeln!(out, "{}", report::text(&comparison))?;
    }
    if let Some(json) = &arguments.json {
        write_json(json, &comparison.as_json(), out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The comparison of the runs in these directories, as text.
///
/// # Errors
/// As [`Comparison::of`].
pub fn text_of(run_dirs: &[PathBuf]) -> Result<String> {
    Ok(report::text(&Comparison::of(run_dirs, Which::Last)?))
}

/// Recipes beside each other; the first one is what the others are compared with.
pub struct Comparison {
    pub images: usize,
    /// The sizes of the first recipe, and its ensemble.
    pub columns: Vec<Column>,
    pub recipes: Vec<Compared>,
}

/// The runs of one recipe.
pub struct Compared {
    pub name: String,
    pub runs: Vec<Run>,
    /// What its recipe says differently from the first one, a line each.
    pub differences: Vec<String>,
    /// Its sizes that the first one does not have.
    pub more_sizes: Vec<u32>,
    /// Top-1 accuracies in percent of each run, by column; what a recipe does not have is not there.
    pub top1: Vec<(Column, Vec<f64>)>,
    /// Of each run the mean over the sizes, where it has all of them.
    pub means: Vec<f64>,
    /// How far it is above the first recipe; empty for that one itself.
    pub above: Vec<(Column, Difference)>,
    /// The same for the mean over the sizes that both have.
    pub mean_above: Option<(Vec<u32>, Difference)>,
}

impl Comparison {
    /// Of the runs at these paths; see [`runs::arms`].
    ///
    /// # Errors
    /// Nothing to compare; runs that cannot be compared.
    pub fn of(paths: &[PathBuf], which: Which) -> Result<Self> {
        let arms = runs::arms(paths, which, |line| say(line))?;
        let count: usize = arms.iter().flat_map(|arm| &arm.parts).map(Vec::len).sum();
        ensure!(
            count > 1,
            Usage("there is one run, and nothing to compare it with; name another one".to_owned())
        );
        for run in arms.iter().flat_map(|arm| arm.parts.iter().flatten()) {
            if run.unfinished {
                let step = run.step;
                say(format_args!(
                    "{} has not ended: compared as it is after step {step}",
                    run.path.shown()
                ));
            }
        }
        let mut at = 0;
        let load = |run: &Run| {
            at += 1;
            let tell = |line: &str| say(format_args!("run {at} of {count}: {line}"));
            answers::predictions(run, which, tell)
        };
        let (images, right) = answers::of_arms(&arms, load)?;
        let recipes = compared(&arms, &right)?;
        let columns = right.first().and_then(|runs| runs.first());
        let columns = columns
            .map(|right| right.keys().copied().collect())
            .unwrap_or_default();
        Ok(Comparison {
            images: images.count(),
            columns: largest_first(columns),
            recipes,
        })
    }

    fn as_json(&self) -> serde_json::Value {
        let by_column = |values: Vec<(Column, serde_json::Value)>| {
            let values = values
                .into_iter()
                .map(|(of, value)| (of.to_string(), value));
            values.collect::<serde_json::Map<_, _>>()
        };
        let recipes = self.recipes.iter().map(|recipe| {
            let runs = recipe
                .runs
                .iter()
                .map(|run| json!({"path": run.path, "seed": run.seed}));
            let top1 = recipe.top1.iter().map(|(of, values)| (*of, json!(values)));
            let above = recipe.above.iter().map(|(of, it)| (*of, interval(it)));
            json!({
                "name": recipe.name,
                "runs": runs.collect::<Vec<_>>(),
                "differences": recipe.differences,
                "top1": by_column(top1.collect()),
                "mean_top1": recipe.means,
                "above_first": by_column(above.collect()),
                "mean_above_first": recipe.mean_above.as_ref().map(|(_, it)| interval(it)),
                "mean_over": recipe.mean_above.as_ref().map(|(sizes, _)| sizes),
            })
        });
        json!({ "images": self.images, "recipes": recipes.collect::<Vec<_>>() })
    }
}

fn interval(it: &Difference) -> serde_json::Value {
    #[derive(Serialize)]
    struct Interval {
        points: f64,
        standard_error: f64,
        low: f64,
        high: f64,
        may_be_chance: bool,
        images_that_differ: usize,
    }
    json!(Interval {
        points: it.points,
        standard_error: it.error,
        low: it.low,
        high: it.high,
        may_be_chance: it.may_be_chance(),
        images_that_differ: it.differing,
    })
}

fn compared(arms: &[Arm], right: &[Vec<Right>]) -> Result<Vec<Compared>> {
    let first = right.first().map(Vec::as_slice).unwrap_or_default();
    let sizes_of = |runs: &[Right]| -> Vec<Column> {
        let columns = runs.first().map(|right| right.keys().copied().collect());
        largest_first(columns.unwrap_or_default())
    };
    let all_columns = sizes_of(first);
    let mut found = Vec::new();
    for (at, (arm, runs)) in arms.iter().zip(right).enumerate() {
        let own = sizes_of(runs);
        // An ensemble of other sizes is another thing.
        let is_common = |of: &Column| match of {
            Column::Size(_) => all_columns.contains(of),
            Column::Ensemble => own == all_columns,
        };
        let common: Vec<Column> = own.iter().copied().filter(is_common).collect();
        let sizes: Vec<Column> = common
            .iter()
            .copied()
            .filter(|of| *of != Column::Ensemble)
            .collect();
        ensure!(
            !sizes.is_empty(),
            "{} and {} cannot be compared: they have no size in common",
            arms[0].name,
            arm.name
        );
        let above = common.iter().map(|column| {
            let spread = spread_at(right, &[*column]);
            (*column, above(runs, first, &[*column], spread))
        });
        let above = above.collect();
        let mean_above = above_mean(runs, first, &sizes, right);
        let all_sizes = all_columns
            .iter()
            .filter(|of| **of != Column::Ensemble)
            .count();
        let top1 = |column: &Column| {
            (
                *column,
                runs.iter().map(|run| accuracy(run, &[*column])).collect(),
            )
        };
        found.push(Compared {
            name: arm.name.clone(),
            runs: arm.parts.iter().flatten().cloned().collect(),
            differences: match at {
                0 => Vec::new(),
                _ => differing(&arms[0], arm),
            },
            more_sizes: own
                .iter()
                .filter_map(Column::size)
                .filter(|size| !all_columns.contains(&Column::Size(*size)))
                .collect(),
            top1: common.iter().map(top1).collect(),
            means: match sizes.len() == all_sizes {
                true => runs.iter().map(|run| accuracy(run, &sizes)).collect(),
                false => Vec::new(),
            },
            above: if at == 0 { Vec::new() } else { above },
            mean_above: (at > 0).then_some(mean_above),
        });
    }
    Ok(found)
}

fn largest_first(mut columns: Vec<Column>) -> Vec<Column> {
    columns.sort_by_key(|column| match column {
        Column::Size(size) => u32::MAX - size,
        Column::Ensemble => u32::MAX,
    });
    columns
}

/// In percent, the mean over some columns, all of which the run has.
fn accuracy(run: &Right, columns: &[Column]) -> f64 {
    let of = |column: &Column| {
        let right = run.get(column).map(Vec::as_slice).unwrap_or_default();
        100.0 * right.iter().filter(|right| **right).count() as f64 / right.len() as f64
    };
    mean(&columns.iter().map(of).collect::<Vec<_>>())
}

/// The variance between runs of the mean over some columns, of all recipes that have these.
fn spread_at(right: &[Vec<Right>], columns: &[Column]) -> Option<Spread> {
    let with_all = right.iter().filter(|runs| {
        let mut runs = runs.iter();
        runs.all(|run| columns.iter().all(|column| run.contains_key(column)))
    });
    let recipes = with_all.map(|runs| runs.iter().map(|run| accuracy(run, columns)).collect());
    spread(&recipes.collect::<Vec<_>>())
}

fn above(
    runs: &[Right],
    first: &[Right],
    columns: &[Column],
    spread: Option<Spread>,
) -> Difference {
    let of = |runs: &[Right]| {
        let shares = columns.iter().map(|column| {
            let right = runs.iter().filter_map(|run| run.get(column));
            shares(&right.map(Vec::as_slice).collect::<Vec<_>>())
        });
        mean_of(&shares.collect::<Vec<_>>())
    };
    let (own, base) = (of(runs), of(first));
    difference((&own, runs.len()), (&base, first.len()), spread)
}

fn above_mean(
    runs: &[Right],
    first: &[Right],
    sizes: &[Column],
    all: &[Vec<Right>],
) -> (Vec<u32>, Difference) {
    let numbers = sizes.iter().filter_map(Column::size);
    let difference = above(runs, first, sizes, spread_at(all, sizes));
    (numbers.collect(), difference)
}

/// What the recipes of an arm say differently from the first arm's.
fn differing(first: &Arm, arm: &Arm) -> Vec<String> {
    let run_of = |arm: &Arm| arm.parts.first().and_then(|runs| runs.first()).cloned();
    let Some(base) = run_of(first) else {
        return Vec::new();
    };
    let mut lines: Vec<String> = Vec::new();
    for run in arm.parts.iter().filter_map(|runs| runs.first()) {
        if let (Some(now), Some(was)) = (&run.recipe, &base.recipe) {
            let found = differences(now, was, CATALOGUE);
            lines.extend(found.into_iter().filter(|line| !line.starts_with("seed:")));
        }
        if let (Some(now), Some(was)) = (&run.training_names, &base.training_names)
            && now != was
        {
            lines.push("trained on other images, or on images of other classes".to_owned());
        }
    }
    let mut seen = std::collections::HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}
