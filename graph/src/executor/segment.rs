//! A segment: a run of neighbouring nodes that one worker takes an item through in one go.
//!
//! It begins at a source or at a channel, goes through any number of maps, and may end in a fold.
//! Keeping an item on one worker keeps its bytes in that core's cache; each node is still measured
//! and blamed on its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, Result};
use rand::RngExt as _;

use super::failure::Failure;
use super::skipped::{SkipLog, Skipped};
use super::watch::{Seat, TakenAway, Watch};
use crate::counters::{Blame, Meter};
use crate::item::{Item, Key};
use crate::stage::{self, AnyFold, AnyMap, AnySource, Context, OnError};

/// So many samples drawn in the place of a damaged one may be damaged, too. Only where next to none
/// is sound are there more.
const MAX_ATTEMPTS: u32 = 100;

/// The nodes of a segment. Pure: its driver holds all state.
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

/// An item, unless it went into a group.
pub(super) type Made = (Key, Option<Item>);

/// What an item is made from.
pub(super) enum Start {
    Sample(u32),
    Item(Item),
}

impl Segment {
    /// The source that its items come from in the end, unless something between regroups them.
    pub(super) fn source(&self) -> Option<(&Meter, &Arc<dyn AnySource>)> {
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
            return at(&source.order(key.epoch), key.index);
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
                .context("nothing here can be read again")?
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
    pub(super) fn process(
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
    pub(super) fn replacement(&self, key: Key, error: anyhow::Error) -> Result<u32, Failure> {
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
    pub(super) fn on_error(&self, blamed: &Meter) -> OnError {
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
pub(super) fn at(order: &[u32], position: u64) -> Option<u32> {
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
