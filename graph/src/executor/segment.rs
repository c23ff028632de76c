//! A segment: a chain of nodes that one worker runs an item through in one job.
//!
//! It begins at a source or at a channel, goes through any number of maps, and may end in a fold.
//! Keeping an item on one worker keeps its bytes in that core's cache; time and errors are still
//! attributed to each node.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use rand::RngExt as _;
use rsflow_base::keyed;

use super::failure::Failure;
use super::skipped::{SkipLog, Skipped};
use super::watch::{ReadTimedOut, Slot, Watch};
use crate::counters::{Blame, Meter};
use crate::item::{Item, Key};
use crate::stage::{AnyFold, AnyMap, AnySource, Budget, Context, OnError};

/// Replacements drawn for one damaged item before the run fails. With half of the samples damaged
/// this is reached once in 2^100 items.
const MAX_ATTEMPTS: u32 = 100;

/// The nodes of a segment; the state is its driver's.
pub(crate) struct Segment {
    pub seed: u64,
    /// The first node's.
    pub lead: Meter,
    pub head: Head,
    pub maps: Vec<(Meter, Arc<dyn AnyMap>)>,
    pub fold: Option<(Meter, Arc<dyn AnyFold>)>,
    pub skipped: Arc<SkipLog>,
    /// Samples of the own source whose reads timed out. They are not read again: each read would wait
    /// for the timeout and leave one more thread behind.
    pub timed_out: Mutex<BTreeSet<u32>>,
}

/// Where a segment's items come from.
pub(crate) enum Head {
    Source(Meter, Arc<dyn AnySource>),
    /// A channel from that segment; `None`: from a thread.
    Channel(Option<Arc<Segment>>),
}

/// The item; `None` if it went into a group.
pub(super) type Output = (Key, Option<Item>);

/// What a job starts from: a sample to fetch, or an item from a channel.
pub(super) enum Start {
    Sample(u32),
    Item(Item),
}

impl Segment {
    /// The segment that begins with the source that its items come from; `None` if something between
    /// regroups them.
    fn reader(&self) -> Option<&Segment> {
        match &self.head {
            Head::Source(..) => Some(self),
            Head::Channel(Some(upstream)) if upstream.fold.is_none() => upstream.reader(),
            Head::Channel(_) => None,
        }
    }

    /// The source of [`Segment::reader`].
    pub(super) fn source(&self) -> Option<(&Meter, &Arc<dyn AnySource>)> {
        match &self.reader()?.head {
            Head::Source(meter, source) => Some((meter, source)),
            Head::Channel(_) => None,
        }
    }

    /// Notes that the read of an item's sample timed out.
    pub(super) fn note_timeout(&self, key: Key) {
        if let (Some(reader), Some(sample)) = (self.reader(), self.sample(key)) {
            let timed_out = reader.timed_out.lock();
            timed_out
                .unwrap_or_else(PoisonError::into_inner)
                .insert(sample);
        }
    }

    /// The samples whose reads timed out, described.
    pub(super) fn timeouts(&self) -> Vec<String> {
        let (Some(reader), Some((_, source))) = (self.reader(), self.source()) else {
            return Vec::new();
        };
        let timed_out = reader.timed_out.lock();
        let timed_out = timed_out.unwrap_or_else(PoisonError::into_inner);
        timed_out
            .iter()
            .map(|&sample| source.describe(sample))
            .collect()
    }

