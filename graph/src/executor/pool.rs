//! The one pool of threads that all CPU-bound work runs on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use crate::counters::panicked;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that may be stuck in system calls at one time; with more, the disk is assumed lost.
const MAX_STUCK: usize = 64;

/// Named OS threads fed by one queue. The queue has no bound of its own: each segment bounds its
/// items in flight, and so its jobs.
pub(crate) struct CpuPool {
    handle: PoolHandle,
}

#[derive(Clone)]
pub(crate) struct PoolHandle {
    queue: Sender<Job>,
    workers: Arc<Workers>,
    /// Number of threads.
    pub size: usize,
}

struct Workers {
    jobs: Receiver<Job>,
    active: Mutex<Vec<Worker>>,
    /// Retired ones that have not come back yet.
    stuck: Mutex<Vec<JoinHandle<()>>>,
}

struct Worker {
    thread: JoinHandle<()>,
    /// Another thread has its place: it ends when it comes back from its system call.
    retired: Arc<AtomicBool>,
}

impl Worker {
    fn start(name: String, jobs: Receiver<Job>) -> Result<Self> {
        let retired = Arc::new(AtomicBool::new(false));
        let is_retired = Arc::clone(&retired);
        let work = move || {
            for job in jobs {
                job();
                if is_retired.load(Relaxed) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(work)
            .context("cannot start a thread for the CPU pool")?;
        Ok(Worker { thread, retired })
    }
}

impl CpuPool {
    pub fn start(size: usize) -> Result<Self> {
        let (queue, jobs) = unbounded::<Job>();
        let active = (0..size)
            .map(|number| Worker::start(format!("cpu-{number}"), jobs.clone()))
            .collect::<Result<_>>()?;
        let workers = Arc::new(Workers {
            jobs,
            active: Mutex::new(active),
            stuck: Mutex::default(),
        });
        Ok(CpuPool {
            handle: PoolHandle {
                queue,
                workers,
                size,
            },
        })
    }

    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Joins all threads but the retired ones, for at most `timeout`. All other handles must have
    /// been dropped: the threads end when the queue has no sender left.
    pub fn join(self, timeout: Duration) {
        let PoolHandle { queue, workers, .. } = self.handle;
        drop(queue);
        let active = std::mem::take(&mut *lock(&workers.active));
        let threads = active.into_iter().map(|worker| worker.thread);
        join_all(threads.collect(), timeout);
    }
}

impl PoolHandle {
    /// Runs `work` on some thread of the pool. A panic becomes an error.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T>> {
        let (reply, receiver) = oneshot::channel();
        let job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
            // Fails when the run is being stopped: the receiver is gone.
            let _ = reply.send(result);
        });
        // Cannot fail: the workers hold a receiver for as long as this handle holds a sender.
        let _ = self.queue.send(job);
        receiver
    }

    /// Retires a thread that is stuck in a system call and starts another one in its place.
    pub fn replace(&self, thread: ThreadId) -> Result<()> {
        let mut active = lock(&self.workers.active);
        let found = active.iter_mut();
        let mut found = found.filter(|worker| worker.thread.thread().id() == thread);
        let Some(place) = found.next() else {
            return Ok(());
        };
        let name = place.thread.thread().name().unwrap_or_default().to_owned();
        let old = std::mem::replace(place, Worker::start(name, self.workers.jobs.clone())?);
        old.retired.store(true, Relaxed);
        let mut stuck = lock(&self.workers.stuck);
        stuck.retain(|thread| !thread.is_finished());
        stuck.push(old.thread);
        ensure!(
            stuck.len() <= MAX_STUCK,
            "more than {MAX_STUCK} threads hang"
        );
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Joins threads; after `timeout` the ones that still run are detached.
pub(crate) fn join_all(threads: Vec<JoinHandle<()>>, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!(
                thread = thread.thread().name(),
                "thread did not end in time, detached"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stuck_thread_is_replaced_and_ends_when_it_comes_back() {
        let pool = CpuPool::start(1).unwrap();
        let handle = pool.handle();
        let (release, released) = mpsc::channel::<()>();
        let (send_id, id) = mpsc::channel();
        let stuck = handle.run(move || {
            send_id.send(std::thread::current().id())?;
            Ok(released.recv()?)
        });
        handle.replace(id.recv().unwrap()).unwrap();
        let other = handle.run(|| Ok(std::thread::current().name().map(str::to_owned)));
        let name = other.blocking_recv().unwrap().unwrap();
        assert_eq!(name.as_deref(), Some("cpu-0"), "its replacement works");

        release.send(()).unwrap();
        stuck.blocking_recv().unwrap().unwrap();
        let old = lock(&handle.workers.stuck).pop().unwrap();
        old.join().unwrap();
        drop(handle);
        pool.join(Duration::from_secs(10));
    }
}
