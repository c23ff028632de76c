//! Stages, the running form of nodes: source, map, fold, thread, sink.
//!
//! A kind implements one of the typed traits and wraps it in a [`Stage`]; the executor sees untyped
//! items. A stage spawns nothing and queues nothing: threads, concurrency and queues belong to the
//! executor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_base::keyed::random;
use serde::{Deserialize, Serialize};

use crate::counters::{Meter, WorksOn};
use crate::item::{Item, Key, Payload};
use crate::ports::Ports;
use crate::shard::Shard;

pub enum Stage {
    /// See [`Source`].
    Source(Arc<dyn AnySource>),
    /// See [`Map`].
    Map(Arc<dyn AnyMap>),
    /// See [`Fold`].
    Fold(Arc<dyn AnyFold>),
    /// See [`Thread`].
    Thread(Box<dyn Thread>),
    /// See [`Sink`].
    Sink(Box<dyn AnySink>),
}

/// What is known of a stream's data once its source has been opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Items in each epoch: of all processes where a source says it, of this process in what a node gets.
    pub items_per_epoch: u64,
    /// Samples of the source in each epoch, those of all processes together. The executor fills it in.
    pub samples: u64,
    /// Which of them are this process's. The executor fills it in.
    pub shard: Shard,
    /// Class names in the order of their indices.
    pub classes: Arc<[String]>,
    /// This process's items in a full group, where items are groups (batches); else 1.
    pub group: u64,
    /// This process's items in the last group of an epoch, where items are groups (batches); else 1.
    pub last_group: u64,
    /// What a user knows the data by: the folder or archive.
    pub origin: String,
    /// A hash of the names of classes and samples, in their order; `None` where a source has no names.
    pub names_hash: Option<u64>,
    /// The names themselves.
    pub sample_names: SampleNames,
}

/// The names of a source's samples, made when they are asked for.
#[derive(Clone, Default)]
pub struct SampleNames(Option<Arc<dyn Fn(u64) -> Vec<String> + Send + Sync>>);

impl SampleNames {
    /// `of` has those of an epoch, in its order.
    pub fn new(of: impl Fn(u64) -> Vec<String> + Send + Sync + 'static) -> Self {
        SampleNames(Some(Arc::new(of)))
    }

    /// Those of an epoch, in its order, of all processes; `None` where a source has none.
    pub fn of_epoch(&self, epoch: u64) -> Option<Vec<String>> {
        Some(self.0.as_ref()?(epoch))
    }
}

impl std::fmt::Debug for SampleNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SampleNames")
            .field(&self.0.is_some())
            .finish()
    }
}

/// Whether there are some: what they are, [`Contents::names_hash`] says.
impl PartialEq for SampleNames {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() == other.0.is_some()
    }
}

impl Contents {
    /// Positions in each epoch that are dealt out to the processes.
    pub(crate) fn dealt(&self) -> u64 {
        match self.shard.world {
            1 => self.items_per_epoch,
            _ => self.samples,
        }
    }
}

/// Where a stream is to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Counted from 0.
    pub epoch: u64,
    /// Samples of that epoch's order that are not wanted again, by any process.
    pub sample: u64,
}

/// The policy for damaged items.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum OnError {
    /// The run fails, and nodes of this kind offer nothing else.
    #[default]
    Refuse,
    /// The run fails; the recipe may say `Skip` in place of it.
    Fail,
    /// The item is logged and replaced by another sample.
    Skip { budget: Budget },
}

/// How many different samples a node may skip in a run. A sample that is skipped in several epochs
/// counts once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Budget {
    Count(u64),
    /// Of the source's samples, 0 to 1.
    Share(f64),
}

/// As a recipe has it.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Count(count) => write!(f, "{count}"),
            Budget::Share(share) => write!(f, "{share:?}"),
        }
    }
}

impl Budget {
    /// What to begin with.
    pub(crate) const FIRST: Budget = Budget::Share(0.01);

    /// Twice as much.
    pub(crate) fn doubled(self) -> Self {
        match self {
            Budget::Count(count) => Budget::Count(count.saturating_mul(2).max(1)),
            Budget::Share(share) => Budget::Share((2.0 * share).clamp(0.01, 1.0)),
        }
    }

    /// The budget for `samples` samples. A share is rounded down, but allows at least one if above 0.
    pub(crate) fn of(self, samples: u64) -> u64 {
        match self {
            Budget::Count(count) => count,
            Budget::Share(share) if share > 0.0 => {
                // 0.29 * 100 is a little less than 29.
                ((share * samples as f64 + 1e-6) as u64).max(1)
            }
            Budget::Share(_) => 0,
        }
    }
}

/// What a stage knows about the current item.
pub struct Context<'a> {
    /// Which item it is.
    pub key: Key,
    /// Name of the node.
    pub node: &'a str,
    pub meter: &'a Meter,
    pub(crate) seed: u64,
}

