//! A segment: a run of neighbouring nodes that one worker takes an item through in one go.
//!
//! It begins at a source or at a channel, goes through any number of maps, and may end in a fold.
//! Keeping an item on one worker keeps its bytes in that core's cache; each node is still measured
//! and blamed on its own.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::pool::PoolHandle;
use super::ports::{Inlet, Outlet};
use super::stop::Stop;
use crate::counters::{Blame, Meter, one_item};
use crate::item::{Item, Key, Message};
use crate::stage::{self, AnyFold, AnyGroup, AnyMap, AnySource, Context, OnError, Position};

/// The nodes of a segment. Pure: the driver below holds all state.
pub(crate) struct Segment {
    pub seed: u64,
    /// Its first node's.
    pub lead: Meter,
    pub head: Head,
    pub maps: Vec<(Meter, Arc<dyn AnyMap>)>,
    pub fold: Option<(Meter, Arc<dyn AnyFold>)>,
    pub skipped: Arc<SkipLog>,
}

/// Where a segment's items come from.
pub(crate) enum Head {
    Source(Meter, Arc<dyn AnySource>),
    /// A channel, fed by that segment; `None` if it is fed by a thread.
    Channel(Option<Arc<Segment>>),
}

/// A sample that was not used.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The node that could not use it.
    pub node: String,
    /// What the user knows it by.
    pub item: String,
    /// Why.
    pub reason: String,
}

/// Every skipped sample of a run; its length is bounded by the budgets.
#[derive(Default)]
pub(crate) struct SkipLog(Mutex<Vec<Skipped>>);

impl SkipLog {
    pub fn list(&self) -> Vec<Skipped> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
        if key.attempt == 0 {
            return source.order(key.epoch).get(key.index as usize).copied();
        }
        let samples = u32::try_from(source.contents().items_per_epoch).unwrap_or(u32::MAX);
        let numbers = [key.epoch, key.index, key.attempt.into()];
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
            key,
            node: &node.name,
            meter,
            seed: self.seed,
        };
        let result = meter.measure(|| work(&context));
        meter.counters().items.fetch_add(1, Relaxed);
        result
    }

    /// Through the source (or from the given item) and the maps.
    fn make(&self, key: Key, start: Start) -> Result<Item> {
        let mut item = match (start, &self.head) {
            (Start::Item(item), _) => item,
            (Start::Sample(sample), Head::Source(meter, source)) => {
                let item = self.step(meter, key, |context| source.fetch(sample, context))?;
                meter.counters().bytes.fetch_add(item.bytes(), Relaxed);
                item
            }
            (Start::Sample(sample), Head::Channel(upstream)) => upstream
                .as_ref()
                .context("nothing here can be fetched again")?
                .make(key, Start::Sample(sample))?,
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
        slot: Option<(&AnyGroup, usize)>,
    ) -> Result<Option<Item>> {
        let item = self.make(key, start)?;
        match (&self.fold, slot) {
            (Some((meter, fold)), Some((group, slot))) => {
                self.step(meter, key, |context| fold.place(group, slot, item, context))?;
                Ok(None)
            }
            _ => Ok(Some(item)),
        }
    }

    /// Makes one item, or a replacement if its node may skip it.
    fn process(
        &self,
        mut key: Key,
        mut start: Start,
        slot: Option<(&AnyGroup, usize)>,
    ) -> Result<Option<Item>, Failure> {
        loop {
            let error = match self.attempt(key, start, slot) {
                Ok(item) => return Ok(item),
                Err(error) => error,
            };
            let item = self
                .sample(key)
                .zip(self.source())
                .map(|(sample, (_, source))| source.describe(sample));
            let blamed = match error.downcast_ref::<Blame>() {
                Some(Blame(meter)) => meter.clone(),
                None => self.lead.clone(),
            };
            let failed = |error| Failure::new(blamed.node(), item.clone(), error);
            let OnError::Skip { budget } = self.on_error(&blamed) else {
                return Err(failed(error));
            };
            let used = blamed.counters().skipped.fetch_add(1, Relaxed) + 1;
            if used > budget {
                let words =
                    format!("more than {budget} items were damaged: the skip budget is used up");
                return Err(failed(error.context(words)));
            }
            self.note_skipped(&blamed, item.as_deref(), &error);
            key.attempt += 1;
            start = match self.sample(key) {
                Some(sample) => Start::Sample(sample),
                None => return Err(failed(error)),
            };
        }
    }

    fn note_skipped(&self, blamed: &Meter, item: Option<&str>, error: &anyhow::Error) {
        let blame = error.downcast_ref::<Blame>().map(ToString::to_string);
        let causes = error.chain().map(ToString::to_string);
        let causes: Vec<String> = causes
            .filter(|cause| Some(cause) != blame.as_ref())
            .collect();
        let skipped = Skipped {
            node: blamed.node().name.clone(),
            item: item.unwrap_or("an item").to_owned(),
            reason: causes.join(": "),
        };
        tracing::warn!(
            node = skipped.node,
            item = skipped.item,
            reason = skipped.reason,
            "skipped"
        );
        let mut list = self
            .skipped
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        list.push(skipped);
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
        key: Key,
        reply: oneshot::Receiver<Result<Result<Option<Item>, Failure>>>,
        closes: Option<AnyGroup>,
    },
    EndOfEpoch(u64),
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
        let segment = Arc::clone(&self.segment);
        let (slot, closes) = match &self.segment.fold {
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
        let reply = self.pool.run(move || {
            let place = slot.as_ref().map(|(group, slot)| (group, *slot));
            let result = one_item(key, || segment.process(key, start, place));
            // The group is closed by whoever holds it last: not this worker.
            drop(slot);
            Ok(result)
        });
        Ok(Some(Flying::Item { key, reply, closes }))
    }

    /// What is to be sent for something that has landed.
    fn finish(&self, landed: Landed, grouping: &mut Grouping) -> Result<Option<Message>, Failure> {
        let (key, result, closes) = match landed {
            Landed::EndOfEpoch(epoch) => return Ok(Some(Message::EndOfEpoch(epoch))),
            Landed::Item(key, result, closes) => (key, result, closes),
        };
        let item = match result {
            Ok(item) => item?,
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
    Item(Key, Result<Result<Option<Item>, Failure>>, Option<AnyGroup>),
    EndOfEpoch(u64),
}

/// Waits for the oldest of those in the works. Nothing is lost if it is dropped while waiting.
async fn land(flying: &mut VecDeque<Flying>) -> Landed {
    let result = match flying.front_mut() {
        Some(Flying::Item { reply, .. }) => Some(match reply.await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("the CPU pool ended too early")),
        }),
        Some(Flying::EndOfEpoch(_)) => None,
        None => std::future::pending().await,
    };
    match (flying.pop_front(), result) {
        (Some(Flying::Item { key, closes, .. }), Some(result)) => Landed::Item(key, result, closes),
        (Some(Flying::EndOfEpoch(epoch)), _) => Landed::EndOfEpoch(epoch),
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
    pub pool: PoolHandle,
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
                    let Some(&sample) = order.get(index as usize) else {
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
