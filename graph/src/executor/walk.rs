//! What feeds a segment: a walk through a source's epochs, or a channel.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use super::pool::PoolHandle;
use super::segment::{Start, sample_at};
use crate::item::{Key, Message};
use crate::ports::Inlet;
use crate::shard::Shard;
use crate::stage::{AnySource, Position};

/// What enters a segment next.
pub(super) enum Next {
    Start(Key, Start),
    EndOfEpoch(u64),
    /// The stream has ended.
    End,
}

pub(crate) enum Feed {
    Source(Walk),
    /// From another segment or a thread.
    Channel(Inlet),
}

/// A walk through a source's epochs.
pub(crate) struct Walk {
    pub source: Arc<dyn AnySource>,
    pub shard: Shard,
    pub pool: PoolHandle,
    /// Where the rest of the current epoch is dealt out from.
    pub start: Position,
    /// Items of that rest that were taken already.
    pub taken: u64,
    /// The first epoch that is not read.
    pub end: Option<u64>,
    pub order: Order,
}

/// The order of the current epoch. Drawn on the pool: a million samples take tens of milliseconds.
pub(crate) enum Order {
    Unknown,
    Drawing(oneshot::Receiver<Result<Vec<u32>>>),
    Known(Vec<u32>),
}

impl Feed {
    /// Cancel-safe: all state is in the feed before each await.
    pub(super) async fn next(&mut self) -> Result<Next> {
        match self {
            Feed::Channel(inlet) => Ok(match inlet.receive().await {
                Some(Message::Item(key, item)) => Next::Start(key, Start::Item(item)),
                Some(Message::EndOfEpoch(epoch)) => Next::EndOfEpoch(epoch),
                None => Next::End,
            }),
            Feed::Source(walk) => walk.next().await,
        }
    }
}

impl Walk {
    pub(super) async fn next(&mut self) -> Result<Next> {
        let Position { epoch, sample } = self.start;
        if self.end.is_some_and(|end| epoch >= end) {
            return Ok(Next::End);
        }
        loop {
            match &mut self.order {
                Order::Known(order) => {
                    let left = (order.len() as u64).saturating_sub(sample);
                    let index = self.shard.position(sample, left, self.taken);
                    let within = self.taken < self.shard.items(left);
                    let Some(sample) = sample_at(order, index).filter(|_| within) else {
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
                    let order = reply.await.context("the CPU pool ended before the run")??;
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
