//! Running a part of a recipe and measuring it: what `profile` and `bench` share.

mod digest;
mod part;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_graph::{Finished, Measured, Options, Position, RunContext, Running, Trace, World};

use crate::figures::{Figures, rate};
use crate::progress::Screen;
pub use digest::Digest;
pub use part::{Batches, Part, source_of_batches};
use watch::Watch;

/// How often a run that is measured is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How long the first item, or a single step, may take.
const MAX_WARMUP: Duration = Duration::from_secs(120);
/// Time between two lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// What to measure, and for how long: until `seconds` or `epochs` are over, whichever comes first.
pub struct Job {
    pub part: Part,
    /// Counted from the end of the warm-up.
    pub seconds: Option<f64>,
    pub epochs: Option<u64>,
    /// Where the stream starts.
    pub start: Position,
    /// Hashes the stream, which must consist of batches.
    pub digest: Option<Digest>,
    /// This process, where several read the stream together.
    pub world: World,
    /// Records what every thread does.
    pub trace: Option<Arc<Trace>>,
    /// Printed at the first Ctrl-C, which then ends the measurement; `None`: it ends the process.
    pub signals: Option<&'static str>,
}

impl Job {
    /// Measures for so many seconds, from the start of the stream.
    pub fn new(part: Part, seconds: f64) -> Self {
        Job {
            part,
            seconds: Some(seconds),
            epochs: None,
            start: Position::default(),
            digest: None,
            world: World::default(),
            trace: None,
            signals: None,
        }
    }
}

/// What was measured.
pub struct Outcome {
    pub figures: Figures,
    /// How the run ended; `interrupted` only if the user did it.
    pub finished: Finished,
    /// That of the job, fed with the stream.
    pub digest: Option<Digest>,
}

/// What had happened at a point in time.
struct Snapshot {
    at: Instant,
    measured: Vec<Measured>,
    images: u64,
    /// When the last image came out.
    last: Instant,
}

/// Runs the job to its end, or until the user interrupts it.
pub fn run(job: Job, screen: &Screen) -> Result<Outcome> {
    let Part {
        title,
        plan,
        node,
        feeds,
        warm_up,
    } = job.part;
    let watch = Watch::new(job.digest);
    let mut nodes = plan.nodes().iter();
    let watched = nodes.find(|planned| planned.id.name == node);
    let options = Options {
        allocator: plan.allocator(),
        taps: vec![watch.tap(watched.context("the node is not in its plan")?)],
        feeds,
        epochs: job.epochs,
        start: job.start,
        signals: job.signals,
        run: RunContext {
            world: job.world,
            trace: job.trace,
            ..RunContext::default()
        },
        ..Options::default()
    };
    let mut running = Running::start(&plan, options)?;
    screen.line(&format!("{title}: {}", running.workers()));

    let meters = running.meters();
    let snapshot = || {
        let seen = watch.seen();
        Snapshot {
            at: Instant::now(),
            measured: meters.read(),
            images: seen.images,
            last: seen.last,
        }
    };
    let began = Snapshot {
        last: Instant::now(),
        ..snapshot()
    };
    let mut warm: Option<Snapshot> = None;
    let mut printed = began.at;
    let ended = loop {
        if running.wait_for(TICK) {
            break true;
        }
        if warm.is_none() && watch.seen().items >= warm_up {
            warm = Some(snapshot());
        }
        let over = job.seconds.is_some_and(|seconds| {
            let wanted = Duration::from_secs_f64(seconds);
            match &warm {
                // A step may take longer than that, and without a step there is no figure.
                Some(warm) if watch.seen().images == warm.images => {
                    warm.at.elapsed() >= MAX_WARMUP.max(wanted)
                }
                Some(warm) => warm.at.elapsed() >= wanted,
                None => began.at.elapsed() >= MAX_WARMUP.max(wanted),
            }
        });
        if over {
            break false;
        }
        if printed.elapsed() >= BETWEEN_LINES {
            printed = Instant::now();
            let images = watch.seen().images;
            screen.line(&progress(images, job.seconds, warm.as_ref()));
        }
    };
    let end = snapshot();
    let workers = running.workers().clone();
    if !ended {
        running.stop().interrupt();
    }
    let finished = running.wait()?;
    let finished = Finished {
        interrupted: ended && finished.interrupted,
        ..finished
    };
    // A stream that ended soon is measured from its start: hardly anything came after the warm-up.
    let is_short = |warm: &Snapshot| {
        ended && (warm.at - began.at > end.at - warm.at || warm.images == end.images)
    };
    let from = warm.filter(|warm| !is_short(warm)).unwrap_or(began);
    // From the last item of one snapshot to that of the other: a step may take longer than a tick.
    let images = (end.images - from.images) as f64;
    let took = end.last.saturating_duration_since(from.last).as_secs_f64();
    let figures = Figures::new(
        &from.measured,
        &end.measured,
        (end.at - from.at).as_secs_f64(),
        if took > 0.0 { images / took } else { 0.0 },
        workers,
    );
    let digest = watch.seen().digest.take();
    Ok(Outcome {
        figures,
        finished,
        digest,
    })
}

/// A line of progress after `images`. `warm`: the end of the warm-up.
fn progress(images: u64, seconds: Option<f64>, warm: Option<&Snapshot>) -> String {
    let Some(warm) = warm else {
        return format!("warming up: {images} images");
    };
    let images = images - warm.images;
    let elapsed = warm.at.elapsed().as_secs_f64();
    let of = seconds.map_or_else(String::new, |seconds| format!(" of {seconds}"));
    let speed = rate(images as f64 / elapsed.max(1e-9));
    format!("{elapsed:.0}{of} s: {images} images, about {speed} images/s")
}
