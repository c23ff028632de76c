//! Driving a segment: items enter, many are in flight at once, results leave in order.
//!
//! What the loop in [`Drive::run`] guarantees, and why:
//!
//! - **Order.** Items enter a queue in the order of the stream, together with the marks at the ends
//!   of epochs. Only the front of the queue is ever awaited and sent on ([`next_in_order`]),
//!   whichever item finished first.
//! - **Bound.** Nothing is taken from the feed while `max_in_flight` items are in the queue: four
//!   for each worker and four more, so that all workers stay busy while the front is slow.
//! - **Back-pressure.** Results are sent into a bounded channel. While it is full, the loop waits in
//!   `outlet.send`: it takes no new items and the watchdog does not run. The pool finishes what is
//!   in flight and then has nothing to do; so a slow reader stops the source.
//! - **Liveness.** The pool's queue is first in, first out, and segments submit in order. The front
//!   therefore is with a worker, or waits only for jobs that do not wait for it. A job never blocks
//!   on a channel, so it ends, unless a system call hangs: then the watchdog takes the item from
//!   the worker and retires it ([`Drive::expire_stalled_reads`]), and the front is submitted again.
//!   A stalled read behind a full `outlet` is found once there is room; until then nothing waits for it.
//! - **Cancellation.** `select!` drops the futures of the arms that lost, and none of them loses
//!   anything: `feed.next` keeps its state in the feed (a channel's `recv` is cancel-safe);
//!   `next_in_order` removes the front only after its last await; a dropped tick of the watchdog
//!   fires again; `outlet.send` loses only to a stop, after which its item is not needed.
//! - **Priority.** The arms are `biased`, tried from top to bottom, and the order matters. A stop
//!   comes first, or a busy stream could outrun it. Filling the queue comes before awaiting its
//!   front: were a finished front sent first, the queue would not fill while results are ready, and
//!   workers would idle. It cannot starve the front, as it ends at `max_in_flight`. The watchdog is
//!   last: while the front finishes in time there is nothing for it to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};

use super::failure::Failure;
use super::pool::PoolHandle;
use super::segment::{Output, Segment, Start};
use super::walk::{Feed, Next};
use super::watch::{Slot, Watch};
use crate::counters::{Blame, one_item};
use crate::item::{Key, Message};
use crate::ports::Outlet;
use crate::shard::Shard;
use crate::stage::{AnyFold, AnyGroup, OnError};
use crate::stop::Stop;
use crate::words::first_few;

/// The driver of a segment.
pub(crate) struct Drive {
    pub segment: Arc<Segment>,
    pub feed: Feed,
    pub outlet: Outlet,
    pub pool: PoolHandle,
    pub stop: Stop,
    /// Positions of each epoch that are dealt out to the processes, and which of them enter here.
    pub samples: u64,
    pub shard: Shard,
    /// Items that may be in the queue at once.
    pub max_in_flight: usize,
}

/// An entry of the driver's queue.
enum InFlight {
    Item {
        job: Job,
        /// The group that is complete with this item.
        closes: Option<AnyGroup>,
    },
    EndOfEpoch(u64),
}

/// An item's job in the pool.
struct Job {
    reply: oneshot::Receiver<Result<Result<Output, Failure>>>,
    watch: Arc<Watch>,
}