impl Context<'_> {
    /// A generator for this item, node and purpose, independent of threads and of other draws.
    pub fn random(&self, purpose: &str) -> Xoshiro256PlusPlus {
        let Key {
            epoch,
            index,
            attempt,
        } = self.key;
        random(
            self.seed,
            self.node,
            purpose,
            &[epoch, index, attempt.into()],
        )
    }
}

/// A list of samples that can be fetched in any order, by many threads.
///
/// Random access keeps resuming, replacing a damaged sample and independence of the number of workers
/// simple: the stream is `order(epoch)` and nothing else.
pub trait Source: Send + Sync + 'static {
    type Out: Payload;

    fn contents(&self) -> Contents;

    /// The order of the samples in an epoch: a permutation of `0..items_per_epoch`.
    fn order(&self, epoch: u64) -> Vec<u32>;

    /// Reads one sample. Called on a pool thread; may block on a disk.
    fn fetch(&self, sample: u32, context: &Context) -> Result<Self::Out>;

    /// A name for messages: the path.
    fn describe(&self, sample: u32) -> String;

    /// The policy for samples that cannot be fetched.
    fn on_error(&self) -> OnError {
        OnError::Refuse
    }

    /// How long a fetch may take before it counts as failed; `None`: no limit. A sample that took longer
    /// once is not fetched again in the run.
    fn read_timeout(&self) -> Option<Duration> {
        None
    }

    /// Whether every process of a run reads equally many samples, for which the last ones start again
    /// at the beginning of the order. For what is trained on: all take the same steps. Without it no
    /// sample is read twice. [`Source::contents`] and [`Source::order`] are those of all processes.
    fn pads(&self) -> bool {
        false
    }
}

/// One item in, one item out; many run at once and order is kept.
pub trait Map: Send + Sync + 'static {
    type In: Payload;
    type Out: Payload;

    /// Called on a pool thread. The result must depend on the item and the context only.
    fn apply(&self, item: Self::In, context: &Context) -> Result<Self::Out>;

    /// The policy for items that fail here.
    fn on_error(&self) -> OnError {
        OnError::Refuse
    }
}

/// Gathers consecutive items of an epoch into groups, each item into its own slot.
///
/// The slots of a group are filled in parallel, each by the worker that made the item; groups leave
/// in order. The last group of an epoch may be smaller.
pub trait Fold: Send + Sync + 'static {
    type In: Payload;
    /// A group that is being filled.
    type Group: Send + Sync + 'static;
    type Out: Payload;

    /// This process's items in a full group; at least 1.
    fn group(&self) -> usize;

    /// Whether a last group that is not full is dropped.
    fn drop_last(&self) -> bool {
        false
    }

    /// How many finished groups may wait for the reader.
    fn prefetch(&self) -> usize {
        2
    }

    /// Starts a group of an epoch.
    fn open(&self, items: usize, epoch: u64) -> Result<Self::Group>;

    /// Puts an item into its slot. Called again for the same slot after an error.
    fn place(
        &self,
        group: &Self::Group,
        slot: usize,
        item: Self::In,
        context: &Context,
    ) -> Result<()>;

    /// Finishes a group whose slots are all filled.
    fn close(&self, group: Self::Group) -> Result<Self::Out>;
}

/// A node with its own OS thread, where it may block.
pub trait Thread: Send {
    /// Returns when it has finished, or soon after [`Ports::stopping`].
    fn run(self: Box<Self>, ports: Ports) -> Result<()>;

    /// How many epochs it reads, if known; the sources then end by themselves.
    fn epochs(&self) -> Option<u64> {
        None
    }

    /// How many of the machine's `cores` it keeps busy. By default the workers get the others.
    fn cores(&self, _cores: usize) -> usize {
        0
    }

    /// The position of a port's first item.
    fn start(&self, _port: &str) -> Position {
        Position::default()
    }
}

/// Consumes items. Called on a thread where blocking is allowed; its source waits only when the queue
/// between them is full.
pub trait Sink: Send + 'static {
    type In: Payload;

    fn accept(&mut self, item: Self::In) -> Result<()>;

    /// All items of the epoch have been accepted.
    fn end_of_epoch(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// Called once, after the last item.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Capacity of the queue in front of it.
    fn queue(&self) -> usize {
        64
    }
}

impl Stage {
    pub(crate) fn works_on(&self) -> WorksOn {
        match self {
            Stage::Source(_) | Stage::Map(_) | Stage::Fold(_) => WorksOn::Workers,
            Stage::Thread(_) => WorksOn::Thread,
            Stage::Sink(_) => WorksOn::Sink,
        }
    }

    pub fn source(source: impl Source) -> Self {
        Stage::Source(Arc::new(source))
    }

    pub fn map(map: impl Map) -> Self {
        Stage::Map(Arc::new(map))
    }

    pub fn fold(fold: impl Fold) -> Self {
        Stage::Fold(Arc::new(fold))
    }

    pub fn thread(thread: impl Thread + 'static) -> Self {
        Stage::Thread(Box::new(thread))
    }

    pub fn sink(sink: impl Sink) -> Self {
        Stage::Sink(Box::new(sink))
    }
}

// The same traits without types, for the executor.

