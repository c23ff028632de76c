//! Saying that something takes long.

use std::time::{Duration, Instant};

use rsflow_graph::say;

/// Nothing is said of what is done sooner.
const PATIENCE: Duration = Duration::from_secs(1);
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Tells on stderr how far something is, if it takes long.
pub(super) struct Slow {
    next_line: Instant,
}

impl Slow {
    pub fn new() -> Self {
        Slow {
            next_line: Instant::now() + PATIENCE,
        }
    }

    /// So far it is.
    pub fn at(&mut self, words: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next_line {
            self.next_line = now + BETWEEN_LINES;
            say(words());
        }
    }
}
