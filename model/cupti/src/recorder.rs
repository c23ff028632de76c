//! A record of every kernel, copy and fill on NVIDIA GPUs, by CUPTI's activity API.
//!
//! CUPTI is NVIDIA's library for profilers. It is loaded only when a [`Recorder`] starts, and then stays
//! loaded: its threads may call back at any time.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use serde::Serialize;

mod buffers;
mod library;

use buffers::{GetNextRecord, Sink};
use library::Cupti;

/// How many activities a [`Recorder`] keeps. They take 48 bytes each: 960 MB.
const LIMIT: usize = 20_000_000;

/// Something that a GPU did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When it started, in nanoseconds of CUPTI's clock, whose zero means nothing.
    pub start: u64,
    /// When it ended, likewise.
    pub end: u64,
    /// The GPU, in CUDA's order.
    pub device: u32,
    pub what: What,
}

/// What a GPU did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Ran the kernel of this name, mangled as C++ compilers do. Kernels of one name share the text.
    Kernel(Arc<str>),
    /// Copied memory.
    Copy { kind: CopyKind, bytes: u64 },
    /// Filled memory with a value.
    Set { bytes: u64 },
}

/// From where to where memory was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyKind {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    HostToHost,
    /// From one GPU to another.
    PeerToPeer,
    /// CUPTI's number of another kind: copies of CUDA's arrays.
    Other(u8),
}

/// All that was recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    /// In no particular order.
    pub activities: Vec<Activity>,
    pub lost: Lost,
    /// The same moment by this process's clock, and by CUPTI's in nanoseconds.
    pub clocks: (Instant, u64),
}

impl Recording {
    /// A moment by CUPTI's clock, in nanoseconds.
    pub fn clock(&self, at: Instant) -> u64 {
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        let (instant, clock) = self.clocks;
        match at.checked_duration_since(instant) {
            Some(after) => clock.saturating_add(nanoseconds(after)),
            None => clock.saturating_sub(nanoseconds(instant - at)),
        }
    }
}

impl std::ops::Deref for Recording {
    type Target = [Activity];

    fn deref(&self) -> &[Activity] {
        &self.activities
    }
}

/// How many activities are missing in a [`Recording`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// CUPTI had no room for them.
    pub dropped: u64,
    /// They came after as many as a [`Recorder`] keeps, or after the memory ran out.
    pub over_limit: u64,
    /// CUPTI could not time them.
    pub untimed: u64,
    /// Buffers of CUPTI that ended in an unfinished record; what followed in them is unknown.
    pub cut_buffers: u64,
}

impl Lost {
    /// Whether anything is missing.
    pub fn any(&self) -> bool {
        *self != Lost::default()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} activities dropped by CUPTI, {} over the limit, {} without times, {} buffers cut short",
            self.dropped, self.over_limit, self.untimed, self.cut_buffers
        )
    }
}

/// Records what the GPUs do for this process, from [`Recorder::start`] to [`Recorder::stop`].
///
/// Kernels that CUDA graphs launch are seen one by one: the record of a kernel names the node of the graph
/// that launched it, unless a profiler asked CUPTI for whole graphs. Only one recorder can run at a time in a
/// process. Dropping one stops recording and discards the activities.
#[derive(Debug)]
pub struct Recorder {
    cupti: Cupti,
    /// Whether CUPTI may still record.
    running: bool,
    /// As [`Recording::clocks`].
    clocks: (Instant, u64),
}

impl Recorder {
    /// Loads CUPTI and starts to record, at most 20 million activities.
    ///
    /// # Errors
    /// CUPTI is missing, too old or too new, or refuses; another recorder is running.
    pub fn start() -> Result<Self> {
        Self::with_limit(LIMIT)
    }

    /// As [`Recorder::start`], but keeps at most `limit` activities. Further ones are counted.
    ///
    /// # Errors
    /// Likewise.
    pub fn with_limit(limit: usize) -> Result<Self> {
        let cupti = Cupti::find()?;
        cupti.check_version()?;
        let next = cupti.function::<GetNextRecord>("cuptiActivityGetNextRecord")?;
        claim(Sink::new(next, limit))?;
        // From here on, dropping it cleans up.
        let mut recorder = Recorder {
            cupti,
            running: true,
            clocks: (Instant::now(), 0),
        };
        recorder.cupti.register_callbacks()?;
        for kind in buffers::KINDS {
            recorder.cupti.set_enabled(kind, true)?;
        }
        recorder.clocks = (Instant::now(), recorder.cupti.now()?);
        Ok(recorder)
    }

    /// Stops, and waits until CUPTI has handed over its buffers. It does not wait for the GPU: synchronize
    /// that first, or what still runs is missing.
    ///
    /// # Errors
    /// CUPTI refuses; the activities are lost then.
    pub fn stop(mut self) -> Result<Recording> {
        for kind in buffers::KINDS {
            self.cupti.set_enabled(kind, false)?;
        }
        self.cupti.flush()?;
        let dropped = self.cupti.dropped()?;
        let sink = sink().take();
        self.running = false;
        let sink = sink.ok_or_else(|| anyhow!("the recorded activities are gone"))?;
        let (activities, lost, failure) = sink.finish();
        if let Some(code) = failure {
            bail!(self.cupti.error("cuptiActivityGetNextRecord", code));
        }
        Ok(Recording {
            activities,
            lost: Lost { dropped, ..lost },
            clocks: self.clocks,
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.running {
            return;
        }
        // What CUPTI still has must not reach the next recorder, so it comes here, and goes with the sink. There is
        // nobody to report errors to.
        for kind in buffers::KINDS {
            let _ = self.cupti.set_enabled(kind, false);
        }
        let _ = self.cupti.flush();
        let _ = self.cupti.dropped(); // CUPTI counts from zero again
        *sink() = None;
    }
}

/// Where the callbacks put the activities of the recorder that is running: CUPTI gives them no pointer of the
/// caller's.
static SINK: Mutex<Option<Sink>> = Mutex::new(None);

fn sink() -> MutexGuard<'static, Option<Sink>> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a recorder the one that is running.
fn claim(new: Sink) -> Result<()> {
    let mut sink = sink();
    ensure!(
        sink.is_none(),
        "the GPU's activities are already being recorded in this process; help: stop the other recorder first"
    );
    *sink = Some(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_is_as_small_as_the_limit_says() {
        assert_eq!(size_of::<Activity>(), 48);
    }
}
