//! A segment: a run of neighbouring nodes that one worker takes an item through in one go.
//!
//! It begins at a source or at a channel, goes through any number of maps, and may end in a fold.
//! Keeping an item on one worker keeps its bytes in that core's cache; each node is still measured
//! and blamed on its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};

use super::failure::Failure;
use super::pool::PoolHandle;
use super::ports::{Inlet, Outlet};
use super::skipped::{SkipLog, Skipped};
use super::stop::Stop;
use super::watch::{Seat, TakenAway, Watch};
use crate::counters::{Blame, Meter, one_item};
use crate::item::{Item, Key, Message};
use crate::shard::Shard;
use crate::stage::{self, AnyFold, AnyGroup, AnyMap, AnySource, Context, OnError, Position};

/// So many samples drawn in the place of a damaged one may be damaged, too. Only where next to none
/// is sound are there more.
const MAX_ATTEMPTS: u32 = 100;

/// The nodes of a segment. Pure: the driver below holds all state.
pub(crate) struct Segment {
    pub seed: u64,
    /// Its first node's.
    pub lead: Meter,
    pub head: Head,
    pub maps: Vec<(Meter, Arc<dyn AnyMap>)>,
    pub fold: Option<(Meter, Arc<dyn AnyFold>)>,
    /// What its items are of their source.
    pub shard: Shard,
    pub skipped: Arc<SkipLog>,
}

/// Where a segment's items come from.
pub(crate) enum Head {
    Source(Meter, Arc<dyn AnySource>),
    /// A channel, fed by that segment; `None` if it is fed by a thread.
    Channel(Option<Arc<Segment>>),
}

impl Head {
    /// What the items are of their source; of groups and of what a thread sends, all there is.
    pub fn shard(&self) -> Shard {
        match self {
            Head::Source(_, source) => source.shard(),
            Head::Channel(Some(upstream)) if upstream.fold.is_none() => upstream.shard,
            Head::Channel(_) => Shard::default(),
        }
    }
}

enum Start {
    Sample(u32),
    Item(Item),
}

impl Segment {
    /// The source that its items come from in the end, unless something between regroups them.
    fn source(&self) -> Option<(&Meter, &Arc<dyn AnySource>)> {
        match &self.head {
            Head::Source(meter, source) => Some((meter, source)),
            Head::Channel(Some(upstream)) if upstream.fold.is_none() => upstream.source(),
            Head::Channel(_) => None,
        }
    }

    /// Which sample stands at a position. The answer depends on the key alone, so nothing needs to
    /// carry it along; it is only asked for when something went wrong.
    fn sample(&self, key: Key) -> Option<u32> {
        let (meter, source) = self.source()?;
        let position = self.shard.position(key.index);
        if key.attempt == 0 {
            return at(&source.order(key.epoch), position);
        }
        let samples = u32::try_from(source.contents().items_per_epoch).unwrap_or(u32::MAX);
        let numbers = [key.epoch, position, key.attempt.into()];
        let mut random = stage::random(self.seed, &meter.node().name, "replacement", &numbers);
        Some(random.random_range(0..samples.max(1)))
    }

    fn step<T>(
        &self,
        meter: &Meter,
        key: Key,
        work: impl FnOnce(&Context) -> Result<T>,
    ) -> Result<T> {
        let node = meter.node();
        let span = tracing::trace_span!(
            "item",
            node = node.name,
            epoch = key.epoch,
            index = key.index
        );
        let _entered = span.enter();
        let context = Context {
            key: Key {
                index: self.shard.position(key.index),
                ..key
            },
            node: &node.name,
            meter,
            seed: self.seed,
        };
        let result = meter.measure(|| work(&context));
        meter.counters().items.fetch_add(1, Relaxed);
        result
    }

    /// Through the source (or from the given item) and the maps.
    fn make(&self, key: Key, start: Start, seat: &mut Option<Seat>, watch: &Watch) -> Result<Item> {
        let mut item = match (start, &self.head) {
            (Start::Item(item), _) => item,
            (Start::Sample(sample), Head::Source(meter, source)) => {
                let item = watch.read(key, seat, || {
                    self.step(meter, key, |context| source.fetch(sample, context))
                })?;
                meter.counters().bytes.fetch_add(item.bytes(), Relaxed);
                item
            }
            (Start::Sample(sample), Head::Channel(upstream)) => upstream
                .as_ref()
                .context("nothing here can be fetched again")?
                .make(key, Start::Sample(sample), seat, watch)?,
        };
        for (meter, map) in &self.maps {
            item = self.step(meter, key, |context| map.apply(item, context))?;
        }
        Ok(item)
    }

