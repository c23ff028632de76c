//! Time and items of each node. Counted in every run; a profiler only reads.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::item::Key;
use crate::node_id::NodeId;
use crate::times::{Histogram, Times};
use crate::trace::Trace;

/// The counters of one node, times in nanoseconds.
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
    pub bytes: AtomicU64,
    pub times: Histogram,
}

/// Where a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorksOn {
    /// On the CPU pool, many items at a time.
    Workers,
    /// On its own thread.
    Thread,
    /// On a thread where blocking is allowed, one item at a time.
    Sink,
}

/// A node's figures at one moment.
#[derive(Clone, Debug)]
pub struct Measured {
    pub node: NodeId,
    pub works_on: WorksOn,
    /// Items finished (steps, for the trainer).
    pub items: u64,
    /// Time spent in the node's own work, summed over threads. Deferred work (decoding, once the crop
    /// is known) counts for the node that it belongs to.
    pub busy: Duration,
    /// Time spent waiting for input.
    pub wait_input: Duration,
    /// Time spent waiting because a reader's queue was full.
    pub wait_output: Duration,
    /// Damaged samples skipped since the run began.
    pub skipped: u64,
    /// Its input queue.
    pub queue: Queue,
    /// Bytes that it produced: encoded ones for a source of files, pixels for batches; 0 for nodes
    /// whose work is deferred.
    pub bytes: u64,
    /// Its time per item: the sum of all that one job spent in this node for the item.
    pub times: Times,
}

/// The fill level of a queue, sampled whenever its reader takes from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Number of samples; 0 for a node without a queue.
    pub samples: u64,
    /// Items in it, summed over all samples.
    pub items: u64,
    pub capacity: u64,
}

impl Queue {
    /// The mean fill level, 0 to 1; `None` without samples.
    pub fn occupancy(&self) -> Option<f64> {
        let room = self.samples * self.capacity;
        (room > 0).then(|| self.items as f64 / room as f64)
    }
}

impl Measured {
    /// The difference to an earlier reading.
    pub fn since(&self, earlier: &Measured) -> Measured {
        Measured {
            node: self.node.clone(),
            works_on: self.works_on,
            items: self.items.saturating_sub(earlier.items),
            busy: self.busy.saturating_sub(earlier.busy),
            wait_input: self.wait_input.saturating_sub(earlier.wait_input),
            wait_output: self.wait_output.saturating_sub(earlier.wait_output),
            skipped: self.skipped,
            queue: Queue {
                samples: self.queue.samples.saturating_sub(earlier.queue.samples),
                items: self.queue.items.saturating_sub(earlier.queue.items),
                capacity: self.queue.capacity,
            },
            bytes: self.bytes.saturating_sub(earlier.bytes),
            times: self.times.since(&earlier.times),
        }
    }

    /// Mean time per item; `None` without items.
    pub fn mean(&self) -> Option<Duration> {
        (self.items > 0).then(|| self.busy.div_f64(self.items as f64))
    }
}

/// The figures of all nodes of a run, readable while it continues.
#[derive(Clone)]
pub struct Meters(pub(crate) Vec<Meter>);

impl Meters {
    /// In the plan's order.
    pub fn read(&self) -> Vec<Measured> {
        self.0.iter().map(Meter::read).collect()
    }
}

impl Counters {
    fn read(&self, node: &NodeId, works_on: WorksOn) -> Measured {
        let nanoseconds = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        Measured {
            node: node.clone(),
            works_on,
            items: self.items.load(Relaxed),
            busy: nanoseconds(&self.busy),
            wait_input: nanoseconds(&self.wait_input),
            wait_output: nanoseconds(&self.wait_output),
            skipped: self.skipped.load(Relaxed),
            queue: Queue {
                samples: self.queue_samples.load(Relaxed),
                items: self.queue_items.load(Relaxed),
                capacity: self.queue_capacity.load(Relaxed),
            },
            bytes: self.bytes.load(Relaxed),
            times: self.times.read(),
        }
    }
}

pub(crate) fn add_elapsed(counter: &AtomicU64, since: Instant) {
    counter.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
}

/// Attributes time and errors to a node.
///
/// A lazy item carries the meter of the node that made it: when a later node needs its pixels, the
/// time of decoding still counts for the earlier node, and damage is that node's error.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Inner>);

struct Inner {
    node: Arc<NodeId>,
    works_on: WorksOn,
    counters: Counters,
    trace: Option<Arc<Trace>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.node)
    }
}

