//! A trace of a run: what each thread did when, up to a number of events.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::item::Key;
use crate::node_id::NodeId;

/// Records a run's work; see [`crate::Options::trace`].
pub struct Trace {
    began: Instant,
    /// Maximum of slices and levels together.
    limit: usize,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
pub struct Recorded {
    /// Thread names.
    pub threads: Vec<String>,
    /// Ordered by end. Slices of one thread are nested or disjoint.
    pub slices: Vec<Slice>,
    pub levels: Vec<Level>,
    /// Events over the limit.
    pub dropped: u64,
    ids: Vec<ThreadId>,
}

/// A node's work on an item, or a part of it.
#[derive(Clone)]
pub struct Slice {
    pub node: Arc<NodeId>,
    /// `None` for work that belongs to no single item.
    pub item: Option<Key>,
    /// Index into [`Recorded::threads`].
    pub thread: usize,
    /// Since the trace began.
    pub start: Duration,
    pub length: Duration,
}

/// The fill level of a node's input queue when it took an item.
#[derive(Clone)]
pub struct Level {
    pub node: Arc<NodeId>,
    /// Since the trace began.
    pub at: Duration,
    /// Items in the queue.
    pub waiting: usize,
}

impl Trace {
    /// Begins now; `limit` is the maximum of events.
    pub fn new(limit: usize) -> Self {
        Trace {
            began: Instant::now(),
            limit,
            recorded: Mutex::default(),
        }
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Removes and returns what was recorded.
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

    /// Records work that this thread has just ended.
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
