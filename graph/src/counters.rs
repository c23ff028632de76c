//! What each node does with its time. Counted always: a profiler only has to read.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Names a node in errors, logs and measurements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId {
    /// The name in the recipe.
    pub name: String,
    /// The kind, as written.
    pub kind: &'static str,
}

/// The running figures of one node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub items: AtomicU64,
    pub busy: AtomicU64,
    pub wait_input: AtomicU64,
    pub wait_output: AtomicU64,
    pub skipped: AtomicU64,
    pub queue_samples: AtomicU64,
    pub queue_items: AtomicU64,
    pub queue_capacity: AtomicU64,
}

/// A node's figures at one moment.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The node.
    pub node: NodeId,
    /// Items finished (steps, for the trainer).
    pub items: u64,
    /// Time spent in the node's own work, summed over threads. Work that is put off and done
    /// later (decoding, once the crop is known) counts for the node that it belongs to.
    pub busy: Duration,
    /// Time the node stood still because nothing had arrived.
    pub wait_input: Duration,
    /// Time the node stood still because its readers were full.
    pub wait_output: Duration,
    /// Samples skipped because of damage.
    pub skipped: u64,
    /// Mean share of the input queue that was filled when the node took from it, 0 to 1; `None`
    /// for a node that takes from no queue.
    pub queue_occupancy: Option<f64>,
}

impl Counters {
    pub fn read(&self, node: &NodeId) -> Measured {
        let nanoseconds = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        let samples = self.queue_samples.load(Relaxed);
        let capacity = self.queue_capacity.load(Relaxed);
        Measured {
            node: node.clone(),
            items: self.items.load(Relaxed),
            busy: nanoseconds(&self.busy),
            wait_input: nanoseconds(&self.wait_input),
            wait_output: nanoseconds(&self.wait_output),
            skipped: self.skipped.load(Relaxed),
            queue_occupancy: (samples > 0 && capacity > 0)
                .then(|| self.queue_items.load(Relaxed) as f64 / (samples * capacity) as f64),
        }
    }

    pub fn sample_queue(&self, items: usize, capacity: usize) {
        self.queue_samples.fetch_add(1, Relaxed);
        self.queue_items.fetch_add(items as u64, Relaxed);
        self.queue_capacity.store(capacity as u64, Relaxed);
    }
}

pub(crate) fn add_elapsed(counter: &AtomicU64, since: Instant) {
    counter.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
}

/// Bills work to a node, and blames the node when the work fails.
///
/// A lazy item carries the meter of the node that it came from: when its pixels are wanted at
/// last, on behalf of a later node, the time still counts for the earlier one, and damage is
/// still that node's error.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    counters: Counters,
}

thread_local! {
    /// Time that nested meters have already billed within the outermost one on this thread.
    static NESTED: Cell<u64> = const { Cell::new(0) };
}

impl Meter {
    /// A meter that starts at zero.
    pub fn new(node: NodeId) -> Self {
        Meter(Arc::new(Inner {
            node,
            counters: Counters::default(),
        }))
    }

    /// Whom it bills.
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// The figures now.
    pub fn read(&self) -> Measured {
        self.0.counters.read(&self.0.node)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Runs `work`, bills its time to this meter's node (less what inner meters have billed), and
    /// marks its error as that node's.
    pub fn measure<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let outer = NESTED.replace(0);
        let start = Instant::now();
        // A panic is this node's failure like any other; it must not take the thread along.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        let total = start.elapsed().as_nanos() as u64;
        let own = total.saturating_sub(NESTED.get());
        self.0.counters.busy.fetch_add(own, Relaxed);
        NESTED.set(outer + total);
        result.map_err(|error| {
            if error.downcast_ref::<Blame>().is_some() {
                error // an inner meter knew better
            } else {
                error.context(Blame(self.clone()))
            }
        })
    }
}

/// What a panic said, as an error.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    anyhow::anyhow!("a bug in this node, please report it: it panicked: {words}")
}

/// The innermost node that an error belongs to; a context in its chain.
#[derive(Clone, Debug)]
pub(crate) struct Blame(pub Meter);

impl std::fmt::Display for Blame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.0.node().name, self.0.node().kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(name: &str) -> Meter {
        Meter::new(NodeId {
            name: name.into(),
            kind: "Test",
        })
    }

    #[test]
    fn nested_work_is_billed_and_blamed_once() {
        let (outer, inner) = (meter("outer"), meter("inner"));
        let pause = Duration::from_millis(20);
        let error = outer
            .measure(|| {
                inner.measure(|| -> Result<()> {
                    std::thread::sleep(pause);
                    anyhow::bail!("damaged")
                })
            })
            .unwrap_err();
        assert_eq!(
            error.downcast_ref::<Blame>().unwrap().0.node().name,
            "inner"
        );
        assert!(inner.read().busy >= pause);
        assert!(outer.read().busy < pause);
    }
}
