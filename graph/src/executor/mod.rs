//! Running a plan: one driver task for each segment, thread and sink; bounded channels between
//! them; one pool for CPU-bound work.
//!
//! This module is the only place of the program that spawns tasks and threads.

mod drive;
mod failure;
mod pool;
mod segment;
mod signals;
mod skipped;
mod walk;
mod watch;
mod wiring;
mod workers;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub use failure::{Failure, RunError};
pub use skipped::Skipped;
pub use workers::Workers;

use crate::batch::{Allocator, PlainMemory};
use crate::context::{RunContext, World};
use crate::counters::{Measured, Meter, Meters, NodeId, one_item, panicked};
use crate::item::Message;
use crate::node::Build;
use crate::plan::Plan;
use crate::ports::{Inlet, Ports};
use crate::shard::Shard;
use crate::stage::{AnySink, Contents, Position, Stage, Thread};
use crate::stop::Stop;
use drive::Drive;
use pool::{CpuPool, join_all};
use skipped::SkipLog;

/// How long threads may take to end once the run is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a run needs beside its plan.
pub struct Options {
    /// What the run knows beyond its recipe.
    pub run: RunContext,
    /// Memory for batches.
    pub allocator: Arc<dyn Allocator>,
    /// Further readers of the plan's outputs: a progress display, a test.
    pub taps: Vec<Tap>,
    /// How many epochs the sources run where no thread says it.
    pub epochs: Option<u64>,
    /// Where the sources start where no thread says it.
    pub start: Position,
    /// What is said at the first Ctrl-C or SIGTERM, which interrupts the run; `None` leaves them
    /// alone.
    pub signals: Option<&'static str>,
    /// Inputs of threads that are fed in another way than the recipe says.
    pub feeds: Vec<Feed>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            run: RunContext::default(),
            allocator: Arc::new(PlainMemory),
            taps: Vec::new(),
            epochs: None,
            start: Position::default(),
            signals: None,
            feeds: Vec::new(),
        }
    }
}

/// How an input of a thread is fed where a measurement wants it otherwise than the recipe.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The thread's node.
    pub node: String,
    /// Its input port.
    pub port: &'static str,
    /// With what.
    pub with: FeedWith,
}

/// What a [`Feed`] brings. None of them tells the ends of epochs, and how many there are is left to
/// [`Options::epochs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedWith {
    /// The items, epoch after epoch.
    Endless,
    /// The first so many items, then those again and again; nothing else is made any more.
    Replay(usize),
    /// Nothing: what leads there does not even start.
    Nothing,
}

/// A reader that is not written in the recipe.
pub struct Tap {
    /// The node that is read.
    pub node: String,
    /// Which of its outputs, by position.
    pub output: usize,
    /// The reader.
    pub sink: Box<dyn AnySink>,
    /// What to call it in errors.
    pub name: &'static str,
}

/// A graph at work.
pub struct Running {
    runtime: Runtime,
    pool: CpuPool,
    threads: Vec<JoinHandle<()>>,
    tasks: JoinSet<Result<(), Failure>>,
    failures: Vec<Failure>,
    meters: Vec<Meter>,
    workers: Workers,
    stop: Stop,
    skipped: Arc<SkipLog>,
}

/// How a run ended that did not fail.
#[derive(Debug)]
pub struct Finished {
    /// Whether the user ended it before its time.
    pub interrupted: bool,
    /// What each node did, in the plan's order.
    pub measured: Vec<Measured>,
    /// Every sample that was skipped, by node.
    pub skipped: Vec<Skipped>,
}

