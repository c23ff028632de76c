//! `rsflow profile`: where the time goes, node by node, and what the bottleneck is.

mod digest;
mod report;
mod trace;
mod watch;

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::{
    Feed, FeedWith, Finished, Measured, Options, Plan, Planned, Position, RunContext, Running,
    Trace, did_you_mean, listed,
};
use rsflow_model::train::evaluate::Evaluate;
use rsflow_model::train::trainer::Trainer;
use rsflow_pipeline::nodes;

use super::{INTERRUPTED, Usage, allocator, recipe};
use crate::cli::{Bench, Only, Profile};
use crate::figures::{Figures, rate};
use crate::files::{self, is_stdout, write_json};
use crate::progress::Screen;
use crate::{launch, run_dir, skipped};
use digest::Digest;
use watch::Watch;

/// How long is measured where nothing is said.
const SECONDS: f64 = 10.0;
/// Batches that the trainer alone goes through again and again.
const CACHED: usize = 2;
/// How often a run that is measured is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How long the first batch may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often something is said while it runs.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// Events that a trace holds: some 40 MB while it is recorded.
const TRACED: usize = 500_000;

pub fn run(arguments: &Profile, out: &mut dyn Write) -> Result<ExitCode> {
    let screen = Screen::new(std::io::stderr().is_terminal());
    run_dir::log(None, &screen)?;
    check_places(arguments)?;
    let job = Job::new(arguments)?;
    let trace = arguments
        .trace
        .as_ref()
        .map(|_| Arc::new(Trace::new(TRACED)));
    let options = Options {
        allocator: allocator(&job.plan),
        taps: vec![job.tap()?],
        feeds: job.feeds.clone(),
        epochs: job.epochs,
        start: job.start,
        signals: Some(
            "interrupted: what was measured so far follows; press Ctrl-C again to quit now",
        ),
        run: RunContext {
            world: launch::world()?,
            trace: trace.clone(),
            ..RunContext::default()
        },
        ..Options::default()
    };
    let running = Running::start(&job.plan, options)?;
    screen.line(&format!("profiling {}: {}", job.title, running.workers()));
    let (figures, finished) = measure(running, &job, &screen)?;
    skipped::tell(&finished.skipped, &screen);
    let digest = job.watch.seen().digest.take();
    if let Some(digest) = &digest {
        if finished.interrupted {
            return Ok(ExitCode::from(INTERRUPTED)); // the hash of a part says nothing
        }
        ensure!(
            digest.reached(),
            Usage("the stream ends before the sample from which it is to be hashed".to_owned())
        );
    }
    let digest = digest.as_ref().map(Digest::finish);
    if let (Some(path), Some(trace)) = (&arguments.trace, trace) {
        write_trace(path, &trace, &screen)?;
    }
    let hash = digest.as_ref().map(|(hash, _)| hash.as_str());
    if let Some(path) = &arguments.json {
        let value = report::as_json(&figures, &finished.skipped, job.only, hash);
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
        // Alone, for scripts.
        Some((hash, samples)) => {
            screen.line(&format!("the digest is that of {samples} samples"));
            writeln!(out, "{hash}")?;
        }
        None => writeln!(out, "{}", report::render(&figures))?,
    }
    Ok(code)
}

/// How fast images come through a part of a recipe, for `rsflow bench`.
pub fn images_per_second(of: &Bench, only: Only, screen: &Screen) -> Result<f64> {
    let job = Job::new(&Profile {
        recipe: of.recipe.clone(),
        overrides: of.overrides.clone(),
        until: None,
        only: Some(only),
        seconds: Some(of.seconds),
        epochs: None,
        digest: false,
        start: None,
        skip: None,
        json: None,
        trace: None,
    })?;
    let options = Options {
        allocator: allocator(&job.plan),
        taps: vec![job.tap()?],
        feeds: job.feeds.clone(),
        ..Options::default()
    };
    let running = Running::start(&job.plan, options)?;
    screen.line(&format!("{}: {}", job.title, running.workers()));
    let (figures, _) = measure(running, &job, screen)?;
    Ok(figures.images_per_second)
}

/// Before anything is measured, which is not to be lost for want of a place.
fn check_places(arguments: &Profile) -> Result<()> {
    if let Some(path) = &arguments.trace {
        ensure!(
            !is_stdout(Some(path)),
            Usage("--trace needs the name of a file".to_owned())
        );
        files::check_place(path, "--trace")?;
    }
    match &arguments.json {
        Some(path) => files::check_place(path, "--json"),
        None => Ok(()),
    }
}

fn write_trace(path: &Path, trace: &Trace, screen: &Screen) -> Result<()> {
    let recorded = trace.take();
    let mut text = Vec::new();
    trace::write(&recorded, &mut text)?;
    files::replace(path, &text).with_context(|| {
        format!(
            "cannot write {}; --trace names another file",
            path.display()
        )
    })?;
    screen.line(&format!(
        "{} has the first {} events{}; https://ui.perfetto.dev shows it",
        path.display(),
        recorded.slices.len() + recorded.levels.len(),
        match recorded.dropped {
            0 => ", which are all".to_owned(),
            dropped => format!(", {dropped} more had no room"),
        }
    ));
    Ok(())
}