impl Drive {
    /// See the module.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut grouping = Grouping::new(&self);
        let mut in_flight: VecDeque<InFlight> = VecDeque::new();
        let mut open = true;
        let read_timeout = self
            .segment
            .source()
            .and_then(|(_, source)| source.read_timeout());
        let mut watchdog = read_timeout.map(watchdog);
        while open || !in_flight.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.wait() => return Ok(()),
                next = self.feed.next(), if open && in_flight.len() < self.max_in_flight => match self.blame_lead(next)? {
                    Next::Start(key, start) => {
                        if let Some(item) = self.submit(key, start, &mut grouping)? {
                            in_flight.push_back(item);
                        }
                    }
                    Next::EndOfEpoch(epoch) => in_flight.push_back(InFlight::EndOfEpoch(epoch)),
                    Next::End => open = false,
                },
                done = next_in_order(&mut in_flight), if !in_flight.is_empty() => {
                    let Some(message) = self.finish(done, &mut grouping)? else { continue };
                    tokio::select! {
                        biased;
                        () = self.stop.wait() => return Ok(()),
                        sent = self.outlet.send(message) => if sent.is_err() { return Ok(()) },
                    }
                }
                timeout = tick(&mut watchdog, read_timeout), if !in_flight.is_empty() => {
                    self.expire_stalled_reads(&mut in_flight, timeout)?;
                }
            }
        }
        Ok(())
    }

    /// An error that belongs to no item is the first node's.
    fn blame_lead<T>(&self, result: Result<T>) -> Result<T, Failure> {
        result.map_err(|error| Failure::new(self.segment.lead.node(), None, error))
    }

    /// Gives an item to the pool; `None` if it is one of a dropped last group.
    fn submit(
        &self,
        key: Key,
        start: Start,
        grouping: &mut Grouping,
    ) -> Result<Option<InFlight>, Failure> {
        let (slot, closes) = match &self.segment.fold {
            None => (None, None),
            Some((meter, fold)) => {
                let slot = grouping
                    .slot(fold.as_ref(), key)
                    .map_err(|error| Failure::new(meter.node(), None, error))?;
                let Some((group, position, last)) = slot else {
                    return Ok(None);
                };
                let closes = last.then(|| Arc::clone(&group));
                (Some((group, position)), closes)
            }
        };
        let job = self.job(key, Ok(start), slot);
        Ok(Some(InFlight::Item { job, closes }))
    }

    fn job(&self, key: Key, start: Result<Start>, slot: Option<Slot>) -> Job {
        let segment = Arc::clone(&self.segment);
        let watch = Arc::new(Watch::default());
        let watched = Arc::clone(&watch);
        // The worker drops its reference to the group before it replies, so the driver's is the last
        // one when the group is closed.
        let reply = self.pool.run(move || {
            Ok(one_item(key, || {
                segment.process(key, start, slot, &watched)
            }))
        });
        Job { reply, watch }
    }

    /// Retires the workers that have been reading for longer than `timeout`. Their items count as
    /// damaged.
    fn expire_stalled_reads(
        &self,
        in_flight: &mut VecDeque<InFlight>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let segment = &self.segment;
        let Some((meter, _)) = segment.source() else {
            return Ok(());
        };
        for item in in_flight {
            let InFlight::Item { job, .. } = item else {
                continue;
            };
            let Some(stalled) = job.watch.expire(timeout) else {
                continue;
            };
            segment.note_timeout(stalled.key);
            self.pool.replace(stalled.worker).map_err(|error| {
                let error = error.context(format!(
                    "cannot replace the threads whose reads hang, of {}: check the disk or the network, or \
                     remove these files; then resume",
                    first_few(&segment.timeouts())
                ));
                Failure::new(meter.node(), None, error)
            })?;
            let error = anyhow::anyhow!(
                "read timed out after {} s: the disk or the network does not respond; check it, or \
                 raise `read_timeout` (`None` disables it)",
                timeout.as_secs_f64()
            );
            let error = error.context(Blame(meter.clone()));
            if !matches!(segment.on_error(meter), OnError::Skip { .. }) {
                // At once, not by way of the pool: every worker may be stuck in a read.
                return segment.replacement(stalled.key, error).map(drop);
            }
            *job = self.job(stalled.key, Err(error), stalled.slot);
        }
        Ok(())
    }

    /// The message for the front of the queue; `None` for an item in the middle of a group.
    fn finish(&self, done: Done, grouping: &mut Grouping) -> Result<Option<Message>, Failure> {
        let (result, closes) = match done {
            Done::EndOfEpoch(epoch) => return Ok(Some(Message::EndOfEpoch(epoch))),
            Done::Item(result, closes) => (result, closes),
        };
        let (key, item) = match result {
            Ok(output) => output?,
            Err(error) => return self.blame_lead(Err(error)),
        };
        if let Some(item) = item {
            return Ok(Some(Message::Item(key, item)));
        }
        let (Some(group), Some((meter, fold))) = (closes, &self.segment.fold) else {
            return Ok(None);
        };
        let item = meter
            .measure(|| fold.close(group))
            .map_err(|error| Failure::new(meter.node(), None, error))?;
        meter.counters().bytes.fetch_add(item.bytes(), Relaxed);
        let index = key.index / grouping.size;
        Ok(Some(Message::Item(
            Key {
                index,
                attempt: 0,
                ..key
            },
            item,
        )))
    }
}

