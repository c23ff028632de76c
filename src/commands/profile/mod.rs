//! `rsflow profile`: where the time goes, node by node, and what the bottleneck is.

mod processes;
mod report;
mod trace;

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_cupti::Recording;
use rsflow_graph::{
    Opaque, Plan, Planned, Position, Role, RunContext, Tally, Trace, World, did_you_mean, listed,
};
use rsflow_model::dist::{Peers, Timeouts};
use rsflow_model::train::lookup::block;

use serde_json::json;

use super::recipes::{plan, recipe};
use super::run::is_lost;
use super::usage::Usage;
use crate::cli::{Only, Profile};
use crate::files::{self, is_stdout, write_json};
use crate::gpu::GpuView;
use crate::measure::{self, Batches, Digest, Job, Outcome, Part, source_of_batches};
use crate::process::{self, INTERRUPTED};
use crate::progress::Screen;
use crate::{launch, skipped};
use trace::OnGpu;

/// How long is measured by default.
const SECONDS: f64 = 10.0;
/// Events that a trace holds: some 40 MB while it is recorded.
const MAX_EVENTS: usize = 500_000;

pub fn run(arguments: &Profile, out: &mut dyn Write) -> Result<ExitCode> {
    let only = only(arguments)?;
    let world = launch::world()?;
    if let Some(count) = arguments.processes
        && world == World::default()
        && count > 1
    {
        check_output_paths(arguments)?;
        return launch::supervise(count, 0, |_| std::env::args_os().skip(1).collect());
    }
    let first = world.rank == 0;
    let screen = match first {
        true => Screen::new(std::io::stderr().is_terminal()),
        false => Screen::silent(),
    };
    process::log(None, &screen)?;
    // Data nodes alone exchange nothing.
    let peers = match only {
        Only::Pipeline => None,
        Only::Trainer | Only::Both => {
            process::prepare_exchange(world);
            launch::meet(world, Timeouts::default())?
        }
    };
    let result = measured(arguments, only, world, peers.as_ref(), &screen, out);
    if let (Err(error), Some(peers)) = (&result, &peers) {
        peers.end(error, is_lost(error));
    }
    result
}

/// Measures in this process, which may be one of several.
fn measured(
    arguments: &Profile,
    only: Only,
    world: World,
    peers: Option<&Arc<Peers>>,
    screen: &Screen,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let first = peers.is_none() || world.rank == 0;
    if first {
        check_output_paths(arguments)?;
    }
    let trace = arguments.trace.as_ref();
    let trace = trace.map(|path| (path, Arc::new(Trace::new(MAX_EVENTS))));
    let mut job = match only {
        Only::Pipeline => data_job(arguments)?,
        Only::Trainer => trainer_job(arguments, Batches::Cached)?,
        Only::Both => trainer_job(arguments, Batches::Fresh)?,
    };
    job.gpu = arguments.gpu;
    job.part.title.insert_str(0, "profiling ");
    job.run = RunContext {
        world,
        block: block(&job.part.plan),
        peers: peers.cloned().map(Opaque::new),
        tally: peers.map(|peers| Arc::clone(peers) as Arc<dyn Tally>),
        trace: trace.as_ref().map(|(_, trace)| trace.clone()),
        ..RunContext::default()
    };
    job.peers = peers.cloned();
    let Outcome {
        figures,
        finished,
        digest,
        gpu,
    } = measure::run(job, screen)?;
    let shares = match peers {
        Some(peers) => processes::gather(peers, &figures, finished.interrupted)?,
        None => Vec::new(),
    };
    if !first {
        return Ok(ExitCode::SUCCESS);
    }
    skipped::tell(&finished.skipped, screen);
    if let Some(digest) = &digest {
        if finished.interrupted {
            return Ok(ExitCode::from(INTERRUPTED)); // the hash of a part means nothing
        }
        ensure!(
            digest.reached(),
            Usage("the stream ends before the sample from which it is to be hashed".to_owned())
        );
    }
    let digest = digest.as_ref().map(Digest::finish);
    if let Some((path, trace)) = trace {
        write_trace(
            path,
            &trace,
            gpu.as_ref().map(|(recording, _)| recording),
            screen,
        )?;
    }
    let hash = digest.as_ref().map(|(hash, _)| hash.as_str());
    let gpu = gpu.map(|(recording, period)| GpuView::new(&recording, period));
    if let Some(path) = &arguments.json {
        let mut value = report::as_json(&figures, &finished.skipped, only_as_json(only), hash);
        value["gpu"] = json!(gpu.as_ref().map(GpuView::as_json));
        value["processes"] = json!(shares);
        write_json(path, &value, out)?;
    }
    let code = match finished.interrupted {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    };
    if is_stdout(arguments.json.as_deref()) {
        return Ok(code);
    }
    match &digest {
        // Alone on stdout, for scripts.
        Some((hash, samples)) => {
            screen.line(&format!("the digest covers {samples} samples"));
            writeln!(out, "{hash}")?;
        }
        None => writeln!(out, "{}", report::render(&figures))?,
    }
    if !shares.is_empty() {
        writeln!(out, "\n{}", processes::render(&shares))?;
    }
    if let Some(gpu) = &gpu {
        writeln!(out, "{}", gpu.render())?;
    }
    Ok(code)
}