/// What is to be run and measured.
struct Job {
    /// In words.
    title: String,
    only: &'static str,
    plan: Plan,
    /// The node whose output is watched.
    node: String,
    feeds: Vec<Feed>,
    watch: Watch,
    /// Items that come out before anything counts.
    warm_up: u64,
    seconds: Option<f64>,
    epochs: Option<u64>,
    start: Position,
}

impl Job {
    fn new(arguments: &Profile) -> Result<Self> {
        let default = match (&arguments.until, arguments.digest) {
            (None, false) => Only::Both,
            _ => Only::Pipeline,
        };
        let only = arguments.only.unwrap_or(default);
        if only != Only::Pipeline {
            let option = match (&arguments.until, arguments.digest) {
                (Some(_), _) => Some("--until"),
                (None, true) => Some("--digest"),
                (None, false) => None,
            };
            if let Some(option) = option {
                anyhow::bail!(Usage(format!(
                    "{option} is about the data nodes alone: leave --only out, or set it to pipeline"
                )));
            }
        }
        ensure!(
            only != Only::Trainer || arguments.epochs.is_none(),
            Usage("--epochs needs data nodes; with `--only trainer` use --seconds".to_owned())
        );
        match only {
            Only::Pipeline => Self::pipeline(arguments),
            Only::Trainer | Only::Both => Self::trainer(arguments, only),
        }
    }

    /// The data nodes up to one of them.
    fn pipeline(arguments: &Profile) -> Result<Self> {
        let plan = Plan::with_unread(recipe(&arguments.recipe, &arguments.overrides)?)?;
        let node = match &arguments.until {
            Some(node) => node.clone(),
            None => train_node(&plan).with_context(|| {
                Usage(format!(
                    "{} has no trainer whose batches could be meant: --until names a data node",
                    arguments.recipe.display()
                ))
            })?,
        };
        let part = data_part(&plan, &node)?;
        let [.., planned] = part.nodes() else {
            anyhow::bail!("`{node}` needs no node, not even itself");
        };
        let (mut start, mut digest, mut epochs) = (Position::default(), None, arguments.epochs);
        if arguments.digest {
            let batch = planned.node::<nodes::Batch>().with_context(|| {
                Usage(format!(
                    "`{node}` yields no pixels yet, only what is wanted of them: --digest takes {}",
                    listed(names(&plan, |planned| planned
                        .node::<nodes::Batch>()
                        .is_some()))
                ))
            })?;
            let (epoch, sample) = arguments.start.or(arguments.skip).unwrap_or_default();
            let from = Position { epoch, sample };
            if arguments.start.is_some() {
                // A stream starts with a whole batch. One that holds the sample before tells whether
                // the epoch is as long.
                let before = sample.saturating_sub(1);
                start = Position {
                    epoch,
                    sample: before - before % batch.size() as u64,
                };
            }
            let end = epochs.unwrap_or(epoch.saturating_add(1));
            ensure!(
                epoch < end,
                Usage(format!(
                    "nothing is left to hash: the stream ends with epoch {end}, and epoch {epoch}, \
                     counted from 0, is where it is to start; raise --epochs"
                ))
            );
            epochs = Some(end);
            digest = Some(Digest::new(start, from, launch::world()?));
        }
        let plans_only = !planned.inputs.is_empty() && planned.node::<nodes::Batch>().is_none();
        let remark = match plans_only {
            true => " (which plans pixels; decoding and resizing begin at a `Batch`)",
            false => "",
        };
        Ok(Job {
            title: format!("the data nodes up to `{node}`{remark}"),
            only: "pipeline",
            node,
            feeds: Vec::new(),
            watch: Watch::new(digest),
            warm_up: 1,
            seconds: arguments.seconds.or(epochs.is_none().then_some(SECONDS)),
            epochs,
            start,
            plan: part,
        })
    }

    /// The trainer with its data nodes, or on a few batches. Nothing is validated or kept.
    fn trainer(arguments: &Profile, only: Only) -> Result<Self> {
        let plan = super::plan(&arguments.recipe, &arguments.overrides)?;
        let trainer = trainer(&plan).with_context(|| {
            Usage(format!(
                "{} has no trainer: --until names a data node to profile",
                arguments.recipe.display()
            ))
        })?;
        let node = trainer.id.name.clone();
        let train = match only {
            Only::Trainer => FeedWith::Replay(CACHED),
            _ => FeedWith::Endless,
        };
        let feeds = trainer.inputs.iter().map(|edge| Feed {
            node: node.clone(),
            port: edge.port,
            with: match edge.port {
                TRAIN => train,
                _ => FeedWith::Nothing,
            },
        });
        let epochs = arguments.epochs;
        Ok(Job {
            title: match only {
                Only::Trainer => format!("`{node}` on {CACHED} batches, again and again"),
                _ => format!("`{node}` and its data nodes"),
            },
            only: match only {
                Only::Trainer => "trainer",
                _ => "both",
            },
            feeds: feeds.collect(),
            watch: Watch::new(None),
            warm_up: match only {
                Only::Trainer => CACHED as u64 + 1,
                _ => 1,
            },
            seconds: arguments.seconds.or(epochs.is_none().then_some(SECONDS)),
            epochs,
            start: Position::default(),
            plan: plan
                .until(&node)
                .context("the trainer is not in its own plan")?,
            node,
        })
    }

