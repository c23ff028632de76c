//! The one pool of threads that all CPU-bound work runs on.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use crossbeam::channel::{Sender, unbounded};
use tokio::sync::oneshot;

use crate::counters::panicked;

type Job = Box<dyn FnOnce() + Send>;

/// Named OS threads fed by one queue. The queue has no bound of its own; what is in it is limited
/// by how many items each stage lets fly.
pub(crate) struct CpuPool {
    threads: Vec<JoinHandle<()>>,
    handle: PoolHandle,
}

/// Hands work to the pool.
#[derive(Clone)]
pub(crate) struct PoolHandle {
    queue: Sender<Job>,
    pub workers: usize,
}

impl CpuPool {
    pub fn start(workers: usize) -> Result<Self> {
        let (queue, jobs) = unbounded::<Job>();
        let threads = (0..workers)
            .map(|number| {
                let jobs = jobs.clone();
                std::thread::Builder::new()
                    .name(format!("cpu-{number}"))
                    .spawn(move || jobs.iter().for_each(|job| job()))
                    .context("cannot start a thread for the CPU pool")
            })
            .collect::<Result<_>>()?;
        Ok(CpuPool {
            threads,
            handle: PoolHandle { queue, workers },
        })
    }

    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Waits until every thread has ended. All other handles must be gone by now, or it waits for
    /// `patience` and leaves a thread that is stuck in a system call behind.
    pub fn join(self, patience: Duration) {
        drop(self.handle);
        join_all(self.threads, patience);
    }
}

impl PoolHandle {
    /// Runs `work` on some thread of the pool. A panic in it is an error here.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T>> {
        let (reply, receiver) = oneshot::channel();
        let job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
            // Nobody waits any more when the run is being ended.
            let _ = reply.send(result);
        });
        // Cannot fail while a handle lives: the threads end only when the last sender is gone.
        let _ = self.queue.send(job);
        receiver
    }
}

/// Joins threads for as long as `patience` lasts.
pub(crate) fn join_all(threads: Vec<JoinHandle<()>>, patience: Duration) {
    let deadline = Instant::now() + patience;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!(
                thread = thread.thread().name(),
                "left behind: it does not end"
            );
        }
    }
}
