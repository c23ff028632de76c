//! What a run directory says, read again and again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use rsflow_base::run_files::{METRICS, NOW};
use rsflow_base::shown::{Shown as _, lines};

use super::picture::View;
use crate::now::Now;
use crate::now::writer::host as this_host;
use crate::run_dir::is_locked;
use crate::run_log::Follower;

/// A run directory, and what was read of it.
pub struct Watched {
    path: PathBuf,
    name: String,
    /// `None`: there is no file.
    now: Option<Now>,
    /// Since when it is as it is, by this machine's clock; `None` until it was seen to change.
    changed: Option<Instant>,
    log: Follower,
    /// Why a file cannot be read.
    problems: Vec<String>,
}

impl Watched {
    /// Nothing is read yet.
    pub fn new(path: &Path) -> Self {
        // `.` is no name.
        let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Watched {
            path: path.to_owned(),
            name: full.shown().into_owned(),
            now: None,
            changed: None,
            log: Follower::new(path),
            problems: Vec::new(),
        }
    }

    /// Reads what is new. What cannot be read is a problem to show, and may be well the next time.
    pub fn update(&mut self) {
        self.problems.clear();
        match Now::read(&self.path) {
            Ok(now) => {
                if self.now.is_some() && now != self.now {
                    self.changed = Some(Instant::now());
                }
                self.now = now;
            }
            Err(error) => {
                let error = lines(&format!("{error:#}")).into_owned();
                self.problems.push(format!("{NOW} cannot be read: {error}"));
            }
        }
        if let Err(error) = self.log.update() {
            self.problems
                .push(lines(&format!("{error:#}")).into_owned());
        }
    }

    /// What there is to draw at this time.
    pub fn view(&self, time: Timestamp) -> View<'_> {
        View {
            name: &self.name,
            now: self.now.as_ref(),
            // A lock is seen on its own machine only.
            was_killed: self.now.as_ref().is_some_and(|now| {
                !now.state.has_ended() && now.host == this_host() && !is_locked(&self.path)
            }),
            age: self.age(time),
            log: self.log.log(),
            problems: &self.problems,
            time,
        }
    }

    /// How old the newest of the files is. The clock of the machine that writes may be wrong, so it counts only
    /// until a change was seen.
    fn age(&self, time: Timestamp) -> Option<Duration> {
        if let Some(changed) = self.changed {
            return Some(changed.elapsed());
        }
        let written = self.now.as_ref().and_then(|now| now.written);
        let written = written.or_else(|| {
            let file = std::fs::metadata(self.path.join(METRICS)).ok()?;
            let modified: SystemTime = file.modified().ok()?;
            Timestamp::try_from(modified).ok()
        })?;
        Some(Duration::try_from(time.duration_since(written)).unwrap_or_default())
    }
}