impl Running {
    /// Opens everything and starts.
    pub fn start(plan: &Plan, mut options: Options) -> Result<Self, RunError> {
        let (stages, contents) = build(plan, &options)?;
        let workers = Workers::choose(plan, &stages);
        let nodes = plan.nodes.iter().zip(&stages);
        let meters = nodes.map(|(planned, stage)| {
            Meter::traced(
                planned.id.clone(),
                stage.works_on(),
                options.run.trace.clone(),
            )
        });
        let meters: Vec<Meter> = meters.collect();
        let taps = std::mem::take(&mut options.taps);
        let starting = |error: anyhow::Error| RunError {
            failures: vec![Failure::new(
                &NodeId {
                    name: "run".to_owned(),
                    kind: "Executor",
                },
                None,
                error,
            )],
            skipped: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("driver")
            .enable_all()
            .build()
            .context("cannot start the runtime")
            .map_err(starting)?;
        let pool = CpuPool::start(workers.count).map_err(starting)?;
        let mut running = Running {
            runtime,
            pool,
            threads: Vec::new(),
            tasks: JoinSet::new(),
            failures: Vec::new(),
            meters,
            workers,
            stop: options.run.stop.clone(),
            skipped: Arc::default(),
        };
        wiring::connect(plan, stages, &contents, taps, &options, &mut running).map_err(starting)?;
        if let Some(words) = options.signals {
            signals::on_signals(&running.runtime, running.stop.clone(), words);
        }
        Ok(running)
    }

    /// Lets another thread end the run.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What each node has done so far, to be read while the run goes on.
    pub fn meters(&self) -> Meters {
        Meters(self.meters.clone())
    }

    /// The threads of the CPU pool.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Waits for the end, but not longer than `patience`. Tells whether it has come; [`Running::wait`]
    /// then tells how.
    pub fn wait_for(&mut self, patience: Duration) -> bool {
        let ended = drain_tasks(&mut self.tasks, &mut self.failures, &self.stop);
        let ended = async { tokio::time::timeout(patience, ended).await };
        self.runtime.block_on(ended).is_ok()
    }

    /// Waits for the end. Every thread has ended then, too (but a reader stuck in a system call).
    pub fn wait(mut self) -> Result<Finished, RunError> {
        let ended = drain_tasks(&mut self.tasks, &mut self.failures, &self.stop);
        self.runtime.block_on(ended);
        join_all(self.threads, PATIENCE);
        self.runtime.shutdown_timeout(PATIENCE);
        self.pool.join(PATIENCE);
        if !self.failures.is_empty() {
            return Err(RunError {
                failures: self.failures,
                skipped: self.skipped.list(),
            });
        }
        Ok(Finished {
            interrupted: self.stop.interrupted(),
            measured: self.meters.iter().map(Meter::read).collect(),
            skipped: self.skipped.list(),
        })
    }
}

/// Waits until all tasks have ended, and keeps how they failed; the first failure ends the others.
/// Nothing is lost if it is dropped while waiting.
async fn drain_tasks(
    tasks: &mut JoinSet<Result<(), Failure>>,
    failures: &mut Vec<Failure>,
    stop: &Stop,
) {
    while let Some(ended) = tasks.join_next().await {
        let failure = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(error) => Failure {
                node: NodeId {
                    name: "run".to_owned(),
                    kind: "Executor",
                },
                item: None,
                error: anyhow::Error::new(error),
            },
        };
        tracing::error!("{failure}");
        failures.push(failure);
        stop.abort();
    }
}