    /// The sample of a key. Computed from the key alone when an error needs it, so that items need
    /// not carry it along.
    fn sample(&self, key: Key) -> Option<u32> {
        let (meter, source) = self.source()?;
        if key.attempt == 0 {
            return sample_at(&source.order(key.epoch), key.index);
        }
        let samples = u32::try_from(source.contents().items_per_epoch).unwrap_or(u32::MAX);
        let numbers = [key.epoch, key.index, key.attempt.into()];
        let mut random = keyed::random(self.seed, &meter.node().name, "replacement", &numbers);
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

    /// Runs source and maps.
    fn make(&self, key: Key, start: Start, slot: &mut Option<Slot>, watch: &Watch) -> Result<Item> {
        let mut item = match (start, &self.head) {
            (Start::Item(item), _) => item,
            (Start::Sample(sample), Head::Source(meter, source)) => {
                let timed_out = self.timed_out.lock();
                if timed_out
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains(&sample)
                {
                    let error = anyhow!("its read timed out before, so it is not read again");
                    return Err(error.context(Blame(meter.clone())));
                }
                let item = watch.read(key, slot, || {
                    self.step(meter, key, |context| source.fetch(sample, context))
                })?;
                meter.counters().bytes.fetch_add(item.bytes(), Relaxed);
                item
            }
            (Start::Sample(sample), Head::Channel(upstream)) => upstream
                .as_ref()
                .context("this stream cannot be read again")?
                .make(key, Start::Sample(sample), slot, watch)?,
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
        slot: &mut Option<Slot>,
        watch: &Watch,
    ) -> Result<Option<Item>> {
        let item = self.make(key, start, slot, watch)?;
        match (&self.fold, slot) {
            (Some((meter, fold)), Some((group, position))) => {
                self.step(meter, key, |context| {
                    fold.place(group, *position, item, context)
                })?;
                Ok(None)
            }
            _ => Ok(Some(item)),
        }
    }

    /// Makes one item, or a replacement if it is damaged and its node may skip it; the key that
    /// comes back counts the attempts. `start` is an error if the read timed out before.
    pub(super) fn process(
        &self,
        mut key: Key,
        mut start: Result<Start>,
        mut slot: Option<Slot>,
        watch: &Watch,
    ) -> Result<Output, Failure> {
        loop {
            let error = match start.and_then(|start| self.attempt(key, start, &mut slot, watch)) {
                Ok(item) => return Ok((key, item)),
                // The driver has submitted a replacement and dropped this job's receiver.
                Err(error) if error.is::<ReadTimedOut>() => return Ok((key, None)),
                Err(error) => error,
            };
            let replacement = self.replacement(key, error)?;
            key.attempt += 1;
            start = Ok(Start::Sample(replacement));
        }
    }

    /// The replacement for a failed sample, if the failed node's `on_error` allows it.
    pub(super) fn replacement(&self, key: Key, error: anyhow::Error) -> Result<u32, Failure> {
        let blamed = match error.downcast_ref::<Blame>() {
            Some(Blame(meter)) => meter.clone(),
            None => self.lead.clone(),
        };
        let of = self.sample(key).zip(self.source());
        let item = of.map(|(sample, (_, source))| source.describe(sample));
        let failed = |error| Failure::new(blamed.node(), item.clone(), error);
        let budget = match self.on_error(&blamed) {
            OnError::Skip { budget } => budget,
            policy => {
                return Err(Failure {
                    budget: (policy == OnError::Fail).then_some(Budget::FIRST),
                    ..failed(error)
                });
            }
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
        let within = self.skipped.note(sample, skipped, allowed);
        // An error says that another process is lost, which is no fault of the item.
        if !within.map_err(|error| Failure::new(blamed.node(), None, error))? {
            let error = error.context(format!(
                "more than {allowed} of {samples} samples are damaged, the budget of `on_error`; \
                 repair or remove the files that the log names, or raise `Skip(budget: ...)`"
            ));
            return Err(Failure {
                budget: Some(budget.doubled()),
                ..failed(error)
            });
        }
        if key.attempt >= MAX_ATTEMPTS {
            return Err(failed(error.context(format!(
                "{MAX_ATTEMPTS} replacements drawn for it are damaged too; check the files of this \
                 source ({samples} samples)"
            ))));
        }
        blamed.counters().skipped.fetch_add(1, Relaxed);
        Ok(next)
    }

    /// The `on_error` of the failed node, here or upstream.
    pub(super) fn on_error(&self, blamed: &Meter) -> OnError {
        let failed = |meter: &Meter| meter.node() == blamed.node();
        match &self.head {
            Head::Source(meter, source) if failed(meter) => return source.on_error(),
            _ => {}
        }
        if let Some((_, map)) = self.maps.iter().find(|(meter, _)| failed(meter)) {
            return map.on_error();
        }
        match &self.head {
            Head::Channel(Some(upstream)) => upstream.on_error(blamed),
            _ => OnError::Refuse,
        }
    }
}

/// The sample at a position of an order; positions past the end wrap around, as shards may be padded.
pub(super) fn sample_at(order: &[u32], position: u64) -> Option<u32> {
    let position = position.checked_rem(order.len() as u64)?;
    order.get(position as usize).copied()
}

/// An error's causes in one line, without the node's name.
fn reason(error: &anyhow::Error) -> String {
    let blame = error.downcast_ref::<Blame>().map(ToString::to_string);
    let causes = error.chain().map(ToString::to_string);
    let causes: Vec<String> = causes
        .filter(|cause| Some(cause) != blame.as_ref())
        .collect();
    causes.join(": ")
}
