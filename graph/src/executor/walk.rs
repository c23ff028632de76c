//! What feeds a segment: a walk through a source's epochs, or a channel.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use super::pool::PoolHandle;
use super::segment::{Start, at};
use crate::item::{Key, Message};
use crate::ports::Inlet;
use crate::shard::Shard;
use crate::stage::{AnySource, Position};

/// What enters a segment next.
pub(super) enum Next {
    Start(Key, Start),
    EndOfEpoch(u64),
    Nothing,
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
    /// Where the rest of the epoch in hand is dealt out from.
    pub start: Position,
    /// Items of that rest that were taken already.
    pub taken: u64,
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
    pub(super) async fn next(&mut self) -> Result<Next> {
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
    pub(super) async fn next(&mut self) -> Result<Next> {
        let Position { epoch, sample } = self.start;
        if self.end.is_some_and(|end| epoch >= end) {
            return Ok(Next::Nothing);
        }
        loop {
            match &mut self.order {
                Order::Known(order) => {
                    let left = (order.len() as u64).saturating_sub(sample);
                    let index = self.shard.position(sample, self.taken);
                    let within = self.taken < self.shard.items(left);
                    let Some(sample) = at(order, index).filter(|_| within) else {
                        self.order = Order::Unknown;
                        self.start = Position {
                            epoch: epoch + 1,
                            sample: 0,
                        };
                        self.taken = 0;
                        return Ok(Next::EndOfEpoch(epoch));
                    };
                    self.taken += 1;
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
