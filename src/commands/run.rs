//! `rsflow run`: a recipe from its first file to the table of accuracies.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rsflow_base::run_files::{self, BEST, CHECKPOINTS};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Opaque, Options, PROGRESS, Plan, RunContext, RunError, Running, Tally, World, differences,
};
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::dist::{PeerLost, Peers, Timeouts};
use rsflow_model::train::lookup::{block, process_settings};
use rsflow_model::train::metrics::Table;

use super::moved::{Moved, check_there};
use super::recipes::plan;
use super::usage::{Usage, many, warn};
use crate::catalogue::CATALOGUE;
use crate::cli::Run;
use crate::process::{self, INTERRUPTED, Interrupts};
use crate::progress::{Progress, Screen};
use crate::run_dir::RunDir;
use crate::{launch, next_commands, now, run_dir, skipped, table};

pub fn run(arguments: &Run, out: &mut dyn Write) -> Result<ExitCode> {
    let plan = || {
        Ok((
            plan(&arguments.recipe, &arguments.overrides)?,
            Moved::default(),
        ))
    };
    run_plan(arguments, plan, out)
}

/// Runs what `plan` reads in place of the arguments' recipe, which names the run. With the plan comes where images
/// are now that it had elsewhere.
pub fn run_plan(
    arguments: &Run,
    plan: impl FnOnce() -> Result<(Plan, Moved)>,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let world = launch::world()?;
    match arguments.processes {
        Some(count) if world == World::default() && count > 1 => {
            return start_processes(arguments, count);
        }
        Some(count) if world.size != count => bail!(Usage(format!(
            "--processes {count} starts processes, and this is one of {} already (RANK, WORLD_SIZE): leave it \
             out under a launcher such as torchrun",
            world.size
        ))),
        _ => {}
    }
    process::prepare_exchange(world);
    let interrupts = Interrupts::listen(
        "interrupted: finishing the current step and saving a checkpoint; press Ctrl-C again to quit now",
    )?;
    let (plan, moved) = plan()?;
    if world.rank == 0 {
        warn(plan.warnings());
    }
    let timeouts = Timeouts {
        exchange: Duration::from_secs(arguments.exchange_timeout),
        silence: Duration::from_secs(arguments.silence),
    };
    let peers = launch::meet(world, timeouts)?;
    let result = train(arguments, (&plan, &moved), &interrupts, peers.as_ref(), out);
    if let Err(error) = &result {
        let lost = is_lost(error);
        if !lost {
            launch::write_error_file(error);
        }
        if let Some(peers) = &peers {
            peers.end(error, lost);
        }
    }
    result
}

/// Whether nothing failed but another process of the run.
pub(super) fn is_lost(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<RunError>() {
        Some(run) => run
            .failures
            .iter()
            .all(|failure| PeerLost::is_in(&failure.error)),
        None => PeerLost::is_in(error),
    }
}

/// What the first process tells the others under this name.
const RUN_DIRECTORY: &str = "run directory";

/// Starts the processes of a run on this machine, each with this command line; after a failure with one
/// that resumes.
fn start_processes(arguments: &Run, count: u32) -> Result<ExitCode> {
    // Only then must all attempts have the same.
    let common = (arguments.max_restarts > 0).then(|| RunDir::find(arguments));
    let run_dir = common.transpose()?.map(|run_dir| run_dir.path);
    let saved = || {
        let last = run_files::last_checkpoint(run_dir.as_deref()?);
        std::fs::metadata(last)
            .and_then(|file| file.modified())
            .ok()
    };
    let saved_before = saved();
    launch::supervise(count, arguments.max_restarts, |attempt| {
        // From the checkpoint that was named, until this run has one of its own.
        let from_named = arguments.resume.is_some() && saved() == saved_before;
        match &run_dir {
            Some(run_dir) if attempt > 0 && !from_named => arguments.resuming(run_dir),
            run_dir => {
                let more = run_dir.iter().filter(|_| arguments.run_dir.is_none());
                let more = more.flat_map(|run_dir| ["--run-dir".into(), run_dir.into()]);
                std::env::args_os().skip(1).chain(more).collect()
            }
        }
    })
}

