//! Checks of all combinations, before the first run starts.

use std::path::Path;

use anyhow::{Result, ensure};
use rsflow_base::run_files::METRICS;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, Problems, differences};

use super::plan::{Combination, Over, combinations};
use crate::catalogue::CATALOGUE;
use crate::cli::{Overrides, Sweep};
use crate::commands::recipes::plan;
use crate::commands::usage::{Usage, report};
use crate::process::say;

/// Combinations that are reported where no value alone is wrong.
const MOST: usize = 5;

/// Refuses a recipe whose runs leave no results.
pub fn has_log(plan: &Plan, recipe: &Path) -> Result<()> {
    let mut nodes = plan.nodes().iter();
    ensure!(
        nodes.any(|node| node.kind.output_file == METRICS),
        Usage(format!(
            "{} has no node that writes {METRICS}, which holds the results of a run\n\
             help: add `\"log\": MetricsLog(input: \"trainer.metrics\")`",
            recipe.shown()
        ))
    );
    Ok(())
}

/// Whether all combinations are valid recipes; what is wrong is printed.
///
/// # Errors
/// A recipe that cannot be read.
pub fn all_are_valid(arguments: &Sweep, overs: &[Over]) -> Result<bool> {
    let all = combinations(overs, &[]);
    let wrong: Vec<_> = all
        .iter()
        .filter_map(|one| Some((one, problem(arguments, &one.sets)?)))
        .collect();
    if !wrong.is_empty() && !report_values(arguments, overs) {
        report_combinations(&wrong, overs);
    }
    if wrong.is_empty() {
        ensure_distinct(arguments, &all)?;
    }
    Ok(wrong.is_empty())
}

/// Refuses two combinations that are the same recipe: their runs would be taken for runs of several seeds.
fn ensure_distinct(arguments: &Sweep, all: &[Combination]) -> Result<()> {
    let mut seen: Vec<(&Combination, String)> = Vec::new();
    for combination in all {
        let set = [&arguments.overrides.set[..], &combination.sets].concat();
        let plan = plan(&arguments.recipe, &Overrides { set })?;
        let text = plan.recipe_text().to_owned();
        let is_same = |(_, other): &&(&Combination, String)| {
            *other == text || differences(&text, other, CATALOGUE).is_empty()
        };
        if let Some((other, _)) = seen.iter().find(is_same) {
            let [one, other] =
                [other, combination].map(|of| of.sets.join(" ").shown().into_owned());
            return Err(Usage(format!(
                "--over: `{one}` and `{other}` make the same recipe"
            ))
            .into());
        }
        seen.push((combination, text));
    }
    Ok(())
}

/// What is wrong with the recipe if these are set.
fn problem(arguments: &Sweep, sets: &[String]) -> Option<anyhow::Error> {
    let set = [&arguments.overrides.set[..], sets].concat();
    plan(&arguments.recipe, &Overrides { set }).err()
}

/// Reports the values that alone make the recipe invalid; whether there are any.
fn report_values(arguments: &Sweep, overs: &[Over]) -> bool {
    let mut any = false;
    for over in overs {
        // A field that is not there is wrong with each of its values.
        let mut reported: Vec<Vec<String>> = Vec::new();
        for value in &over.values {
            let sets: Vec<String> = over.sets(value).collect();
            let Some(error) = problem(arguments, &sets) else {
                continue;
            };
            any = true;
            let messages = messages(&error);
            if !reported.contains(&messages) {
                reported.push(messages);
                let (typed, value) = (over.typed.shown(), value.shown());
                say(format_args!("--over {typed} with the value {value}:"));
                report(&about_over(error));
            }
        }
    }
    any
}

/// The error with `--over` where it says how an override is written: that is what was typed.
fn about_over(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Problems>() {
        Ok(problems) => {
            let in_place = |help: &str| help.replace("write `--set ", "write `--over ");
            problems.with_help(in_place).into()
        }
        Err(error) => error,
    }
}

fn messages(error: &anyhow::Error) -> Vec<String> {
    match error.downcast_ref::<Problems>() {
        Some(problems) => problems.list().map(|it| it.message.clone()).collect(),
        None => vec![error.to_string()],
    }
}

/// Reports values that are wrong together.
fn report_combinations(wrong: &[(&Combination, anyhow::Error)], overs: &[Over]) {
    for (combination, error) in wrong.iter().take(MOST) {
        let each = overs.iter().zip(&combination.values);
        let each: Vec<String> = each
            .map(|(over, value)| format!("--over {}={value}", over.fields.join("+")))
            .collect();
        say(format_args!("{}:", each.join(" ")));
        report(error);
    }
    if wrong.len() > MOST {
        say(format_args!(
            "{} more combinations are wrong",
            wrong.len() - MOST
        ));
    }
}