/// Makes every node's running part, and finds what each stream holds.
fn build(plan: &Plan, options: &Options) -> Result<(Vec<Stage>, Vec<Contents>), RunError> {
    let mut stages: Vec<Option<Stage>> = Vec::new();
    let mut contents: Vec<Contents> = Vec::new();
    let mut failures = Vec::new();
    for (index, planned) in plan.nodes.iter().enumerate() {
        // What follows a node that could not be opened cannot be opened either.
        if planned
            .inputs
            .iter()
            .any(|edge| stages[edge.node].is_none())
        {
            stages.push(None);
            contents.push(Contents::default());
            continue;
        }
        let inputs: Vec<(&'static str, Contents)> = planned
            .inputs
            .iter()
            .map(|edge| (edge.port, contents[edge.node].clone()))
            .collect();
        let schemas = plan.incoming(planned);
        let demands: Vec<_> = plan
            .nodes
            .iter()
            .flat_map(|reader| reader.inputs.iter().map(move |edge| (reader, edge)))
            .filter(|(_, edge)| edge.node == index)
            .map(|(reader, edge)| (planned.kind.outputs[edge.output].name, reader.node.demand()))
            .collect();
        let span = tracing::info_span!("build", node = planned.id.name);
        let _entered = span.enter();
        let built = planned.node.build(&Build {
            node: &planned.id.name,
            seed: plan.seed,
            run: &options.run,
            recipe: &plan.recipe_text,
            inputs: &inputs,
            schemas: &schemas,
            demands: &demands,
            allocator: Arc::clone(&options.allocator),
        });
        match built {
            Ok(stage) => {
                let input = inputs.into_iter().next().map(|(_, contents)| contents);
                contents.push(contents_of(
                    &stage,
                    input.unwrap_or_default(),
                    options.run.world,
                ));
                stages.push(Some(stage));
            }
            Err(error) => {
                failures.push(Failure::new(&planned.id, None, error));
                contents.push(Contents::default());
                stages.push(None);
            }
        }
    }
    if failures.is_empty() {
        Ok((stages.into_iter().flatten().collect(), contents))
    } else {
        Err(RunError {
            failures,
            skipped: Vec::new(),
        })
    }
}

fn contents_of(stage: &Stage, input: Contents, world: World) -> Contents {
    match stage {
        Stage::Source(source) => {
            let whole = source.contents();
            let shard = Shard::of(world, source.pads());
            Contents {
                items_per_epoch: shard.items(whole.items_per_epoch),
                samples: whole.items_per_epoch,
                shard,
                ..whole
            }
        }
        Stage::Map(_) => input,
        Stage::Fold(fold) => {
            let size = fold.group() as u64;
            let (dealt, whole) = (input.dealt(), size * u64::from(input.shard.world));
            let (full, rest) = (dealt / whole, dealt % whole);
            let kept_rest = rest > 0 && !fold.drop_last();
            Contents {
                items_per_epoch: full + u64::from(kept_rest),
                shard: Shard::default(),
                group: size,
                last_group: match kept_rest {
                    true => input.shard.items(rest),
                    false => size.min(input.items_per_epoch),
                },
                ..input
            }
        }
        Stage::Thread(_) | Stage::Sink(_) => Contents::default(),
    }
}

impl Running {
    fn spawn_segment(&mut self, drive: Drive, last: &Meter) {
        let span = tracing::info_span!("segment", node = last.node().name);
        self.tasks
            .spawn_on(drive.run().instrument(span), self.runtime.handle());
    }

    fn spawn_sink(&mut self, sink: Box<dyn AnySink>, inlet: Inlet) {
        let span = tracing::info_span!("sink", node = inlet.meter.node().name);
        self.tasks
            .spawn_on(drain(sink, inlet).instrument(span), self.runtime.handle());
    }

    fn spawn_thread(&mut self, node: NodeId, thread: Box<dyn Thread>, ports: Ports) -> Result<()> {
        let (ended, end) = oneshot::channel();
        let span = tracing::info_span!("thread", node = node.name);
        let handle = std::thread::Builder::new()
            .name(node.name.clone())
            .spawn(move || {
                let _entered = span.enter();
                let work = std::panic::AssertUnwindSafe(|| thread.run(ports));
                let result = std::panic::catch_unwind(work)
                    .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                let _ = ended.send(result);
            })
            .with_context(|| format!("cannot start the thread of `{}`", node.name))?;
        self.threads.push(handle);
        let end = async move {
            match end.await {
                Ok(Err(error)) => Err(Failure::new(&node, None, error)),
                Ok(Ok(())) | Err(_) => Ok(()),
            }
        };
        self.tasks.spawn_on(end, self.runtime.handle());
        Ok(())
    }
}

/// Gives a sink its items where blocking is allowed, until no more come. All that are waiting go in
/// one turn: changing threads costs more than most sinks do.
async fn drain(mut sink: Box<dyn AnySink>, mut inlet: Inlet) -> Result<(), Failure> {
    let meter = inlet.meter.clone();
    let node = meter.node().clone();
    let failed = |error| Failure::new(&node, None, error);
    loop {
        let messages = inlet.receive_all().await;
        let last = messages.is_empty();
        let meter = meter.clone();
        let turn = move || {
            let result = meter.measure(|| {
                for message in messages {
                    match message {
                        Message::Item(key, item) => {
                            one_item(key, || meter.measure(|| sink.accept(item)))?;
                            let counter = &meter.counters().items;
                            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        Message::EndOfEpoch(epoch) => sink.end_of_epoch(epoch)?,
                    }
                }
                if last { sink.finish() } else { Ok(()) }
            });
            (sink, result)
        };
        let (back, result) = tokio::task::spawn_blocking(turn)
            .await
            .map_err(|error| failed(anyhow::Error::new(error)))?;
        sink = back;
        result.map_err(failed)?;
        if last {
            return Ok(());
        }
    }
}
