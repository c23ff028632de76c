//! Timeouts of reads: takes an item from a worker that is stuck in a system call.
//!
//! A read of a disk that hangs cannot be cancelled, so its thread is given up. While it reads, the
//! item's slot is kept in its [`Watch`]; whoever takes the slot first, the worker that comes back
//! or the watchdog, owns the item.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::item::Key;
use crate::stage::AnyGroup;

/// A group, and the item's position in it.
pub(crate) type Slot = (AnyGroup, usize);

/// The read of one item, while it is under way.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Option<Reading>>);

pub(crate) struct Reading {
    since: Instant,
    pub worker: ThreadId,
    pub key: Key,
    pub slot: Option<Slot>,
}

/// The worker returned after the timeout: the item has been replaced, and this one is dropped.
#[derive(Debug)]
pub(crate) struct ReadTimedOut;

impl std::fmt::Display for ReadTimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the read took longer than `read_timeout`; the item was replaced")
    }
}

impl std::error::Error for ReadTimedOut {}

impl Watch {
    /// Reads. `slot` is kept in the watch meanwhile, where [`Watch::expire`] may take it.
    pub fn read<T>(
        &self,
        key: Key,
        slot: &mut Option<Slot>,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        *self.lock() = Some(Reading {
            since: Instant::now(),
            worker: std::thread::current().id(),
            key,
            slot: slot.take(),
        });
        let result = read();
        let reading = self.lock().take().ok_or(ReadTimedOut)?;
        *slot = reading.slot;
        result
    }

    /// Takes the item if its read has taken longer than `timeout`.
    pub fn expire(&self, timeout: Duration) -> Option<Reading> {
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
        assert!(watch.expire(Duration::ZERO).is_none());

        let mut slot = Some((group.clone(), 3));
        let long = Duration::from_secs(3600);
        watch
            .read(key, &mut slot, || {
                assert!(watch.expire(long).is_none());
                Ok(())
            })
            .unwrap();
        assert!(slot.is_some(), "it came back in time");

        let late = watch.read(key, &mut slot, || {
            std::thread::sleep(Duration::from_millis(2));
            let reading = watch.expire(Duration::from_millis(1)).unwrap();
            assert_eq!(reading.key, key);
            assert_eq!(reading.slot.unwrap().1, 3);
            assert_eq!(reading.worker, std::thread::current().id());
            Ok(())
        });
        assert!(late.unwrap_err().is::<ReadTimedOut>());
        assert!(slot.is_none());
        assert_eq!(std::sync::Arc::strong_count(&group), 1);
    }
}
