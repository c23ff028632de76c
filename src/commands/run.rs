//! `rsflow run`: a recipe from its first file to the table of accuracies.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use rsflow_base::run_files;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Options, Plan, Resume, RunContext, Running, differences};
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::train::lookup::process_settings;

use super::recipes::plan;
use super::usage::Usage;
use crate::catalogue::CATALOGUE;
use crate::cli::Run;
use crate::process::{self, INTERRUPTED, Interrupts};
use crate::progress::{Progress, Screen};
use crate::run_dir::RunDir;
use crate::{launch, run_dir, skipped, table};

pub fn run(arguments: &Run, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupts = Interrupts::listen(
        "interrupted: finishing the current step and saving a checkpoint; press Ctrl-C again to quit now",
    )?;
    let plan = plan(&arguments.recipe, &arguments.overrides)?;
    let world = launch::world()?;
    ensure!(
        world.size == 1,
        Usage(format!(
            "this would be process {} of {} (RANK, WORLD_SIZE), and `rsflow run` trains in one process: \
             gradients are not averaged over several; unset WORLD_SIZE",
            world.rank, world.size
        ))
    );
    let mut run_dir = RunDir::find(
        &arguments.recipe,
        arguments.run_dir.as_deref(),
        arguments.resume.as_ref(),
    )?;
    let checkpoint = run_dir.resume.as_deref();
    let checkpoint = checkpoint.map(run_dir::open).transpose()?;
    let changes = match &checkpoint {
        Some(checkpoint) => changes(checkpoint, &plan, arguments.accept_changes)?,
        None => Vec::new(),
    };
    let _locked = run_dir.make()?;
    let unused = run_dir.unused();
    if let Some(unused) = unused.clone() {
        interrupts.before_end(move || unused.remove());
    }
    let screen = Screen::new(std::io::stderr().is_terminal());
    let progress = Progress::new(screen.clone());
    let start = || {
        process::log(Some(&run_dir.log()), &screen)?;
        tracing::info!(recipe = %arguments.recipe.shown(), version = env!("CARGO_PKG_VERSION"), "started");
        screen.line(&format!("run directory: {}", run_dir.path.shown()));
        if let Some(checkpoint) = &run_dir.resume {
            screen.line(&format!("resuming from {}", checkpoint.shown()));
        }
        for change in &changes {
            tracing::warn!("the recipe was changed: {change}");
        }
        process::prepare(process_settings(&plan))?;
        if run_dir.resume.is_none() {
            run_dir.write_recipe(plan.recipe_text())?;
        }
        let options = Options {
            run: RunContext {
                world,
                run_dir: Some(run_dir.path.clone()),
                resume: checkpoint.map(Resume::new),
                ..RunContext::default()
            },
            allocator: plan.allocator(),
            taps: progress.taps(&plan),
            ..Options::default()
        };
        Ok(Running::start(&plan, options)?)
    };
    let running = match start() {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("{error}");
            // Nothing has begun: leave nothing behind that would have to be resumed or removed.
            if let Some(unused) = unused {
                unused.remove();
            }
            return Err(error);
        }
    };
    interrupts.started(running.stop());
    tracing::info!(workers = %running.workers(), "selected worker count");
    progress.watch(running.meters(), running.workers().clone());
    if run_dir.resume.is_some() {
        // Not before: a resume may have been refused.
        run_dir.write_recipe(plan.recipe_text())?;
    }
    let result = running.wait();
    progress.end();
    let finished = match result {
        Ok(finished) => finished,
        Err(error) => {
            skipped::tell_and_keep(&error.skipped, &run_dir.path, &screen);
            match unused.filter(|_| error.skipped.is_empty() && !progress.has_steps()) {
                Some(unused) => unused.remove(),
                None => say_how_to_go_on(&screen, &run_dir.path),
            }
            return Err(error.into());
        }
    };
    for measured in &finished.measured {
        tracing::info!(
            node = measured.node.name,
            items = measured.items,
            busy_s = measured.busy.as_secs_f64(),
            wait_input_s = measured.wait_input.as_secs_f64(),
            wait_output_s = measured.wait_output.as_secs_f64(),
            queue_occupancy = measured.queue.occupancy(),
            "measured"
        );
    }
    skipped::tell_and_keep(&finished.skipped, &run_dir.path, &screen);
    if let Some(table) = progress.last_table() {
        writeln!(
            out,
            "{}\nafter {} epochs ({} steps), {} validation images",
            table::render(&table),
            table.epoch + 1,
            table.step,
            table.images
        )?;
    }
    if finished.interrupted {
        say_how_to_go_on(&screen, &run_dir.path);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    tracing::info!("done");
    Ok(ExitCode::SUCCESS)
}

/// What the recipe says differently from the one that the checkpoint was made with. That is an
/// error, unless they are `accepted`.
fn changes(checkpoint: &Checkpoint, plan: &Plan, accepted: bool) -> Result<Vec<String>> {
    let before = checkpoint.metadata();
    let changes = match before.is_imported() {
        true => Vec::new(),
        false => differences(plan.recipe_text(), &before.recipe, CATALOGUE),
    };
    if accepted || changes.is_empty() {
        return Ok(changes);
    }
    bail!(Usage(format!(
        "the recipe is not the one that {} was made with\n  {}\n\
         help: revert the changes (recipe.ron in the run directory is the recipe as it ran); \
         `--accept-changes` resumes with them",
        checkpoint.path().shown(),
        changes.join("\n  ")
    )))
}

/// With the recipe as it ran: that of the command line needs its overrides.
fn say_how_to_go_on(screen: &Screen, run_dir: &Path) {
    let last = run_files::last_checkpoint(run_dir);
    if last.exists() {
        screen.line(&format!(
            "{} is complete; to resume: rsflow run {} --run-dir {} --resume",
            last.shown(),
            run_dir.join(run_files::RECIPE).shown(),
            run_dir.shown()
        ));
    }
}
