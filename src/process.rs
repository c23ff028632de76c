//! Effects on the process as a whole: signals, stderr, the environment, what libtorch and malloc keep,
//! and the log. The libraries have none of them: they return values, and report by `tracing`.

use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rsflow_graph::{Options, PROGRESS, Plan, RunError, Running, Stop};
use rsflow_model::nn::compute::{self, ProcessSettings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::progress::Screen;

/// Exit code: the recipe or the command line is wrong.
pub const WRONG: u8 = 2;
/// Exit code: the user ended the run.
pub const INTERRUPTED: u8 = 130;

/// A line on stderr. If that is a pipe that nobody reads any more, the line is lost and nothing else
/// happens (`eprintln!` would panic).
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Sets what computing needs of the process. Before any thread is started, so before a device is
/// opened and a run begins.
#[allow(unsafe_code)]
pub fn prepare(settings: Option<ProcessSettings>) -> Result<()> {
    let Some(settings) = settings else {
        return Ok(());
    };
    if let Some((name, value)) = settings.environment()
        && std::env::var_os(name).is_none()
    {
        debug_assert!(threads().is_none_or(|threads| threads == 1));
        // SAFETY: no other thread reads the environment at the same time, since there is none.
        unsafe { std::env::set_var(name, value) };
    }
    compute::apply(&settings)
}

/// The number of threads of this process; known on Linux only.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Starts a run that Ctrl-C and SIGTERM interrupt: at the first one `message` is printed and the run
/// finishes its step, a second one ends the program at once. Until the run has started, the first one
/// ends the program.
pub fn start(plan: &Plan, options: Options, message: &'static str) -> Result<Running, RunError> {
    let running = Running::start(plan, options)?;
    // Without signals the default action stays, which ends the program at the first one.
    if let Err(error) = interrupt_on_signals(running.stop(), message) {
        tracing::warn!("cannot listen to signals: {error}");
    }
    Ok(running)
}

/// Listens from when this returns on, on a thread of its own, to the end of the program.
fn interrupt_on_signals(stop: Stop, message: &'static str) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _runtime = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]
    };
    let listen = async move {
        next(&mut signals).await;
        stop.interrupt();
        // On another thread: where stderr is a pipe that is full, printing waits, and the second
        // signal must not.
        tokio::task::spawn_blocking(move || {
            say(message);
            tracing::info!("interrupted by a signal");
        });
        next(&mut signals).await;
        exit_at_once(INTERRUPTED);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listen))?;
    Ok(())
}

/// Ends the program without destructors of static objects: other threads still compute, and libtorch
/// crashes where its globals go away below them.
#[allow(unsafe_code)]
fn exit_at_once(code: u8) -> ! {
    // SAFETY: does not return, and touches no memory of ours.
    unsafe { libc::_exit(code.into()) }
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Sends the program's log to a file, if one is given, and to the screen its warnings and what the
/// libraries report of slow work.
pub fn log(file: Option<&Path>, screen: &Screen) -> Result<()> {
    let file = file.map(|path| {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))
    });
    let to_file = file.transpose()?.map(|file| {
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::INFO.into())
            .with_env_var("RSFLOW_LOG")
            .from_env_lossy();
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(file)
            .with_filter(filter)
    });
    let on_screen = |screen: &Screen| {
        let screen = screen.clone();
        move || screen.clone()
    };
    let warnings = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .with_writer(on_screen(screen))
        // Errors are printed when the run ends, with all of their causes. What it computes on is worth
        // to be seen at once.
        .with_filter(filter_fn(|metadata| {
            let computes = metadata.target().starts_with("rsflow_model::nn::compute");
            *metadata.level() == Level::WARN || *metadata.level() == Level::INFO && computes
        }));
    let progress = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_level(false)
        .with_writer(on_screen(screen))
        .with_filter(filter_fn(|metadata| metadata.target() == PROGRESS));
    // A second run in one process (a test) keeps the first one's log.
    let _ = tracing_subscriber::registry()
        .with(to_file)
        .with(warnings)
        .with(progress)
        .try_init();
    Ok(())
}