    fn attempt(
        &self,
        key: Key,
        start: Start,
        seat: &mut Option<Seat>,
        watch: &Watch,
    ) -> Result<Option<Item>> {
        let item = self.make(key, start, seat, watch)?;
        match (&self.fold, seat) {
            (Some((meter, fold)), Some((group, slot))) => {
                self.step(meter, key, |context| {
                    fold.place(group, *slot, item, context)
                })?;
                Ok(None)
            }
            _ => Ok(Some(item)),
        }
    }

    /// Makes one item, or a replacement if its node may skip it; its key tells which it is. `start`
    /// may be an error: what became of it elsewhere.
    fn process(
        &self,
        mut key: Key,
        mut start: Result<Start>,
        mut seat: Option<Seat>,
        watch: &Watch,
    ) -> Result<Made, Failure> {
        loop {
            let error = match start.and_then(|start| self.attempt(key, start, &mut seat, watch)) {
                Ok(item) => return Ok((key, item)),
                // Nobody waits for this.
                Err(error) if error.is::<TakenAway>() => return Ok((key, None)),
                Err(error) => error,
            };
            let replacement = self.replacement(key, error)?;
            key.attempt += 1;
            start = Ok(Start::Sample(replacement));
        }
    }

    /// The sample that takes the place of one that failed, if the node to blame may skip it.
    fn replacement(&self, key: Key, error: anyhow::Error) -> Result<u32, Failure> {
        let blamed = match error.downcast_ref::<Blame>() {
            Some(Blame(meter)) => meter.clone(),
            None => self.lead.clone(),
        };
        let of = self.sample(key).zip(self.source());
        let item = of.map(|(sample, (_, source))| source.describe(sample));
        let failed = |error| Failure::new(blamed.node(), item.clone(), error);
        let OnError::Skip { budget } = self.on_error(&blamed) else {
            return Err(failed(error));
        };
        let next = self.sample(Key {
            attempt: key.attempt + 1,
            ..key
        });
        let (Some((sample, (_, source))), Some(next)) = (of, next) else {
            return Err(failed(error));
        };
        let samples = source.contents().items_per_epoch;
        let allowed = budget.of(samples);
        let skipped = Skipped {
            node: blamed.node().name.clone(),
            item: item.clone().unwrap_or_default(),
            reason: reason(&error),
            times: 1,
        };
        if !self.skipped.note(sample, skipped, allowed) {
            return Err(failed(error.context(format!(
                "more than {allowed} of {samples} samples cannot be used, and the budget of \
                 `on_error` is {allowed}; the log names them: mend or remove them, or allow more \
                 with `Skip(budget: ...)`"
            ))));
        }
        if key.attempt >= MAX_ATTEMPTS {
            return Err(failed(error.context(format!(
                "nor could {MAX_ATTEMPTS} others be used that were drawn in its place; see whether \
                 any of the {samples} samples is sound"
            ))));
        }
        blamed.counters().skipped.fetch_add(1, Relaxed);
        Ok(next)
    }

    /// The policy of the node that is to blame, here or upstream.
    fn on_error(&self, blamed: &Meter) -> OnError {
        let is = |meter: &Meter| meter.node() == blamed.node();
        match &self.head {
            Head::Source(meter, source) if is(meter) => return source.on_error(),
            _ => {}
        }
        if let Some((_, map)) = self.maps.iter().find(|(meter, _)| is(meter)) {
            return map.on_error();
        }
        match &self.head {
            Head::Channel(Some(upstream)) => upstream.on_error(blamed),
            _ => OnError::Fail,
        }
    }
}

/// The sample at a position of an order, which starts again behind its end: shards may be padded.
fn at(order: &[u32], position: u64) -> Option<u32> {
    let position = position.checked_rem(order.len() as u64)?;
    order.get(position as usize).copied()
}

/// An error's causes in one line, without the node to blame.
fn reason(error: &anyhow::Error) -> String {
    let blame = error.downcast_ref::<Blame>().map(ToString::to_string);
    let causes = error.chain().map(ToString::to_string);
    let causes: Vec<String> = causes
        .filter(|cause| Some(cause) != blame.as_ref())
        .collect();
    causes.join(": ")
}

