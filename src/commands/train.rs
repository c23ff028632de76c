//! `rsflow train`: writes a recipe for some data, as `rsflow new`, and runs it; or resumes such a run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use rsflow_base::run_files;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, Recipe, Text, World};

use super::moved::{self, Moved};
use super::usage::Usage;
use super::{new, run};
use crate::catalogue::CATALOGUE;
use crate::cli::{Run, Train};
use crate::process::say;
use crate::{launch, run_dir};

pub fn run(arguments: &Train, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(named) = &arguments.resume {
        return resume(arguments, named.as_deref(), out);
    }
    let draft = new::draft(&arguments.drafting, "recipe.ron")?;
    let run_dir = arguments.run_dir.as_deref();
    check_apart(
        run_dir.unwrap_or(&run_dir::of_recipe(&draft.name)),
        &draft.folders,
    )?;
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
        Ok((Plan::new(recipe)?, Moved::default()))
    };
    run::run_plan(&run, plan, out)
}

/// Resumes a run that this command began. Its own recipe says what it trains on, or where that was before.
fn resume(arguments: &Train, named: Option<&Path>, out: &mut dyn Write) -> Result<ExitCode> {
    let run_dir = match (named.or(arguments.run_dir.as_deref()), arguments.drafting.data.first()) {
        (Some(run_dir), _) => run_dir.to_owned(),
        (None, Some(data)) => run_dir::latest(&run_dir::of_recipe(new::name(data)))?,
        (None, None) => bail!(Usage(
            "which run is to be resumed? rsflow train --resume RUN_DIR, or rsflow train DATA --resume for that run of \
             DATA which saved a checkpoint last"
                .to_owned()
        )),
    };
    let drafting = &arguments.drafting;
    let of_drafts = [
        ("--sizes", !drafting.sizes.is_empty()),
        ("--network", drafting.network.is_some()),
        ("--epochs", drafting.epochs.is_some()),
        (
            "--validation-percent",
            drafting.validation_percent.is_some(),
        ),
    ];
    if let Some((option, _)) = of_drafts.into_iter().find(|(_, is_given)| *is_given) {
        bail!(Usage(format!(
            "{option} is for a new recipe, and a run is resumed by its own; this changes it: --set trainer.epochs=3 \
             --accept-changes"
        )));
    }
    ensure!(
        run_dir.join(run_files::RECIPE).is_file(),
        Usage(format!(
            "there is no run in {} to resume; without --resume one is started",
            run_dir.shown()
        ))
    );
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
    let plan = || moved::plan_of_resume(&run, &arguments.drafting.data);
    run::run_plan(&run, plan, out)
}

/// Refuses a run directory among class folders, where it would be a class.
fn check_apart(run_dir: &Path, folders: &[PathBuf]) -> Result<()> {
    // As names, without `.` in them: the directory is not there yet.
    let whole = |path: &Path| -> PathBuf {
        let whole = std::path::absolute(path);
        whole.as_deref().unwrap_or(path).components().collect()
    };
    let within = |folder: &&PathBuf| whole(run_dir).starts_with(whole(folder));
    match folders.iter().find(within) {
        None => Ok(()),
        Some(folder) => bail!(Usage(format!(
            "the run directory {} would be taken for a class of {}; --run-dir names one elsewhere",
            run_dir.shown(),
            folder.shown()
        ))),
    }
}
