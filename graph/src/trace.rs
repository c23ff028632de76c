//! What every thread did when, for as long as there is room.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::counters::NodeId;
use crate::item::Key;

/// Records a run's work; see [`crate::Options::trace`].
pub struct Trace {
    began: Instant,
    /// Slices and levels together.
    limit: usize,
    recorded: Mutex<Recorded>,
}

/// What a [`Trace`] holds.
#[derive(Default)]
pub struct Recorded {
    /// The names of the threads that slices refer to.
    pub threads: Vec<String>,
    /// Work, in the order in which it ended. On one thread slices nest or are apart.
    pub slices: Vec<Slice>,
    /// What was waiting in queues.
    pub levels: Vec<Level>,
    /// What found no room any more.
    pub dropped: u64,
    ids: Vec<ThreadId>,
}

/// A node's work on an item, or a part of it.
#[derive(Clone)]
pub struct Slice {
    /// The node.
    pub node: Arc<NodeId>,
    /// The item, where it is one item's work.
    pub item: Option<Key>,
    /// The thread, as a position in [`Recorded::threads`].
    pub thread: usize,
    /// Since the trace began.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
}

/// How many items waited for a node when it took one.
#[derive(Clone)]
pub struct Level {
    /// The node.
    pub node: Arc<NodeId>,
    /// Since the trace began.
    pub at: Duration,
    /// How many.
    pub waiting: usize,
}

impl Trace {
    /// Begins now; records so many events at most.
    pub fn new(limit: usize) -> Self {
        Trace {
            began: Instant::now(),
            limit,
            recorded: Mutex::default(),
        }
    }

    /// Takes what was recorded.
    pub fn take(&self) -> Recorded {
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, event: impl FnOnce(&mut Recorded)) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.slices.len() + recorded.levels.len() < self.limit {
            event(&mut recorded);
        } else {
            recorded.dropped += 1;
        }
    }

    /// Work that this thread has just ended.
    pub(crate) fn slice(
        &self,
        node: &Arc<NodeId>,
        item: Option<Key>,
        start: Instant,
        length: Duration,
    ) {
        self.record(|recorded| {
            let slice = Slice {
                node: Arc::clone(node),
                item,
                thread: recorded.this_thread(),
                start: start.saturating_duration_since(self.began),
                length,
            };
            recorded.slices.push(slice);
        });
    }

    pub(crate) fn level(&self, node: &Arc<NodeId>, waiting: usize) {
        self.record(|recorded| {
            recorded.levels.push(Level {
                node: Arc::clone(node),
                at: self.began.elapsed(),
                waiting,
            });
        });
    }
}

impl Recorded {
    fn this_thread(&mut self) -> usize {
        let thread = std::thread::current();
        let known = self.ids.iter().position(|id| *id == thread.id());
        known.unwrap_or_else(|| {
            self.ids.push(thread.id());
            self.threads
                .push(thread.name().unwrap_or("unnamed").to_owned());
            self.ids.len() - 1
        })
    }
}
