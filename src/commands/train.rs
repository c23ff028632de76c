//! `rsflow train`: writes a recipe for some data, as `rsflow new`, and runs it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, Recipe, Text};

use super::{new, run};
use crate::catalogue::CATALOGUE;
use crate::cli::{Run, Train};
use crate::launch;
use crate::process::say;

pub fn run(arguments: &Train, out: &mut dyn Write) -> Result<ExitCode> {
    let draft = new::draft(&arguments.drafting, "recipe.ron")?;
    // Of several processes that a launcher started, all come to the same recipe.
    if launch::world()?.rank == 0 {
        for line in &draft.summary {
            say(line);
        }
    }
    let recipe = PathBuf::from(format!("{}.ron", draft.name));
    let run = Run::of(
        recipe,
        arguments.overrides.clone(),
        arguments.run_dir.clone(),
    );
    let plan = || {
        let text = Text::new(format!("the recipe for {}", draft.name.shown()), draft.text);
        let recipe = Recipe::parse(text, CATALOGUE, &run.overrides.set)?;
        Ok(Plan::new(recipe)?)
    };
    run::run_plan(&run, plan, out)
}