enum Done {
    Item(Result<Result<Output, Failure>>, Option<AnyGroup>),
    EndOfEpoch(u64),
}

/// Waits for the front of the queue and removes it. Cancel-safe: it is removed after the last await.
async fn next_in_order(in_flight: &mut VecDeque<InFlight>) -> Done {
    let result = match in_flight.front_mut() {
        Some(InFlight::Item { job, .. }) => Some(match (&mut job.reply).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("the CPU pool ended before the run")),
        }),
        Some(InFlight::EndOfEpoch(_)) => None,
        None => std::future::pending().await,
    };
    match (in_flight.pop_front(), result) {
        (Some(InFlight::Item { closes, .. }), Some(result)) => Done::Item(result, closes),
        (Some(InFlight::EndOfEpoch(epoch)), _) => Done::EndOfEpoch(epoch),
        _ => std::future::pending().await,
    }
}

/// When to look for stalled reads: four times per timeout, so one is found at most a quarter late.
fn watchdog(timeout: Duration) -> Interval {
    let (shortest, longest) = (Duration::from_millis(10), Duration::from_secs(1));
    let mut interval = tokio::time::interval((timeout / 4).clamp(shortest, longest));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the watchdog's next tick; forever without a timeout.
async fn tick(watchdog: &mut Option<Interval>, timeout: Option<Duration>) -> Duration {
    match (watchdog, timeout) {
        (Some(watchdog), Some(timeout)) => {
            watchdog.tick().await;
            timeout
        }
        _ => std::future::pending().await,
    }
}

/// Assigns items to the slots of groups. A group is a run of consecutive positions of the whole
/// order, of which this process fills its own, so groups do not depend on the number of processes.
struct Grouping {
    /// Positions in a full group, of all processes.
    size: u64,
    samples: u64,
    shard: Shard,
    epoch: Option<u64>,
    /// The first position of the next group.
    first: u64,
    open: Option<OpenGroup>,
}

struct OpenGroup {
    group: AnyGroup,
    /// Its slots, and how many of them are taken.
    slots: u64,
    taken: u64,
}

impl Grouping {
    fn new(drive: &Drive) -> Self {
        let fold = drive.segment.fold.as_ref();
        let size = fold.map_or(1, |(_, fold)| fold.group() as u64);
        Grouping {
            size: size * u64::from(drive.shard.world),
            samples: drive.samples,
            shard: drive.shard,
            epoch: None,
            first: 0,
            open: None,
        }
    }

    /// The item's group, its position in it, and whether it is the last; `None` if the item is
    /// dropped. Called in the order of items.
    fn slot(&mut self, fold: &dyn AnyFold, key: Key) -> Result<Option<(AnyGroup, usize, bool)>> {
        if self.epoch != Some(key.epoch) {
            self.epoch = Some(key.epoch);
            self.first = self.shard.start(key.index, self.samples);
            self.open = None;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let whole = self.size.min(self.samples.saturating_sub(self.first));
                if whole < self.size && fold.drop_last() {
                    return Ok(None);
                }
                let slots = self.shard.items(whole).max(1);
                OpenGroup {
                    group: fold.open(slots as usize, key.epoch)?,
                    slots,
                    taken: 0,
                }
            }
        };
        let slot = open.taken as usize;
        open.taken += 1;
        let last = open.taken == open.slots;
        let group = Arc::clone(&open.group);
        if last {
            self.first += self.size;
        } else {
            self.open = Some(open);
        }
        Ok(Some((group, slot, last)))
    }
}