/// Checked before anything is measured, so that no figures are lost because they cannot be written.
fn check_output_paths(arguments: &Profile) -> Result<()> {
    if let Some(path) = &arguments.trace {
        ensure!(
            !is_stdout(Some(path)),
            Usage("--trace needs the name of a file".to_owned())
        );
        files::check_output(path, "--trace", arguments.force, &[&arguments.recipe])?;
    }
    match &arguments.json {
        Some(path) => files::check_output(path, "--json", arguments.force, &[&arguments.recipe]),
        None => Ok(()),
    }
}

fn write_trace(path: &Path, trace: &Trace, gpu: Option<&Recording>, screen: &Screen) -> Result<()> {
    let recorded = trace.take();
    let mut text = Vec::new();
    let room = MAX_EVENTS - recorded.slices.len() - recorded.levels.len();
    let gpu = gpu.map(|gpu| OnGpu {
        activities: &gpu.activities[..gpu.activities.len().min(room)],
        began: gpu.clock(trace.began()),
        dropped: gpu.activities.len().saturating_sub(room),
    });
    trace::write(&recorded, gpu.as_ref(), &mut text)?;
    files::replace(path, &text)
        .with_context(|| format!("cannot write {}; --trace names another file", path.shown()))?;
    let (of_gpu, dropped) = gpu.map_or((0, 0), |gpu| (gpu.activities.len(), gpu.dropped as u64));
    let events = recorded.slices.len() + recorded.levels.len() + of_gpu;
    let dropped = match recorded.dropped + dropped {
        0 => String::new(),
        dropped => format!(", {dropped} later ones were dropped"),
    };
    screen.line(&format!(
        "{} has {events} events{dropped}; open it in https://ui.perfetto.dev",
        path.shown()
    ));
    Ok(())
}

/// Which half to run.
fn only(arguments: &Profile) -> Result<Only> {
    let of_data = match (&arguments.until, arguments.digest) {
        (Some(_), _) => Some("--until"),
        (None, true) => Some("--digest"),
        (None, false) => None,
    };
    let default = match of_data {
        Some(_) => Only::Pipeline,
        None => Only::Both,
    };
    let only = arguments.only.unwrap_or(default);
    if let Some(option) = of_data
        && only != Only::Pipeline
    {
        bail!(Usage(format!(
            "{option} is about the data nodes alone: leave --only out, or set it to pipeline"
        )));
    }
    ensure!(
        only != Only::Trainer || arguments.epochs.is_none(),
        Usage("--epochs needs data nodes; with `--only trainer` use --seconds".to_owned())
    );
    Ok(only)
}

fn only_as_json(only: Only) -> &'static str {
    match only {
        Only::Pipeline => "pipeline",
        Only::Trainer => "trainer",
        Only::Both => "both",
    }
}

