//! Ending a run before its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// Shared by all parts of a running graph.
#[derive(Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Stop {
    /// The user wants the run to end: the step in hand is finished and a checkpoint written.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Relaxed);
        self.token.cancel();
    }

    /// Whether it was the user who ended the run.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// A node has failed.
    pub(crate) fn abort(&self) {
        self.token.cancel();
    }

    pub(crate) fn requested(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(crate) async fn wait(&self) {
        self.token.cancelled().await;
    }
}
