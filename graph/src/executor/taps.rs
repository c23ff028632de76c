//! What a caller adds to a plan's streams: other supplies for the inputs of threads, more readers.

use crate::stage::AnySink;

/// Replaces what an input of a thread gets, for measurements.
#[derive(Clone, Debug)]
pub struct Feed {
    pub node: String,
    pub port: &'static str,
    pub with: FeedWith,
}

/// What a [`Feed`] supplies. No ends of epochs are sent; [`crate::Options::epochs`] says how many
/// the sources run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedWith {
    /// The plan's items, epoch after epoch.
    Endless,
    /// The first N items, repeated; the nodes upstream may end.
    Replay(usize),
    /// Nothing; nodes that only lead there do not start.
    Nothing,
}

/// A reader that is not in the recipe.
pub struct Tap {
    pub node: String,
    /// Index of the node's output.
    pub output: usize,
    pub sink: Box<dyn AnySink>,
    /// Its name in errors.
    pub name: &'static str,
}