/// What a driver starts from, besides its segment.
pub(crate) struct Drive {
    pub segment: Arc<Segment>,
    pub feed: Feed,
    pub outlet: Outlet,
    pub pool: PoolHandle,
    pub stop: Stop,
    /// Items that enter the segment in each epoch.
    pub items_per_epoch: u64,
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

/// An item, unless it went into a group.
type Made = (Key, Option<Item>);

/// What a worker was given to do.
struct Work {
    reply: oneshot::Receiver<Result<Result<Made, Failure>>>,
    watch: Arc<Watch>,
}

enum Next {
    Start(Key, Start),
    EndOfEpoch(u64),
    Nothing,
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

/// Seats items in groups.
struct Grouping {
    size: u64,
    items: u64,
    group: Option<AnyGroup>,
}

impl Grouping {
    fn new(drive: &Drive) -> Self {
        let size = drive
            .segment
            .fold
            .as_ref()
            .map_or(1, |(_, fold)| fold.group() as u64);
        Grouping {
            size,
            items: drive.items_per_epoch,
            group: None,
        }
    }

    /// Group, slot, and whether it is the group's last slot; `None` if the item is to be dropped.
    fn seat(&mut self, fold: &dyn AnyFold, key: Key) -> Result<Option<(AnyGroup, usize, bool)>> {
        let slot = key.index % self.size;
        let first = key.index - slot;
        let items = self.size.min(self.items.saturating_sub(first));
        if items < self.size && fold.drop_last() {
            return Ok(None);
        }
        if slot == 0 {
            self.group = Some(fold.open(items as usize)?);
        }
        let last = slot + 1 == items;
        let group = if last {
            self.group.take()
        } else {
            self.group.clone()
        };
        let group = group.context("a stream must start at the beginning of a group")?;
        Ok(Some((group, slot as usize, last)))
    }
}

/// What feeds a segment.
pub(crate) enum Feed {
    /// A source, epoch after epoch.
    Source(Walk),
    /// Another segment, or a thread.
    Channel(Inlet),
}

/// A walk through a source's epochs.
pub(crate) struct Walk {
    pub source: Arc<dyn AnySource>,
    pub shard: Shard,
    pub pool: PoolHandle,
    /// In the shard.
    pub at: Position,
    /// It ends before this epoch.
    pub end: Option<u64>,
    pub order: Order,
}

/// The order of the epoch in hand. It is drawn on the pool: for a million samples it takes a while.
pub(crate) enum Order {
    Unknown,
    Drawing(oneshot::Receiver<Result<Vec<u32>>>),
    Known(Vec<u32>),
}

impl Feed {
    /// What enters next. May be dropped while it waits without losing anything.
    async fn next(&mut self) -> Result<Next> {
        match self {
            Feed::Channel(inlet) => Ok(match inlet.receive().await {
                Some(Message::Item(key, item)) => Next::Start(key, Start::Item(item)),
                Some(Message::EndOfEpoch(epoch)) => Next::EndOfEpoch(epoch),
                None => Next::Nothing,
            }),
            Feed::Source(walk) => walk.next().await,
        }
    }
}

impl Walk {
    async fn next(&mut self) -> Result<Next> {
        let Position { epoch, item: index } = self.at;
        if self.end.is_some_and(|end| epoch >= end) {
            return Ok(Next::Nothing);
        }
        loop {
            match &mut self.order {
                Order::Known(order) => {
                    let within = index < self.shard.items(order.len() as u64);
                    let sample = at(order, self.shard.position(index));
                    let Some(sample) = sample.filter(|_| within) else {
                        self.order = Order::Unknown;
                        self.at = Position {
                            epoch: epoch + 1,
                            item: 0,
                        };
                        return Ok(Next::EndOfEpoch(epoch));
                    };
                    self.at.item += 1;
                    let key = Key {
                        epoch,
                        index,
                        attempt: 0,
                    };
                    return Ok(Next::Start(key, Start::Sample(sample)));
                }
                Order::Drawing(reply) => {
                    let order = reply.await.context("the CPU pool ended too early")??;
                    self.order = Order::Known(order);
                }
                Order::Unknown => {
                    let source = Arc::clone(&self.source);
                    self.order = Order::Drawing(self.pool.run(move || Ok(source.order(epoch))));
                }
            }
        }
    }
}