/// `part` for as long as the arguments say.
fn job(part: Part, arguments: &Profile) -> Job {
    let by_default = arguments.epochs.is_none().then_some(SECONDS);
    Job {
        part,
        seconds: arguments.seconds.or(by_default),
        epochs: arguments.epochs,
        start: Position::default(),
        digest: None,
        run: RunContext::default(),
        peers: None,
        gpu: false,
        on_interrupt: Some(
            "interrupted: what was measured so far follows; press Ctrl-C again to quit now",
        ),
    }
}

/// The data nodes up to one of them.
fn data_job(arguments: &Profile) -> Result<Job> {
    let plan = Plan::with_unread(recipe(&arguments.recipe, &arguments.overrides)?)?;
    let node = match &arguments.until {
        Some(node) => node.clone(),
        None => {
            let mut trainers = plan.trainers();
            let source = trainers.next().and_then(|it| source_of_batches(&plan, it));
            let source = source.with_context(|| {
                Usage(format!(
                    "{} has no trainer with training batches: --until names a data node",
                    arguments.recipe.shown()
                ))
            })?;
            source.id.name.clone()
        }
    };
    let part = data_nodes(&plan, &node)?;
    if !arguments.digest {
        return Ok(job(Part::data(part)?, arguments));
    }
    let last = part.nodes().last();
    let batch = last.and_then(Planned::batch_size).with_context(|| {
        let batches = names(&plan, |planned| planned.batch_size().is_some());
        Usage(format!(
            "`{node}` has no pixels yet, it only plans them: --digest takes {}",
            listed(batches)
        ))
    })?;
    let (epoch, sample) = arguments.start.or(arguments.skip).unwrap_or_default();
    let from = Position { epoch, sample };
    // A stream starts with a whole batch: the one that holds the sample before `from`, which shows
    // that the epoch is as long.
    let start = match arguments.start {
        Some(_) => {
            let before = sample.saturating_sub(1);
            Position {
                epoch,
                sample: before - before % batch,
            }
        }
        None => Position::default(),
    };
    let end = arguments.epochs.unwrap_or(epoch.saturating_add(1));
    ensure!(
        epoch < end,
        Usage(format!(
            "nothing is left to hash: the stream ends with epoch {end}, and it is to start in epoch {}; raise --epochs",
            epoch.saturating_add(1)
        ))
    );
    Ok(Job {
        seconds: None,
        epochs: Some(end),
        start,
        digest: Some(Digest::new(start, from, launch::world()?)),
        ..job(Part::data(part)?, arguments)
    })
}

/// The trainer, with its data nodes or without.
fn trainer_job(arguments: &Profile, batches: Batches) -> Result<Job> {
    let plan = plan(&arguments.recipe, &arguments.overrides)?;
    let trainer = plan.trainers().next().with_context(|| {
        Usage(format!(
            "{} has no trainer: --until names a data node to profile",
            arguments.recipe.shown()
        ))
    })?;
    Ok(job(Part::trainer(&plan, trainer, batches)?, arguments))
}

fn names<'a>(
    plan: &'a Plan,
    wanted: impl Fn(&Planned) -> bool + 'a,
) -> impl Iterator<Item = &'a str> {
    let nodes = plan.nodes().iter().filter(move |planned| wanted(planned));
    nodes.map(|planned| planned.id.name.as_str())
}

/// The plan up to a data node.
fn data_nodes(plan: &Plan, node: &str) -> Result<Plan> {
    let is_data = |planned: &Planned| planned.kind.role == Role::Data;
    let data = || names(plan, is_data);
    let part = plan.until(node).with_context(|| {
        let help = did_you_mean(node, data());
        let help = help.unwrap_or_else(|| format!("--until takes {}", listed(data())));
        Usage(format!("there is no node `{node}`: {help}"))
    })?;
    ensure!(
        part.nodes().iter().all(is_data),
        Usage(format!(
            "`{node}` is not a data node: --until takes {}; --only trainer and --only both measure the \
             trainer",
            listed(data())
        ))
    );
    Ok(part)
}
