//! Driving a segment: items enter, many are in flight at once, and what comes out is in order.
//!
//! What the loop in [`Drive::run`] guarantees, and why:
//!
//! - **Order.** Items enter a queue in the order of the stream, together with the marks at the ends of
//!   epochs. Only its front is ever awaited and sent on, whatever finished first.
//! - **Bound.** Nothing is taken from the feed while `flying` items are in the queue (four for each
//!   worker and four more: enough for all workers to stay busy while the front is slow).
//! - **Back-pressure.** Results are sent into a bounded channel. While that is full the loop waits in
//!   `outlet.send`, and neither takes new items nor looks for stuck reads; the pool still works on
//!   what is in flight, but gets nothing new.
//! - **Liveness.** If the queue is full, its front is with a worker or waits for one, and the pool's
//!   queue is first in, first out: it is done next. A read that hangs is taken from its worker by
//!   the patrol, and another thread takes the worker's place, so the front always gets done.
//! - **Cancellation.** A `select!` drops the arms that lost. None of them loses anything: `feed.next`
//!   and `land` keep their state outside of the future until they are done, a tick of the patrol
//!   that is dropped comes again, and `outlet.send` is dropped only when the run stops, whose items
//!   nobody wants any more.
//! - **Priority.** The arms are `biased`: a stop is seen first; then the queue is filled before its
//!   front is awaited, or one worker would work at a time; the patrol looks when there is nothing
//!   else to do, as it only matters while the front does not finish.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};

use super::failure::Failure;
use super::pool::PoolHandle;
use super::segment::{Made, Segment, Start};
use super::walk::{Feed, Next};
use super::watch::{Seat, Watch};
use crate::counters::{Blame, one_item};
use crate::item::{Key, Message};
use crate::ports::Outlet;
use crate::shard::Shard;
use crate::stage::{AnyFold, AnyGroup, OnError};
use crate::stop::Stop;

/// What a driver starts from, besides its segment.
pub(crate) struct Drive {
    pub segment: Arc<Segment>,
    pub feed: Feed,
    pub outlet: Outlet,
    pub pool: PoolHandle,
    pub stop: Stop,
    /// Positions of each epoch that are dealt out to the processes, and which of them enter here.
    pub samples: u64,
    pub shard: Shard,
    /// Items that may be in the works at once.
    pub flying: usize,
}

/// An item in the works, or a mark between items.
enum Flying {
    Item {
        work: Work,
        closes: Option<AnyGroup>,
    },
    EndOfEpoch(u64),
}

/// What a worker was given to do.
struct Work {
    reply: oneshot::Receiver<Result<Result<Made, Failure>>>,
    watch: Arc<Watch>,
}

