//! How far the logs of a run are on the disk.
//!
//! A checkpoint of step N must not become visible before every log holds what was logged up to step N: a
//! resume from it continues the logs there, and a line that is missing then never comes. The logs and
//! the checkpoints are written by different nodes, on different threads; this is where they meet. The
//! writer of a log counts what it has accepted, the writer of checkpoints waits for a count and has the
//! logs forced to the disk.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

/// The logs of a run, shared by its nodes.
#[derive(Clone, Default)]
pub struct Journal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    logs: Mutex<Vec<Log>>,
    changed: Condvar,
}

type ToDisk = Arc<dyn Fn() -> Result<()> + Send + Sync>;

struct Log {
    accepted: u64,
    ended: bool,
    sync: ToDisk,
}

impl Journal {
    /// Adds a log. `sync` forces it to the disk; it is called on any thread.
    pub fn add(&self, sync: impl Fn() -> Result<()> + Send + Sync + 'static) -> LogWriter {
        let mut logs = self.lock();
        logs.push(Log {
            accepted: 0,
            ended: false,
            sync: Arc::new(sync),
        });
        LogWriter {
            log: logs.len() - 1,
            journal: self.clone(),
        }
    }

    /// Waits until every log has accepted `count` messages, then forces all of them to the disk. False
    /// if a log ended before: its writer has failed, and says so itself.
    ///
    /// # Errors
    /// A log cannot be forced to the disk.
    pub fn wait_for(&self, count: u64) -> Result<bool> {
        let mut logs = self.lock();
        while logs.iter().any(|log| log.accepted < count) {
            if logs.iter().any(|log| log.ended && log.accepted < count) {
                return Ok(false);
            }
            let changed = self.0.changed.wait(logs);
            logs = changed.unwrap_or_else(PoisonError::into_inner);
        }
        let syncs: Vec<ToDisk> = logs.iter().map(|log| Arc::clone(&log.sync)).collect();
        drop(logs); // Their writers go on meanwhile.
        syncs.iter().try_for_each(|sync| sync())?;
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Log>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's side of a log. When it is dropped, nobody waits for the log any more.
pub struct LogWriter {
    journal: Journal,
    log: usize,
}

impl LogWriter {
    /// Another message is in the log, or need not be.
    pub fn accepted(&self) {
        self.journal.lock()[self.log].accepted += 1;
        self.journal.0.changed.notify_all();
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.journal.lock()[self.log].ended = true;
        self.journal.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    #[test]
    fn a_checkpoint_waits_for_every_log() {
        let journal = Journal::default();
        assert!(journal.wait_for(9).unwrap());
        let synced = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&synced);
        let first = journal.add(move || {
            count.fetch_add(1, SeqCst);
            Ok(())
        });
        let second = journal.add(|| Ok(()));
        first.accepted();
        let waiting = std::thread::spawn({
            let journal = journal.clone();
            move || journal.wait_for(2)
        });
        second.accepted();
        second.accepted();
        assert_eq!(synced.load(SeqCst), 0, "the first has one of two");
        first.accepted();
        assert!(waiting.join().unwrap().unwrap());
        assert_eq!(synced.load(SeqCst), 1);

        // What ended with all that is waited for is still there; with less it will never be.
        drop(second);
        assert!(journal.wait_for(2).unwrap());
        first.accepted();
        assert!(!journal.wait_for(3).unwrap());
    }
}