thread_local! {
    /// Nanoseconds that inner meters have counted within the current one on this thread.
    static NESTED: Cell<u64> = const { Cell::new(0) };
    /// The item that this thread works on, and the nanoseconds it took in each node so far.
    static ITEM: Cell<Option<Key>> = const { Cell::new(None) };
    static PARTS: RefCell<Vec<(Meter, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Runs one job for one item. All that it spends in a node, in however many parts, is recorded as
/// that node's time for the item.
pub(crate) fn one_item<T>(key: Key, work: impl FnOnce() -> T) -> T {
    ITEM.set(Some(key));
    let result = work();
    ITEM.set(None);
    PARTS.with_borrow_mut(|parts| {
        for (meter, nanoseconds) in parts.drain(..) {
            meter.counters().times.record(nanoseconds);
        }
    });
    result
}

impl Meter {
    pub fn new(node: NodeId, works_on: WorksOn) -> Self {
        Self::traced(node, works_on, None)
    }

    pub(crate) fn traced(node: NodeId, works_on: WorksOn, trace: Option<Arc<Trace>>) -> Self {
        Meter(Arc::new(Inner {
            node: Arc::new(node),
            works_on,
            counters: Counters::default(),
            trace,
        }))
    }

    /// The node that this meter attributes time to.
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    pub fn read(&self) -> Measured {
        self.0.counters.read(&self.0.node, self.0.works_on)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Samples the fill level of the node's input queue.
    pub(crate) fn sample_queue(&self, items: usize, capacity: usize) {
        let counters = self.counters();
        counters.queue_samples.fetch_add(1, Relaxed);
        counters.queue_items.fetch_add(items as u64, Relaxed);
        counters.queue_capacity.store(capacity as u64, Relaxed);
        if let Some(trace) = &self.0.trace {
            trace.level(&self.0.node, items);
        }
    }

    /// Counts the time `since` for a thread node, as time of `item` if there is one.
    pub(crate) fn worked(&self, since: Instant, item: Option<Key>) {
        let length = since.elapsed();
        let nanoseconds = length.as_nanos() as u64;
        self.counters().busy.fetch_add(nanoseconds, Relaxed);
        if item.is_some() {
            self.counters().times.record(nanoseconds);
        }
        if let Some(trace) = &self.0.trace {
            trace.slice(&self.0.node, item, since, length);
        }
    }

    /// Runs `work`, counts its time (without that of inner meters) for this node, and marks its error
    /// as this node's.
    pub fn measure<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let outer = NESTED.replace(0);
        let start = Instant::now();
        // A panic is this node's error like any other; the thread must survive it.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        let length = start.elapsed();
        let total = length.as_nanos() as u64;
        let own = total.saturating_sub(NESTED.get());
        self.0.counters.busy.fetch_add(own, Relaxed);
        NESTED.set(outer + total);
        let item = ITEM.get();
        if item.is_some() {
            self.add_part(own);
        }
        if let Some(trace) = &self.0.trace {
            trace.slice(&self.0.node, item, start, length);
        }
        result.map_err(|error| {
            if error.downcast_ref::<Blame>().is_some() {
                error // an inner meter has marked it
            } else {
                error.context(Blame(self.clone()))
            }
        })
    }

    /// Adds to this node's time for the current item.
    fn add_part(&self, nanoseconds: u64) {
        PARTS.with_borrow_mut(|parts| {
            match parts.iter_mut().find(|(of, _)| Arc::ptr_eq(&of.0, &self.0)) {
                Some((_, sum)) => *sum += nanoseconds,
                None => parts.push((self.clone(), nanoseconds)),
            }
        });
    }
}

/// A panic as an error.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    anyhow::anyhow!("a bug in this node, please report it: it panicked: {words}")
}

/// Marks the innermost node that an error belongs to; a context in its chain.
#[derive(Clone, Debug)]
pub(crate) struct Blame(pub Meter);

impl std::fmt::Display for Blame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.node())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(name: &str) -> Meter {
        let kind = "Test";
        let name = name.into();
        Meter::new(NodeId { name, kind }, WorksOn::Workers)
    }

    #[test]
    fn nested_work_is_counted_and_blamed_once() {
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

    #[test]
    fn the_parts_of_an_items_work_are_one_time() {
        let (outer, inner) = (meter("outer"), meter("inner"));
        let part = |milliseconds| {
            std::thread::sleep(Duration::from_millis(milliseconds));
            Ok(())
        };
        let key = Key {
            epoch: 0,
            index: 0,
            attempt: 0,
        };
        for _ in 0..2 {
            one_item(key, || {
                inner.measure(|| part(1)).unwrap();
                outer.measure(|| inner.measure(|| part(10))).unwrap();
            });
        }
        inner.measure(|| part(1)).unwrap();
        let times = inner.read().times;
        assert_eq!(
            times.count(),
            2,
            "work without an item has no time per item"
        );
        assert!(times.quantile(0.0) >= Some(Duration::from_millis(10)));
        assert!(outer.read().times.quantile(1.0) < Some(Duration::from_millis(10)));
    }
}