/// [`Source`] without its type.
pub trait AnySource: Send + Sync {
    #[doc(hidden)]
    fn contents(&self) -> Contents;
    #[doc(hidden)]
    fn order(&self, epoch: u64) -> Vec<u32>;
    #[doc(hidden)]
    fn fetch(&self, sample: u32, context: &Context) -> Result<Item>;
    #[doc(hidden)]
    fn describe(&self, sample: u32) -> String;
    #[doc(hidden)]
    fn on_error(&self) -> OnError;
    #[doc(hidden)]
    fn read_timeout(&self) -> Option<Duration>;
    #[doc(hidden)]
    fn pads(&self) -> bool;
}

impl<S: Source> AnySource for S {
    fn contents(&self) -> Contents {
        Source::contents(self)
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        Source::order(self, epoch)
    }

    fn fetch(&self, sample: u32, context: &Context) -> Result<Item> {
        Source::fetch(self, sample, context).map(Item::new)
    }

    fn describe(&self, sample: u32) -> String {
        Source::describe(self, sample)
    }

    fn on_error(&self) -> OnError {
        Source::on_error(self)
    }

    fn read_timeout(&self) -> Option<Duration> {
        Source::read_timeout(self)
    }

    fn pads(&self) -> bool {
        Source::pads(self)
    }
}

/// [`Map`] without its types.
pub trait AnyMap: Send + Sync {
    #[doc(hidden)]
    fn apply(&self, item: Item, context: &Context) -> Result<Item>;
    #[doc(hidden)]
    fn on_error(&self) -> OnError;
}

impl<M: Map> AnyMap for M {
    fn apply(&self, item: Item, context: &Context) -> Result<Item> {
        Map::apply(self, item.take()?, context).map(Item::new)
    }

    fn on_error(&self) -> OnError {
        Map::on_error(self)
    }
}

/// A group of any fold.
#[doc(hidden)]
pub type AnyGroup = Arc<dyn std::any::Any + Send + Sync>;

/// [`Fold`] without its types.
pub trait AnyFold: Send + Sync {
    #[doc(hidden)]
    fn group(&self) -> usize;
    #[doc(hidden)]
    fn drop_last(&self) -> bool;
    #[doc(hidden)]
    fn prefetch(&self) -> usize;
    #[doc(hidden)]
    fn open(&self, items: usize, epoch: u64) -> Result<AnyGroup>;
    #[doc(hidden)]
    fn place(&self, group: &AnyGroup, slot: usize, item: Item, context: &Context) -> Result<()>;
    #[doc(hidden)]
    fn close(&self, group: AnyGroup) -> Result<Item>;
}

const OTHER_GROUP: &str = "the group belongs to another fold, or is still being filled";

impl<F: Fold> AnyFold for F {
    fn group(&self) -> usize {
        Fold::group(self).max(1)
    }

    fn drop_last(&self) -> bool {
        Fold::drop_last(self)
    }

    fn prefetch(&self) -> usize {
        Fold::prefetch(self)
    }

    fn open(&self, items: usize, epoch: u64) -> Result<AnyGroup> {
        Ok(Arc::new(Fold::open(self, items, epoch)?))
    }

    fn place(&self, group: &AnyGroup, slot: usize, item: Item, context: &Context) -> Result<()> {
        let group = group
            .downcast_ref::<F::Group>()
            .ok_or_else(|| anyhow::anyhow!(OTHER_GROUP))?;
        Fold::place(self, group, slot, item.take()?, context)
    }

    fn close(&self, group: AnyGroup) -> Result<Item> {
        let group = group
            .downcast::<F::Group>()
            .ok()
            .and_then(Arc::into_inner)
            .ok_or_else(|| anyhow::anyhow!(OTHER_GROUP))?;
        Fold::close(self, group).map(Item::new)
    }
}

/// [`Sink`] without its type.
pub trait AnySink: Send {
    #[doc(hidden)]
    fn accept(&mut self, item: Item) -> Result<()>;
    #[doc(hidden)]
    fn end_of_epoch(&mut self, epoch: u64) -> Result<()>;
    #[doc(hidden)]
    fn finish(&mut self) -> Result<()>;
    #[doc(hidden)]
    fn queue(&self) -> usize;
}

impl<S: Sink> AnySink for S {
    fn accept(&mut self, item: Item) -> Result<()> {
        Sink::accept(self, item.take()?)
    }

    fn end_of_epoch(&mut self, epoch: u64) -> Result<()> {
        Sink::end_of_epoch(self, epoch)
    }

    fn finish(&mut self) -> Result<()> {
        Sink::finish(self)
    }

    fn queue(&self) -> usize {
        Sink::queue(self).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_to_one_sample_at_least() {
        for (share, samples, count) in [
            (0.0, 100, 0),
            (0.001, 500, 1),
            (0.001, 1_281_167, 1281),
            (0.29, 100, 29),
            (0.999, 100, 99),
            (1.0, 100, 100),
        ] {
            assert_eq!(Budget::Share(share).of(samples), count, "{share} {samples}");
        }
        assert_eq!(Budget::Count(7).of(3), 7);
    }
}
