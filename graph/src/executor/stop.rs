//! Ending a run before its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::runtime::Runtime;
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

/// Ctrl-C or SIGTERM: the first one says `words` and interrupts the run, a second one ends the
/// program at once. From when this returns on; where signals cannot be had, the default action stays.
pub(crate) fn on_signals(runtime: &Runtime, stop: Stop, words: &'static str) {
    let _runtime = runtime.enter();
    let Ok(mut signals) = Signals::listen() else {
        return;
    };
    runtime.spawn(async move {
        signals.next().await;
        eprintln!("{words}");
        tracing::info!("interrupted by a signal");
        stop.interrupt();
        signals.next().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
