//! `rsflow run`: a recipe from its first file to the table of accuracies.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_graph::{Options, Running};

use super::{INTERRUPTED, plan};
use crate::cli::Run;
use crate::progress::{Progress, Screen};
use crate::run_dir::{self, RunDir};
use crate::table;

pub fn run(arguments: &Run, out: &mut dyn Write) -> Result<ExitCode> {
    let plan = plan(&arguments.recipe, &arguments.overrides)?;
    let run_dir = RunDir::open(
        &arguments.recipe,
        arguments.run_dir.as_deref(),
        arguments.resume.as_ref(),
    )?;
    let screen = Screen::new(std::io::stderr().is_terminal());
    run_dir.write_recipe(plan.recipe_text())?;
    run_dir::log(&run_dir, &screen)?;
    tracing::info!(recipe = %arguments.recipe.display(), version = env!("CARGO_PKG_VERSION"), "started");
    screen.line(&format!("run directory: {}", run_dir.path.display()));
    if let Some(checkpoint) = &run_dir.resume {
        screen.line(&format!("going on from {}", checkpoint.display()));
    }

    let progress = Progress::new(screen.clone());
    let options = Options {
        run_dir: Some(run_dir.path.clone()),
        resume: run_dir.resume.clone(),
        taps: progress.taps(&plan),
        signals: true,
        ..Options::default()
    };
    let running = match Running::start(&plan, options) {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("{error}");
            // Nothing has begun: leave nothing behind that would have to be resumed or removed.
            run_dir.discard();
            return Err(error.into());
        }
    };
    let result = running.wait();
    progress.end();
    let finished = match result {
        Ok(finished) => finished,
        Err(error) => {
            say_how_to_go_on(&screen, arguments, &run_dir.path);
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
            queue_occupancy = measured.queue_occupancy,
            "measured"
        );
    }
    if !finished.skipped.is_empty() {
        screen.line(&format!(
            "{} damaged images were replaced; run.log names them",
            finished.skipped.len()
        ));
    }
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
        say_how_to_go_on(&screen, arguments, &run_dir.path);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    tracing::info!("done");
    Ok(ExitCode::SUCCESS)
}

fn say_how_to_go_on(screen: &Screen, arguments: &Run, run_dir: &Path) {
    let last = run_dir::last_checkpoint(run_dir);
    if last.exists() {
        screen.line(&format!(
            "{} is complete; to go on: rsflow run {} --run-dir {} --resume",
            last.display(),
            arguments.recipe.display(),
            run_dir.display()
        ));
    }
}