/// Trains in this process, which may be one of several.
fn train(
    arguments: &Run,
    (plan, moved): (&Plan, &Moved),
    interrupts: &Interrupts,
    peers: Option<&Arc<Peers>>,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let world = peers.map_or_else(World::default, |peers| peers.world());
    let first = world.rank == 0;
    let mut run_dir = match first {
        true => RunDir::find(arguments)?,
        false => {
            let peers = peers.context("a run of several processes")?;
            RunDir::of_text(&peers.broadcast(RUN_DIRECTORY, String::new)?, world.rank)?
        }
    };
    // The other processes get what is in it from the first one.
    let checkpoint = run_dir.resume.as_deref().filter(|_| first);
    let checkpoint = checkpoint.map(run_dir::open).transpose()?;
    if run_dir.resume.is_some() {
        check_there(plan, &run_dir.path)?;
    }
    let changes = match &checkpoint {
        Some(checkpoint) => changes(checkpoint, plan, moved, arguments.accept_changes)?,
        None => Vec::new(),
    };
    let _locked = first.then(|| run_dir.make()).transpose()?;
    let unused = run_dir.unused();
    if let Some(unused) = unused.clone() {
        interrupts.before_end(move || unused.remove());
    }
    let screen = match first {
        true => Screen::new(std::io::stderr().is_terminal()),
        false => Screen::silent(),
    };
    let progress = Progress::new(screen.clone());
    let start = || {
        process::log(Some(&run_dir.log()), &screen)?;
        // With a file in it, no other process takes the directory for unused.
        if let Some(peers) = peers.filter(|_| first) {
            let text = run_dir.to_text()?;
            peers.broadcast(RUN_DIRECTORY, || text)?;
        }
        tracing::info!(recipe = %arguments.recipe.shown(), version = env!("CARGO_PKG_VERSION"), "started");
        screen.line(&format!("run directory: {}", run_dir.path.shown()));
        if let Some(checkpoint) = &run_dir.resume {
            screen.line(&format!("resuming from {}", checkpoint.shown()));
        }
        if !moved.is_empty() {
            tracing::info!(target: PROGRESS, "{moved}");
        }
        for change in &changes {
            tracing::warn!("the recipe was changed: {change}");
        }
        process::prepare(process_settings(plan))?;
        if first && run_dir.resume.is_none() {
            run_dir.write_recipe(plan.recipe_text())?;
        }
        let options = Options {
            run: RunContext {
                world,
                block: block(plan),
                run_dir: Some(run_dir.path.clone()),
                peers: peers.cloned().map(Opaque::new),
                tally: peers.map(|peers| Arc::clone(peers) as Arc<dyn Tally>),
                resume: checkpoint.map(Opaque::new),
                ..RunContext::default()
            },
            allocator: plan.allocator(),
            taps: progress.taps(plan),
            ..Options::default()
        };
        Ok(Running::start(plan, options)?)
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
    let snapshots = first.then(|| snapshots(&running, &progress, world, &run_dir.path));
    let snapshots = snapshots.flatten();
    if first && run_dir.resume.is_some() && moved.is_empty() {
        // Not before: a resume may have been refused.
        run_dir.write_recipe(plan.recipe_text())?;
    }
    let result = running.wait();
    progress.end();
    let finished = match result {
        Ok(finished) => finished,
        Err(error) => {
            skipped::tell_and_keep(&error.skipped, &run_dir.path, &screen);
            let unused = unused.filter(|_| error.skipped.is_empty() && !progress.has_steps());
            let forgiving = forgiving(&error, plan);
            let error = error.into();
            if let Some(snapshots) = snapshots {
                snapshots.end(now::State::Failed, Some(&error));
            }
            match unused {
                Some(unused) => unused.remove(),
                None => say_how_to_go_on(&screen, &run_dir.path, &forgiving),
            }
            return Err(error);
        }
    };
    if first && !moved.is_empty() {
        // Now that a checkpoint has the new places, too: a run that is killed before finds its images again.
        run_dir.write_recipe(plan.recipe_text())?;
    }
    // Before anything is printed: another process may have failed. All end alike.
    let (interrupted, skipped) = match peers {
        Some(peers) => {
            let own = skipped::to_line(&finished.skipped)?;
            let (interrupted, all) = peers.leave(finished.interrupted, own)?;
            (interrupted, skipped::of_lines(&all)?)
        }
        None => (finished.interrupted, finished.skipped),
    };
    if let Some(snapshots) = snapshots {
        let state = match interrupted {
            true => now::State::Stopped,
            false => now::State::Finished,
        };
        snapshots.end(state, None);
    }
    if let Some(peers) = peers {
        tracing::info!(
            seconds = peers.waited().as_secs_f64(),
            "waited for other processes"
        );
    }
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
    skipped::tell_and_keep(&skipped, &run_dir.path, &screen);
    let table = progress.last_table().filter(|_| first);
    if let Some(table) = &table {
        writeln!(
            out,
            "{}\nafter {} ({}), {}",
            table::render(table),
            many(table.epoch + 1, "epoch"),
            many(table.step, "step"),
            validation_images(table)
        )?;
        if let Some(best) = better(&run_dir.path, table) {
            writeln!(out, "{best}")?;
        }
    }
    if interrupted {
        say_how_to_go_on(&screen, &run_dir.path, &[]);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    say_what_is_next(&screen, &run_dir.path, table.as_ref());
    tracing::info!("done");
    Ok(ExitCode::SUCCESS)
}

/// Writes what the run is doing for `rsflow top`. A run without it is a whole run.
fn snapshots(
    running: &Running,
    progress: &Progress,
    world: World,
    run_dir: &Path,
) -> Option<now::writer::Writer> {
    let source = now::writer::Source {
        meters: running.meters(),
        workers: running.workers().clone(),
        progress: progress.clone(),
        processes: world.size,
    };
    let writer = now::writer::Writer::start(source, run_dir);
    writer.inspect_err(|error| tracing::warn!("{error:#}")).ok()
}

/// How many there are, and of how many where some were left out.
fn validation_images(table: &Table) -> String {
    match table.left_out {
        0 => many(table.images, "validation image"),
        left_out => format!(
            "{} of {}",
            table.images,
            many(table.images + left_out, "validation image")
        ),
    }
}

/// What the recipe says differently from the one that the checkpoint was made with. That is an
/// error, unless they are `accepted`. Where images are that have moved, is no change.
fn changes(
    checkpoint: &Checkpoint,
    plan: &Plan,
    moved: &Moved,
    accepted: bool,
) -> Result<Vec<String>> {
    let before = checkpoint.metadata();
    let changes = match before.is_imported() {
        true => Vec::new(),
        false => differences(plan.recipe_text(), &moved.within(&before.recipe), CATALOGUE),
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

/// Overrides with which samples are passed over of the kind that ended the run: the next one may be another
/// node's of that kind.
fn forgiving(error: &RunError, plan: &Plan) -> Vec<String> {
    let mut failures = error.failures.iter();
    let Some((kind, budget)) = failures.find_map(|it| Some((it.node.kind, it.budget?))) else {
        return Vec::new();
    };
    let nodes = plan.nodes().iter().map(|planned| &planned.id);
    nodes
        .filter(|node| node.kind == kind)
        .map(|node| format!("{}.on_error=Skip(budget: {budget})", node.name))
        .collect()
}

/// `overrides`: without them it would end there again.
fn say_how_to_go_on(screen: &Screen, run_dir: &Path, overrides: &[String]) {
    let last = run_files::last_checkpoint(run_dir);
    if last.exists() {
        let how = match overrides {
            [] => "",
            _ => ", passing over what is damaged",
        };
        screen.line(&format!(
            "{} is complete; to resume{how}: {}",
            last.shown(),
            next_commands::to_resume(run_dir, overrides)
        ));
    }
}

/// Where the files of a run that has ended are, and what to do with them.
fn say_what_is_next(screen: &Screen, run_dir: &Path, table: Option<&Table>) {
    screen.line(&format!("run directory: {}", run_dir.shown()));
    let sizes = table.iter().flat_map(|table| &table.rows);
    let largest = sizes.filter_map(|row| row.resolution).max();
    for command in next_commands::after_training(run_dir, largest) {
        screen.line(&format!("  {command}"));
    }
}

/// The best validation, where the last one, whose table was printed, is another.
fn better(run_dir: &Path, table: &Table) -> Option<String> {
    let last = Checkpoint::open(&run_files::last_checkpoint(run_dir)).ok()?;
    let best = last.metadata().best?;
    (best.epoch != table.epoch).then(|| {
        format!(
            "best epoch: {} of {}, in {CHECKPOINTS}/{BEST}, which `eval`, `predict` and `serve` take",
            best.epoch + 1,
            table.epoch + 1
        )
    })
}
