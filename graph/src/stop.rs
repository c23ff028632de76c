//! Stopping a run early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// A flag that all parts of a running graph share.
#[derive(Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Stop {
    /// Stops at the user's request: the trainer finishes its step and writes a checkpoint.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Relaxed);
        self.token.cancel();
    }

    /// Whether the user stopped the run.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Stops because a node has failed.
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
