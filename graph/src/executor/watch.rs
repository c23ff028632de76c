//! Taking an item away from a worker that is stuck in a read.
//!
//! A read of a disk that hangs cannot be ended. What can be done is to go on without the thread:
//! while it reads, the item's seat is kept here, and whoever takes it first has the item.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::item::Key;
use crate::stage::AnyGroup;

/// Where an item goes: a slot of a group.
pub(crate) type Seat = (AnyGroup, usize);

/// Watches over the reads of one item.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Option<Reading>>);

/// A read at work.
pub(crate) struct Reading {
    since: Instant,
    /// The thread that reads.
    pub worker: ThreadId,
    /// What is read.
    pub key: Key,
    /// Where it is to go.
    pub seat: Option<Seat>,
}

/// The item was taken away: nobody waits for it here any more.
#[derive(Debug)]
pub(crate) struct TakenAway;

impl std::fmt::Display for TakenAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the read took too long, and the run went on without it")
    }
}

impl std::error::Error for TakenAway {}

impl Watch {
    /// Reads, while the seat may be taken away.
    pub fn read<T>(
        &self,
        key: Key,
        seat: &mut Option<Seat>,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        *self.lock() = Some(Reading {
            since: Instant::now(),
            worker: std::thread::current().id(),
            key,
            seat: seat.take(),
        });
        let result = read();
        let reading = self.lock().take().ok_or(TakenAway)?;
        *seat = reading.seat;
        result
    }

    /// Takes the item away if its read has taken longer than `timeout`.
    pub fn take_if_late(&self, timeout: Duration) -> Option<Reading> {
        self.lock()
            .take_if(|reading| reading.since.elapsed() > timeout)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_comes_back_late_finds_its_seat_taken() {
        let key = Key {
            epoch: 0,
            index: 5,
            attempt: 1,
        };
        let group: AnyGroup = std::sync::Arc::new(());
        let watch = Watch::default();
        assert!(watch.take_if_late(Duration::ZERO).is_none());

        let mut seat = Some((group.clone(), 3));
        let long = Duration::from_secs(3600);
        watch
            .read(key, &mut seat, || {
                assert!(watch.take_if_late(long).is_none());
                Ok(())
            })
            .unwrap();
        assert!(seat.is_some(), "it is back in time");

        let late = watch.read(key, &mut seat, || {
            std::thread::sleep(Duration::from_millis(2));
            let reading = watch.take_if_late(Duration::from_millis(1)).unwrap();
            assert_eq!(reading.key, key);
            assert_eq!(reading.seat.unwrap().1, 3);
            assert_eq!(reading.worker, std::thread::current().id());
            Ok(())
        });
        assert!(late.unwrap_err().is::<TakenAway>());
        assert!(seat.is_none());
        assert_eq!(std::sync::Arc::strong_count(&group), 1);
    }
}
