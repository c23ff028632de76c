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

/// Ctrl-C or SIGTERM: the first one says `words` and interrupts the run, a second one ends the program at once.
pub(crate) async fn on_signals(stop: Stop, words: &'static str) {
    let first = next_signal().await;
    if first.is_err() {
        return; // signals cannot be had here; the default action stays
    }
    eprintln!("{words}");
    tracing::info!("interrupted by a signal");
    stop.interrupt();
    let _ = next_signal().await;
    std::process::exit(130);
}

#[cfg(unix)]
async fn next_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn next_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
