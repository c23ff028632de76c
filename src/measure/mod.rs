//! Running a part of a recipe and measuring it: what `profile` and `bench` share.

mod digest;
mod part;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_cupti::{Recorder, Recording};
use rsflow_graph::{Finished, Measured, Options, Position, RunContext, Running, Workers};
use rsflow_model::dist::Peers;
use rsflow_model::train::lookup::process_settings;

use crate::figures::{Exchanged, Figures, rate};
use crate::process;
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
    pub run: RunContext,
    /// The processes of the run, which is one of theirs.
    pub peers: Option<Arc<Peers>>,
    /// Records what GPUs do.
    pub gpu: bool,
    /// Printed at the first Ctrl-C, which then ends the measurement; `None`: it ends the process.
    pub on_interrupt: Option<&'static str>,
}

impl Job {
    /// Measures for `seconds`, from the start of the stream.
    pub fn new(part: Part, seconds: f64) -> Self {
        Job {
            part,
            seconds: Some(seconds),
            epochs: None,
            start: Position::default(),
            digest: None,
            run: RunContext::default(),
            peers: None,
            gpu: false,
            on_interrupt: None,
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
    /// What GPUs did, and the period that the figures are of.
    pub gpu: Option<(Recording, (Instant, Instant))>,
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
    process::prepare(process_settings(&plan))?;
    let options = Options {
        allocator: plan.allocator(),
        taps: vec![watch.tap(watched.context("the node is not in its plan")?)],
        feeds,
        epochs: job.epochs,
        start: job.start,
        run: job.run,
    };
    // Before a CUDA graph is recorded: what starts its kernels is made then.
    let recorder = job.gpu.then(Recorder::start).transpose()?;
    let mut running = match job.on_interrupt {
        Some(message) => process::start(&plan, options, message)?,
        None => Running::start(&plan, options)?,
    };
    screen.line(&format!("{title}: {}", running.workers()));
    let exchanged = || {
        job.peers
            .as_deref()
            .map_or(Exchanged::default(), Exchanged::of)
    };
    let watch_all = (&watch, &exchanged as &dyn Fn() -> Exchanged);
    let period = measure(&mut running, watch_all, warm_up, job.seconds, screen);
    // At once: whatever the GPU does from now on is not measured.
    let recording = recorder.map(Recorder::stop).transpose();
    let workers = running.workers().clone();
    if !period.ended {
        running.stop().interrupt();
    }
    let finished = running.wait()?;
    let digest = watch.seen().digest.take();
    let times = (period.from.at, period.to.at);
    Ok(Outcome {
        gpu: recording?.map(|recording| (recording, times)),
        figures: period.figures(workers),
        finished: Finished {
            interrupted: period.ended && finished.interrupted,
            ..finished
        },
        digest,
    })
}

/// What had happened at a point in time.
struct Snapshot {
    at: Instant,
    measured: Vec<Measured>,
    exchanged: Exchanged,
    images: u64,
    /// When the last image came out.
    last: Instant,
}

/// The period that figures are made of.
struct Period {
    from: Snapshot,
    to: Snapshot,
    /// Whether the run came to its end, rather than to that of the job's seconds.
    ended: bool,
}

/// Waits until the run ends or has been measured for `seconds` after its warm-up.
fn measure(
    running: &mut Running,
    (watch, exchanged): (&Watch, &dyn Fn() -> Exchanged),
    warm_up: u64,
    seconds: Option<f64>,
    screen: &Screen,
) -> Period {
    let meters = running.meters();
    let snapshot = || {
        let seen = watch.seen();
        Snapshot {
            at: Instant::now(),
            measured: meters.read(),
            exchanged: exchanged(),
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
        let images = watch.seen().images;
        let is_over = seconds.is_some_and(|seconds| {
            let wanted = Duration::from_secs_f64(seconds);
            match &warm {
                // A step may take longer than that, and without a step there is no figure.
                Some(warm) if images == warm.images => warm.at.elapsed() >= MAX_WARMUP.max(wanted),
                Some(warm) => warm.at.elapsed() >= wanted,
                None => began.at.elapsed() >= MAX_WARMUP.max(wanted),
            }
        });
        if is_over {
            break false;
        }
        if printed.elapsed() >= BETWEEN_LINES {
            printed = Instant::now();
            screen.line(&progress(images, seconds, warm.as_ref()));
        }
    };
    let to = snapshot();
    // A stream that ended soon is measured from its start: hardly anything came after the warm-up.
    let is_short = |warm: &Snapshot| {
        ended && (warm.at - began.at > to.at - warm.at || warm.images == to.images)
    };
    Period {
        from: warm.filter(|warm| !is_short(warm)).unwrap_or(began),
        to,
        ended,
    }
}

impl Period {
    fn figures(&self, workers: Workers) -> Figures {
        let Period { from, to, .. } = self;
        // From the last image of one snapshot to that of the other: a step may take longer than a
        // tick.
        let images = (to.images - from.images) as f64;
        let took = to.last.saturating_duration_since(from.last).as_secs_f64();
        let figures = Figures::new(
            &from.measured,
            &to.measured,
            (to.at - from.at).as_secs_f64(),
            if took > 0.0 { images / took } else { 0.0 },
            workers,
        );
        Figures {
            exchanged: to.exchanged.since(from.exchanged),
            ..figures
        }
    }
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
