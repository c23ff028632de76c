//! The items of streams: values of any [`Payload`] type, each with a key (epoch, index, attempt).

use std::any::Any;

use anyhow::{Context as _, Result};

/// A type of value that ports carry.
///
/// `Clone` is for outputs with several readers and must be cheap: share large contents.
pub trait Payload: Clone + Send + 'static {
    /// The name in errors and in the catalogue, such as `batches`.
    const NAME: &'static str;

    /// Bytes for the node's figures: of the file that was read, of the pixels that were written. 0 for
    /// values that only describe deferred work.
    fn bytes(&self) -> u64 {
        0
    }
}

/// A [`Payload`] without its type.
pub struct Item(Box<dyn Carried>);

trait Carried: Send {
    fn duplicate(&self) -> Box<dyn Carried>;
    fn bytes(&self) -> u64;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Payload> Carried for T {
    fn duplicate(&self) -> Box<dyn Carried> {
        Box::new(self.clone())
    }

    fn bytes(&self) -> u64 {
        Payload::bytes(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Item {
    pub fn new<T: Payload>(value: T) -> Self {
        Item(Box::new(value))
    }

    /// See [`Payload::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The value. The plan has matched the types of both ports, so this fails only where a node kind
    /// declares another type than it sends.
    pub fn take<T: Payload>(self) -> Result<T> {
        self.0
            .into_any()
            .downcast()
            .map(|value| *value)
            .ok()
            .with_context(|| format!("the item is not of the declared type `{}`", T::NAME))
    }
}

impl Clone for Item {
    fn clone(&self) -> Self {
        Item(self.0.duplicate())
    }
}

/// Identifies an item: order and randomness derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Counted from 0.
    pub epoch: u64,
    /// Position in the epoch's order, counted from 0: that of all processes, whichever of them reads
    /// the item.
    pub index: u64,
    /// 0, or the number of samples that failed in this position before.
    pub attempt: u32,
}

#[derive(Clone)]
pub enum Message {
    Item(Key, Item),
    /// All items of this epoch have been sent.
    EndOfEpoch(u64),
}
