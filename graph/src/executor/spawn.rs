//! Tasks and threads of a run: the only place of the program that spawns them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::drive::Drive;
use super::failure::Failure;
use super::pool::{CpuPool, join_all};
use super::skipped::SkipLog;
use crate::context::RunContext;
use crate::counters::{Meter, one_item, panicked};
use crate::item::Message;
use crate::node_id::NodeId;
use crate::ports::{Inlet, Ports};
use crate::stage::{AnySink, Thread};
use crate::stop::Stop;

/// How long threads may take to end once the run is over.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Threads that carry messages.
const DRIVERS: usize = 2;

/// Starts so many threads at once and ends them. The runtime panics, or waits for ever, where it cannot
/// start a thread.
fn ensure_threads(count: usize) -> Result<()> {
    let (hold, held) = crossbeam::channel::bounded::<()>(0);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let held = held.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            let _ = held.recv();
        });
        threads.push(thread.with_context(|| {
            format!(
                "the system allows this process {number} more threads, the run needs {count}; raise the \
                 limit (ulimit -u, or that of the container), or set a smaller `cpu_workers`"
            )
        })?);
    }
    drop(hold);
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// What is running, and how it has failed so far.
pub(super) struct Spawned {
    pub runtime: Runtime,
    pub pool: CpuPool,
    threads: Vec<JoinHandle<()>>,
    tasks: JoinSet<Result<(), Failure>>,
    failures: Vec<Failure>,
    /// One for each node of the plan.
    pub meters: Vec<Meter>,
    pub stop: Stop,
    pub skipped: Arc<SkipLog>,
}

impl Spawned {
    /// A runtime with two driver threads, and a pool of `workers` threads.
    pub fn new(workers: usize, meters: Vec<Meter>, run: &RunContext) -> Result<Self> {
        // A node blocks on a thread of its own, or on one of the runtime's.
        ensure_threads(workers + DRIVERS + meters.len())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DRIVERS)
            .thread_name("driver")
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        Ok(Spawned {
            runtime,
            pool: CpuPool::start(workers)?,
            threads: Vec::new(),
            tasks: JoinSet::new(),
            failures: Vec::new(),
            meters,
            stop: run.stop.clone(),
            skipped: Arc::new(SkipLog::new(run.tally.clone())),
        })
    }

    pub fn segment(&mut self, drive: Drive, last: &Meter) {
        let span = tracing::info_span!("segment", node = last.node().name);
        self.tasks
            .spawn_on(drive.run().instrument(span), self.runtime.handle());
    }

    pub fn sink(&mut self, sink: Box<dyn AnySink>, inlet: Inlet) {
        let span = tracing::info_span!("sink", node = inlet.meter.node().name);
        self.tasks
            .spawn_on(drain(sink, inlet).instrument(span), self.runtime.handle());
    }

    pub fn thread(&mut self, node: NodeId, thread: Box<dyn Thread>, ports: Ports) -> Result<()> {
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

    /// Waits until all tasks have ended, for at most `timeout`; true if they have.
    pub fn wait_for(&mut self, timeout: Duration) -> bool {
        let ended = drain_tasks(&mut self.tasks, &mut self.failures, &self.stop);
        let ended = async { tokio::time::timeout(timeout, ended).await };
        self.runtime.block_on(ended).is_ok()
    }

    /// Waits until all tasks have ended and joins every thread, except readers stuck in a system
    /// call.
    pub fn join(mut self) -> Vec<Failure> {
        let ended = drain_tasks(&mut self.tasks, &mut self.failures, &self.stop);
        self.runtime.block_on(ended);
        join_all(self.threads, JOIN_TIMEOUT);
        self.runtime.shutdown_timeout(JOIN_TIMEOUT);
        self.pool.join(JOIN_TIMEOUT);
        self.failures
    }
}

/// Waits until all tasks have ended and collects their failures; the first one stops the others.
/// Cancel-safe, as `join_next` is.
async fn drain_tasks(
    tasks: &mut JoinSet<Result<(), Failure>>,
    failures: &mut Vec<Failure>,
    stop: &Stop,
) {
    while let Some(ended) = tasks.join_next().await {
        let failure = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(error) => Failure::new(&executor(), None, error.into()),
        };
        tracing::error!("{failure}");
        failures.push(failure);
        stop.abort();
    }
}

/// Gives a sink its items on a thread where blocking is allowed, all that are waiting in one turn:
/// changing threads costs more than most sinks do.
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
                            counter.fetch_add(1, Relaxed);
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

/// The node that failures of no node are reported for.
pub(super) fn executor() -> NodeId {
    NodeId {
        name: "run".to_owned(),
        kind: "Executor",
    }
}
