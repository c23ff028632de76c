//! `rsflow train`: writes a recipe for some data, as `rsflow new`, and runs it; or resumes such a run.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rsflow_base::run_files;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, Recipe, Text, World};

use super::{new, run};
use crate::catalogue::CATALOGUE;
use crate::cli::{Run, Train};
use crate::process::say;
use crate::{launch, run_dir};

pub fn run(arguments: &Train, out: &mut dyn Write) -> Result<ExitCode> {
    if arguments.resume {
        return resume(arguments, out);
    }
    let draft = new::draft(&arguments.drafting, "recipe.ron")?;
    // Of several processes all come to the same recipe, and so does the one that starts them.
    let world = launch::world()?;
    let starts_others =
        world == World::default() && arguments.processes.is_some_and(|count| count > 1);
    if world.rank == 0 && !starts_others {
        for line in &draft.summary {
            say(line);
        }
    }
    let recipe = PathBuf::from(format!("{}.ron", draft.name));
    let run = Run {
        processes: arguments.processes,
        ..Run::of(
            recipe,
            arguments.overrides.clone(),
            arguments.run_dir.clone(),
        )
    };
    let plan = || {
        let text = Text::new(format!("the recipe for {}", draft.name.shown()), draft.text);
        let recipe = Recipe::parse(text, CATALOGUE, &run.overrides.set)?;
        Ok(Plan::new(recipe)?)
    };
    run::run_plan(&run, plan, out)
}

/// Resumes a run that this command began. Its own recipe says what it trains on.
fn resume(arguments: &Train, out: &mut dyn Write) -> Result<ExitCode> {
    let run_dir = match (&arguments.run_dir, arguments.drafting.data.first()) {
        (Some(run_dir), _) => run_dir.clone(),
        (None, data) => {
            let name = new::name(data.context("no data was named")?);
            run_dir::latest(&run_dir::of_recipe(name))?
        }
    };
    let run = Run {
        resume: Some(None),
        processes: arguments.processes,
        accept_changes: arguments.accept_changes,
        ..Run::of(
            run_dir.join(run_files::RECIPE),
            arguments.overrides.clone(),
            Some(run_dir),
        )
    };
    run::run(&run, out)
}