    fn tap(&self) -> Result<rsflow_graph::Tap> {
        let mut nodes = self.plan.nodes().iter();
        let planned = nodes.find(|planned| planned.id.name == self.node);
        let planned = planned.context("the node is not in its own plan")?;
        Ok(match planned.node::<Trainer>() {
            Some(_) => self.watch.steps(planned),
            None => self.watch.stream(planned),
        })
    }
}

/// The trainer's input of training batches.
pub const TRAIN: &str = "train";

fn trainer(plan: &Plan) -> Option<&Planned> {
    let mut nodes = plan.nodes().iter();
    nodes.find(|planned| planned.node::<Trainer>().is_some())
}

/// The node that feeds the trainer.
fn train_node(plan: &Plan) -> Option<String> {
    let mut inputs = trainer(plan)?.inputs.iter();
    let edge = inputs.find(|edge| edge.port == TRAIN)?;
    Some(plan.nodes()[edge.node].id.name.clone())
}

fn names<'a>(
    plan: &'a Plan,
    wanted: impl Fn(&Planned) -> bool + 'a,
) -> impl Iterator<Item = &'a str> {
    let nodes = plan.nodes().iter().filter(move |planned| wanted(planned));
    nodes.map(|planned| planned.id.name.as_str())
}

/// What a data node needs, and nothing else.
fn data_part(plan: &Plan, node: &str) -> Result<Plan> {
    let computes = |planned: &Planned| {
        planned.node::<Trainer>().is_some() || planned.node::<Evaluate>().is_some()
    };
    let is_data = |planned: &Planned| !planned.kind.outputs.is_empty() && !computes(planned);
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

/// A moment of a run.
struct Moment {
    at: Instant,
    measured: Vec<Measured>,
    images: u64,
    /// When the last of them came.
    last: Instant,
}

/// Runs the job for as long as it is to run, or until the user ends it: what was measured, and how
/// the run ended.
fn measure(mut running: Running, job: &Job, screen: &Screen) -> Result<(Figures, Finished)> {
    let meters = running.meters();
    let moment = || {
        let seen = job.watch.seen();
        Moment {
            at: Instant::now(),
            measured: meters.read(),
            images: seen.images,
            last: seen.last,
        }
    };
    let began = Moment {
        last: Instant::now(),
        ..moment()
    };
    let mut warm: Option<Moment> = None;
    let mut said = began.at;
    let ended = loop {
        if running.wait_for(TICK) {
            break true;
        }
        if warm.is_none() && job.watch.seen().items >= job.warm_up {
            warm = Some(moment());
        }
        let over = job.seconds.is_some_and(|seconds| match &warm {
            // A step may take longer than that, and without one there is nothing to tell.
            Some(warm) if job.watch.seen().images == warm.images => {
                warm.at.elapsed() >= PATIENCE.max(Duration::from_secs_f64(seconds))
            }
            Some(warm) => warm.at.elapsed().as_secs_f64() >= seconds,
            None => began.at.elapsed() >= PATIENCE.max(Duration::from_secs_f64(seconds)),
        });
        if over {
            break false;
        }
        if said.elapsed() >= BETWEEN_LINES {
            said = Instant::now();
            screen.line(&progress(job, warm.as_ref()));
        }
    };
    let end = moment();
    let workers = running.workers().clone();
    if !ended {
        running.stop().interrupt();
    }
    let finished = running.wait()?;
    let finished = Finished {
        interrupted: ended && finished.interrupted,
        ..finished
    };
    // A stream that was over soon is measured whole: hardly anything came after its warm-up.
    let short = |warm: &Moment| {
        ended && (warm.at - began.at > end.at - warm.at || warm.images == end.images)
    };
    let from = warm.filter(|warm| !short(warm)).unwrap_or(began);
    // From item to item: steps may be long.
    let images = (end.images - from.images) as f64;
    let took = end.last.saturating_duration_since(from.last).as_secs_f64();
    let figures = Figures::new(
        &from.measured,
        &end.measured,
        (end.at - from.at).as_secs_f64(),
        if took > 0.0 { images / took } else { 0.0 },
        workers,
    );
    Ok((figures, finished))
}

/// How far it has come. `warm`: where the warm-up ended.
fn progress(job: &Job, warm: Option<&Moment>) -> String {
    let images = job.watch.seen().images;
    let Some(warm) = warm else {
        return format!("warming up: {images} images");
    };
    let images = images - warm.images;
    let seconds = warm.at.elapsed().as_secs_f64();
    let of = job
        .seconds
        .map_or_else(String::new, |of| format!(" of {of}"));
    let speed = rate(images as f64 / seconds.max(1e-9));
    format!("{seconds:.0}{of} s: {images} images, about {speed} images/s")
}
