//! Ctrl-C and SIGTERM.

use tokio::runtime::Runtime;

use crate::say::say;
use crate::stop::Stop;

/// Handles Ctrl-C and SIGTERM: the first one prints `words` and interrupts the run, the second one
/// ends the process. Where handlers cannot be installed, the default action stays.
pub(super) fn on_signals(runtime: &Runtime, stop: Stop, words: &'static str) {
    let _runtime = runtime.enter();
    let Ok(mut signals) = Signals::listen() else {
        return;
    };
    runtime.spawn(async move {
        signals.next().await;
        stop.interrupt();
        say(words);
        tracing::info!("interrupted by a signal");
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
