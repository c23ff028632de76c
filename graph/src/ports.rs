//! The ends of streams: bounded channels; both ends measure how long they wait.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::counters::{Meter, add_elapsed};
use crate::item::{Item, Key, Message, Payload};
use crate::stop::Stop;

/// All readers of an output are gone: the writer ends, without an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closed;

/// A node's output: one channel for each reader.
pub(crate) struct Outlet {
    pub readers: Vec<mpsc::Sender<Message>>,
    pub meter: Meter,
}

impl Outlet {
    /// Waits for room. Fails when no reader is left.
    pub async fn send(&mut self, message: Message) -> Result<(), Closed> {
        let start = Instant::now();
        let mut message = Some(message);
        let mut position = 0;
        while position < self.readers.len() {
            let last = position + 1 == self.readers.len();
            let copy = if last {
                message.take()
            } else {
                message.clone()
            };
            let Some(copy) = copy else { break };
            // A reader that has ended is dropped; the others still get the message.
            if self.readers[position].send(copy).await.is_err() {
                self.readers.remove(position);
            } else {
                position += 1;
            }
        }
        add_elapsed(&self.meter.counters().wait_output, start);
        if self.readers.is_empty() {
            Err(Closed)
        } else {
            Ok(())
        }
    }

    fn has_room(&self) -> bool {
        self.readers.iter().all(|reader| reader.capacity() > 0)
    }
}

/// A node's input.
pub(crate) struct Inlet {
    pub channel: mpsc::Receiver<Message>,
    pub meter: Meter,
    pub supply: Supply,
}

/// What an inlet delivers of its channel.
pub(crate) enum Supply {
    /// All messages.
    Stream,
    /// Items only: epochs have no end.
    Endless,
    /// The first `of` items, repeated. The channel is closed once they are there.
    Replay {
        kept: Vec<Message>,
        of: usize,
        next: usize,
    },
}

impl Supply {
    pub fn replay(of: usize) -> Self {
        Supply::Replay {
            kept: Vec::new(),
            of: of.max(1),
            next: 0,
        }
    }
}

impl Inlet {
    /// The next message; `None` when the writer has ended. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Message> {
        if let Supply::Replay { kept, of, next } = &mut self.supply
            && kept.len() == *of
        {
            let message = kept.get(*next).cloned();
            *next = (*next + 1) % *of;
            return message;
        }
        loop {
            let message = self.take_one().await;
            match (&mut self.supply, &message) {
                (Supply::Stream, _) | (_, None) => return message,
                (Supply::Endless, Some(Message::Item(..))) => return message,
                (Supply::Endless, Some(Message::EndOfEpoch(_))) => {}
                (Supply::Replay { kept, of, .. }, Some(Message::Item(..))) => {
                    kept.extend(message.clone());
                    if kept.len() == *of {
                        self.channel.close();
                    }
                    return message;
                }
                (Supply::Replay { .. }, Some(Message::EndOfEpoch(_))) => {}
            }
        }
    }

    async fn take_one(&mut self) -> Option<Message> {
        self.meter
            .sample_queue(self.channel.len(), self.channel.max_capacity());
        let start = Instant::now();
        let message = self.channel.recv().await;
        add_elapsed(&self.meter.counters().wait_input, start);
        message
    }

    /// Waits for a message and takes all that are in the channel. Empty when the writer has ended.
    pub async fn receive_all(&mut self) -> Vec<Message> {
        self.meter
            .sample_queue(self.channel.len(), self.channel.max_capacity());
        let start = Instant::now();
        let mut messages = Vec::new();
        self.channel
            .recv_many(&mut messages, self.channel.max_capacity())
            .await;
        add_elapsed(&self.meter.counters().wait_input, start);
        messages
    }
}

/// Inputs and outputs of a [`crate::Thread`], and the stop flag.
pub struct Ports {
    pub(crate) inputs: Vec<(&'static str, Inlet)>,
    pub(crate) outputs: Vec<(&'static str, Outlet)>,
    pub(crate) stop: Stop,
    pub(crate) runtime: Handle,
    pub(crate) clock: WorkClock,
}

/// When the thread last returned from waiting at any input, and with which item: the time since
/// then is its own work.
#[derive(Clone)]
pub(crate) struct WorkClock(Arc<Mutex<(Instant, Option<Key>)>>);

impl WorkClock {
    pub fn start() -> Self {
        WorkClock(Arc::new(Mutex::new((Instant::now(), None))))
    }

    fn lock(&self) -> MutexGuard<'_, (Instant, Option<Key>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ports {
    /// Takes the input of that port; `None` if the recipe does not connect it.
    pub fn input<T: Payload>(&mut self, port: &str) -> Option<Receiver<T>> {
        let position = self.inputs.iter().position(|(name, _)| *name == port)?;
        let (_, inlet) = self.inputs.swap_remove(position);
        Some(Receiver {
            inlet,
            stop: self.stop.clone(),
            runtime: self.runtime.clone(),
            clock: self.clock.clone(),
            carries: PhantomData,
        })
    }

    /// Takes the output of that port. Without readers, what is sent is dropped.
    pub fn output<T: Payload>(&mut self, port: &str) -> Sender<T> {
        let position = self.outputs.iter().position(|(name, _)| *name == port);
        Sender {
            outlet: position.map(|position| self.outputs.swap_remove(position).1),
            runtime: self.runtime.clone(),
            carries: PhantomData,
        }
    }

    /// Whether to stop: the user asked for it, or another node has failed. The thread finishes its
    /// current step and sends its last checkpoint; the sinks still receive.
    pub fn stopping(&self) -> bool {
        self.stop.requested()
    }
}

pub enum Received<T> {
    Item(Key, T),
    /// All items of this epoch have been received.
    EndOfEpoch(u64),
    /// The stream has ended: the run stops, or an upstream node has failed.
    Closed,
}

/// A thread's input.
pub struct Receiver<T> {
    inlet: Inlet,
    stop: Stop,
    runtime: Handle,
    clock: WorkClock,
    carries: PhantomData<fn() -> T>,
}

impl<T: Payload> Receiver<T> {
    pub fn receive(&mut self) -> Result<Received<T>> {
        let meter = self.inlet.meter.clone();
        let (since, item) = *self.clock.lock();
        meter.worked(since, item);
        let message = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.wait() => None,
                message = self.inlet.receive() => message,
            }
        });
        let item = match &message {
            Some(Message::Item(key, _)) => Some(*key),
            _ => None,
        };
        *self.clock.lock() = (Instant::now(), item);
        Ok(match message {
            Some(Message::Item(key, item)) => {
                let counter = &meter.counters().items;
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Received::Item(key, item.take()?)
            }
            Some(Message::EndOfEpoch(epoch)) => Received::EndOfEpoch(epoch),
            None => Received::Closed,
        })
    }
}

/// A thread's output.
pub struct Sender<T> {
    outlet: Option<Outlet>,
    runtime: Handle,
    carries: PhantomData<fn(T)>,
}

impl<T: Payload> Sender<T> {
    /// Sends, waiting for room. Without readers the value is dropped: a reader that failed ends the
    /// run by itself.
    pub fn send(&mut self, value: T) {
        let Some(outlet) = &mut self.outlet else {
            return;
        };
        let message = Message::Item(
            Key {
                epoch: 0,
                index: 0,
                attempt: 0,
            },
            Item::new(value),
        );
        let _ = self.runtime.block_on(outlet.send(message));
    }

    /// Whether [`Sender::send`] would not wait.
    pub fn has_room(&self) -> bool {
        self.outlet.as_ref().is_none_or(Outlet::has_room)
    }
}