impl Drive {
    /// Takes items through the segment, many at a time, and sends the results on in order.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut grouping = Grouping::new(&self);
        let mut flying: VecDeque<Flying> = VecDeque::new();
        let mut open = true;
        let read_timeout = self
            .segment
            .source()
            .and_then(|(_, source)| source.read_timeout());
        let mut patrol = read_timeout.map(patrol);
        while open || !flying.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.wait() => return Ok(()),
                next = self.feed.next(), if open && flying.len() < self.flying => match self.sound(next)? {
                    Next::Start(key, start) => {
                        if let Some(item) = self.launch(key, start, &mut grouping)? {
                            flying.push_back(item);
                        }
                    }
                    Next::EndOfEpoch(epoch) => flying.push_back(Flying::EndOfEpoch(epoch)),
                    Next::Nothing => open = false,
                },
                landed = land(&mut flying), if !flying.is_empty() => {
                    let Some(message) = self.finish(landed, &mut grouping)? else { continue };
                    tokio::select! {
                        biased;
                        () = self.stop.wait() => return Ok(()),
                        sent = self.outlet.send(message) => if sent.is_err() { return Ok(()) },
                    }
                }
                timeout = patrolled(&mut patrol, read_timeout), if !flying.is_empty() => {
                    self.take_from_stuck(&mut flying, timeout)?;
                }
            }
        }
        Ok(())
    }

    /// An error that no item is to blame for.
    fn sound<T>(&self, result: Result<T>) -> Result<T, Failure> {
        result.map_err(|error| Failure::new(self.segment.lead.node(), None, error))
    }

    fn launch(
        &self,
        key: Key,
        start: Start,
        grouping: &mut Grouping,
    ) -> Result<Option<Flying>, Failure> {
        let (seat, closes) = match &self.segment.fold {
            None => (None, None),
            Some((meter, fold)) => {
                let seat = grouping
                    .seat(fold.as_ref(), key)
                    .map_err(|error| Failure::new(meter.node(), None, error))?;
                let Some((group, slot, last)) = seat else {
                    return Ok(None);
                };
                let closes = last.then(|| Arc::clone(&group));
                (Some((group, slot)), closes)
            }
        };
        let work = self.work(key, Ok(start), seat);
        Ok(Some(Flying::Item { work, closes }))
    }

    fn work(&self, key: Key, start: Result<Start>, seat: Option<Seat>) -> Work {
        let segment = Arc::clone(&self.segment);
        let watch = Arc::new(Watch::default());
        let watched = Arc::clone(&watch);
        // The group is closed by whoever holds it last: not the worker, whose seat is gone when it
        // replies.
        let reply = self.pool.run(move || {
            Ok(one_item(key, || {
                segment.process(key, start, seat, &watched)
            }))
        });
        Work { reply, watch }
    }

    /// Goes on without the workers that have read for longer than `timeout`: what they read counts
    /// as damaged, and other threads take their places.
    fn take_from_stuck(
        &self,
        flying: &mut VecDeque<Flying>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let Some((meter, _)) = self.segment.source() else {
            return Ok(());
        };
        for item in flying {
            let Flying::Item { work, .. } = item else {
                continue;
            };
            let Some(stuck) = work.watch.take_if_late(timeout) else {
                continue;
            };
            self.pool
                .replace(stuck.worker)
                .map_err(|error| Failure::new(meter.node(), None, error))?;
            let error = anyhow::anyhow!(
                "reading takes longer than {} s: the disk or the network does not answer; see to \
                 it, or give it more time with `read_timeout` (`None`: for ever)",
                timeout.as_secs_f64()
            );
            let error = error.context(Blame(meter.clone()));
            if self.segment.on_error(meter) == OnError::Fail {
                // At once: before the pool came to it, other reads might hang as long.
                return self.segment.replacement(stuck.key, error).map(drop);
            }
            *work = self.work(stuck.key, Err(error), stuck.seat);
        }
        Ok(())
    }

    /// What is to be sent for something that has landed.
    fn finish(&self, landed: Landed, grouping: &mut Grouping) -> Result<Option<Message>, Failure> {
        let (result, closes) = match landed {
            Landed::EndOfEpoch(epoch) => return Ok(Some(Message::EndOfEpoch(epoch))),
            Landed::Item(result, closes) => (result, closes),
        };
        let (key, item) = match result {
            Ok(made) => made?,
            Err(error) => return self.sound(Err(error)),
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

enum Landed {
    Item(Result<Result<Made, Failure>>, Option<AnyGroup>),
    EndOfEpoch(u64),
}

/// Waits for the oldest of those in the works. Nothing is lost if it is dropped while waiting.
async fn land(flying: &mut VecDeque<Flying>) -> Landed {
    let result = match flying.front_mut() {
        Some(Flying::Item { work, .. }) => Some(match (&mut work.reply).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("the CPU pool ended too early")),
        }),
        Some(Flying::EndOfEpoch(_)) => None,
        None => std::future::pending().await,
    };
    match (flying.pop_front(), result) {
        (Some(Flying::Item { closes, .. }), Some(result)) => Landed::Item(result, closes),
        (Some(Flying::EndOfEpoch(epoch)), _) => Landed::EndOfEpoch(epoch),
        _ => std::future::pending().await,
    }
}

/// When to look for reads that take too long: often enough that the timeout is kept by and large.
fn patrol(timeout: Duration) -> Interval {
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(1));
    let mut interval = tokio::time::interval((timeout / 4).clamp(least, most));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits until it is time to look; for ever where reads may take for ever.
async fn patrolled(patrol: &mut Option<Interval>, timeout: Option<Duration>) -> Duration {
    match (patrol, timeout) {
        (Some(patrol), Some(timeout)) => {
            patrol.tick().await;
            timeout
        }
        _ => std::future::pending().await,
    }
}

/// Seats items in groups. A group is a run of consecutive positions of the whole order, of which this
/// process fills its own; so groups are the same whatever the number of processes.
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

    /// Group, slot, and whether it is the group's last slot; `None` if the item is to be dropped.
    /// Items come in their order.
    fn seat(&mut self, fold: &dyn AnyFold, key: Key) -> Result<Option<(AnyGroup, usize, bool)>> {
        if self.epoch != Some(key.epoch) {
            self.epoch = Some(key.epoch);
            self.first = key.index.saturating_sub(self.shard.rank.into());
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
                    group: fold.open(slots as usize)?,
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
