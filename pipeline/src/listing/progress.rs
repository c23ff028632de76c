//! Progress messages of operations that take long.

use std::time::{Duration, Instant};

use rsflow_graph::PROGRESS;

/// Faster operations report nothing.
const FIRST_REPORT_AFTER: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Reports the progress of a long operation.
pub(super) struct Progress {
    next_report: Instant,
}

impl Progress {
    pub fn new() -> Self {
        Progress {
            next_report: Instant::now() + FIRST_REPORT_AFTER,
        }
    }

    /// Reports progress if it is due.
    pub fn report(&mut self, message: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            tracing::info!(target: PROGRESS, "{}", message());
        }
    }
}
