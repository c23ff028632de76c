//! What travels along a stream: typed values behind one type, each with the key that says which
//! sample of which epoch it is.

use std::any::Any;

use anyhow::{Context as _, Result};

/// A type of value that ports carry. The name is what users read in errors and in the catalogue.
///
/// `Clone` serves outputs with several readers and must be cheap: share large contents.
pub trait Payload: Clone + Send + 'static {
    /// The port type's name, such as `batches`.
    const NAME: &'static str;

    /// Bytes of data that making it took or gave, for the node's figures: those of a file that was
    /// read, of pixels that were written. 0 for what only says what is to be done.
    fn bytes(&self) -> u64 {
        0
    }
}

/// A value on its way between two nodes.
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
    /// Wraps a value.
    pub fn new<T: Payload>(value: T) -> Self {
        Item(Box::new(value))
    }

    /// See [`Payload::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The value. The plan has matched the types of both ports, so an error here means that a
    /// node kind declares another type than it sends.
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

/// Which item this is: all randomness and order derive from it.
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

/// What a channel carries.
#[derive(Clone)]
pub enum Message {
    /// One item.
    Item(Key, Item),
    /// Every item of this epoch has been sent.
    EndOfEpoch(u64),
}
