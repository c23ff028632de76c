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

/// Threads that may be stuck in system calls at one time. With more, the disk is gone.
const MAX_STUCK: usize = 64;

/// Named OS threads fed by one queue. The queue has no bound of its own; what is in it is limited
/// by how many items each stage lets fly.
pub(crate) struct CpuPool {
    handle: PoolHandle,
}

/// Hands work to the pool.
#[derive(Clone)]
pub(crate) struct PoolHandle {
    queue: Sender<Job>,
    crew: Arc<Crew>,
    pub workers: usize,
}

/// The pool's threads.
struct Crew {
    jobs: Receiver<Job>,
    at_work: Mutex<Vec<Worker>>,
    stuck: Mutex<Vec<JoinHandle<()>>>,
}

struct Worker {
    thread: JoinHandle<()>,
    /// It is to end when it comes back: another thread has its place.
    dismissed: Arc<AtomicBool>,
}

impl Worker {
    fn start(name: String, jobs: Receiver<Job>) -> Result<Self> {
        let dismissed = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&dismissed);
        let work = move || {
            for job in jobs {
                job();
                if ends.load(Relaxed) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(work)
            .context("cannot start a thread for the CPU pool")?;
        Ok(Worker { thread, dismissed })
    }
}

impl CpuPool {
    pub fn start(workers: usize) -> Result<Self> {
        let (queue, jobs) = unbounded::<Job>();
        let at_work = (0..workers)
            .map(|number| Worker::start(format!("cpu-{number}"), jobs.clone()))
            .collect::<Result<_>>()?;
        let crew = Arc::new(Crew {
            jobs,
            at_work: Mutex::new(at_work),
            stuck: Mutex::default(),
        });
        Ok(CpuPool {
            handle: PoolHandle {
                queue,
                crew,
                workers,
            },
        })
    }

    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Waits until every thread has ended, but those that were replaced because they were stuck.
    /// All other handles must be gone by now, or it waits for `patience` and leaves a thread that
    /// does not end behind.
    pub fn join(self, patience: Duration) {
        let PoolHandle { queue, crew, .. } = self.handle;
        drop(queue);
        let workers = std::mem::take(&mut *lock(&crew.at_work));
        let threads = workers.into_iter().map(|worker| worker.thread);
        join_all(threads.collect(), patience);
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

    /// Puts a new thread in the place of one that is stuck in a system call. Should the old one
    /// come back, it ends.
    pub fn replace(&self, thread: ThreadId) -> Result<()> {
        let mut at_work = lock(&self.crew.at_work);
        let found = at_work.iter_mut();
        let mut found = found.filter(|worker| worker.thread.thread().id() == thread);
        let Some(place) = found.next() else {
            return Ok(());
        };
        let name = place.thread.thread().name().unwrap_or_default().to_owned();
        let old = std::mem::replace(place, Worker::start(name, self.crew.jobs.clone())?);
        old.dismissed.store(true, Relaxed);
        let mut stuck = lock(&self.crew.stuck);
        stuck.retain(|thread| !thread.is_finished());
        stuck.push(old.thread);
        ensure!(
            stuck.len() <= MAX_STUCK,
            "more than {MAX_STUCK} reads hang at the same time"
        );
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stuck_thread_is_replaced_and_ends_when_it_comes_back() {
        let pool = CpuPool::start(1).unwrap();
        let handle = pool.handle();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let stuck = handle.run(move || {
            tell.send(std::thread::current().id())?;
            Ok(released.recv()?)
        });
        handle.replace(told.recv().unwrap()).unwrap();
        let other = handle.run(|| Ok(std::thread::current().name().map(str::to_owned)));
        let name = other.blocking_recv().unwrap().unwrap();
        assert_eq!(name.as_deref(), Some("cpu-0"), "work goes on");

        release.send(()).unwrap();
        stuck.blocking_recv().unwrap().unwrap();
        let old = lock(&handle.crew.stuck).pop().unwrap();
        old.join().unwrap();
        drop(handle);
        pool.join(Duration::from_secs(10));
    }
}
