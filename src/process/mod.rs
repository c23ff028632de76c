//! Effects on the process as a whole: signals, stderr, the environment, what libtorch and malloc keep,
//! and the log. The libraries have none of them: they return values, and report by `tracing`.

mod side_by_side;
mod supervisor;
pub mod terminal;

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ, c_int};
use rsflow_base::shown::Shown as _;
use rsflow_base::shown::lines;
use rsflow_graph::{Options, PROGRESS, Plan, Running, Stop, World};
use rsflow_model::nn::compute::{self, ProcessSettings};
use signal_hook::iterator::Signals;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::progress::Screen;

pub use side_by_side::{Ended, Shares, SideBySide};
pub use supervisor::supervise;

/// Exit code: the recipe or the command line is wrong, whatever the data.
pub const WRONG: u8 = 2;
/// Exit code: the user ended the run.
pub const INTERRUPTED: u8 = 130;

/// A line on stderr, control characters in it escaped. If that is a pipe that nobody reads any more, the line is lost and nothing else
/// happens (`eprintln!` would panic).
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", lines(&line.to_string()));
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

/// Sets what libtorch's NCCL reads of the environment, where there are several processes: by default it ends
/// the process when an exchange fails, before anybody has said why. Before any thread is started.
#[allow(unsafe_code)]
pub fn prepare_exchange(world: World) {
    if world.size == 1 {
        return;
    }
    debug_assert!(threads().is_none_or(|threads| threads == 1));
    for (name, value) in [
        // Only clean up.
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2"),
        ("TORCH_NCCL_ENABLE_MONITORING", "0"),
    ] {
        // SAFETY: no other thread reads the environment at the same time, since there is none.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Runs this program with other arguments, and returns what it printed. Use it in the main thread, with whose end
/// the other one ends.
///
/// # Errors
/// It cannot be started.
pub fn this_program(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    supervisor::ends_with_this_one(&mut command);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    output.context("cannot start this program again")
}

/// From here on signals end the program, whatever has listened to them before.
///
/// # Errors
/// The system refuses it.
pub fn end_on_signals() -> Result<()> {
    for signal in ending() {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), always)
            .context("cannot listen to signals")?;
    }
    Ok(())
}

/// A flag that is set when a signal asks the program to end, which then ends itself.
///
/// # Errors
/// The system refuses it.
pub fn asked_to_end() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in ending() {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .context("cannot listen to signals")?;
    }
    Ok(flag)
}

/// What signals ask of a server.
pub enum Asked {
    Stop,
    Reload,
}

/// Has signals stop a server, or reload its network (SIGHUP, also under `nohup`), from here to the end of the
/// program. A second signal that stops it ends the program at once.
///
/// # Errors
/// The system has no more file descriptors or threads.
pub fn on_signals(act: impl Fn(Asked) + Send + 'static) -> Result<()> {
    let mut signals = Signals::new(ENDING).context("cannot listen to signals")?;
    let listen = move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => act(Asked::Reload),
                _ if is_stopping => exit_at_once(INTERRUPTED),
                _ => {
                    is_stopping = true;
                    act(Asked::Stop);
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(listen).context("cannot listen to signals")?;
    Ok(())
}

/// Ends the program, although other threads may still compute.
pub fn end_at_once(code: u8) -> ! {
    exit_at_once(code)
}

/// The number of threads of this process; known on Linux only.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Starts a run that signals interrupt; see [`Interrupts`].
pub fn start(plan: &Plan, options: Options, message: &'static str) -> Result<Running> {
    let interrupts = Interrupts::listen(message)?;
    let running = Running::start(plan, options)?;
    interrupts.started(running.stop());
    Ok(running)
}

/// The signals by which a run is ended: by the user, by a scheduler, by a terminal that closes.
const ENDING: [c_int; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// Those of them that the program was not started to ignore, as by `nohup`. Not SIGINT and SIGQUIT: a shell
/// ignores them for what it starts in the background, where a script may well send them.
fn ending() -> impl Iterator<Item = c_int> {
    let is_wanted = |signal: &c_int| *signal != SIGHUP || !is_ignored(SIGHUP);
    ENDING.into_iter().filter(is_wanted)
}

/// Listens to signals, on a thread of its own, to the end of the program.
///
/// Before the run has started, a signal ends the program. Then the first one has the run finish its step
/// and save a checkpoint, and a second one ends the program at once; but not SIGHUP, which a closing
/// terminal sends twice. Under `nohup` SIGHUP is ignored.
pub struct Interrupts(Arc<Mutex<Phase>>);

enum Phase {
    /// With what is to be done before the program ends.
    Starting(Option<Box<dyn FnOnce() + Send>>),
    Running(Stop),
}

impl Interrupts {
    /// `message` is printed at the first signal.
    ///
    /// # Errors
    /// The system has no more file descriptors or threads.
    pub fn listen(message: &'static str) -> Result<Self> {
        // A write beyond the limit of file sizes then fails, and is reported as what it is.
        let mut signals =
            Signals::new(ending().chain([SIGXFSZ])).context("cannot listen to signals")?;
        let phase = Arc::new(Mutex::new(Phase::Starting(None)));
        let interrupts = Interrupts(Arc::clone(&phase));
        let listen = move || {
            let mut first = true;
            for signal in signals.forever().filter(|&signal| signal != SIGXFSZ) {
                match &mut *lock(&phase) {
                    Phase::Starting(before_end) => {
                        if let Some(before_end) = before_end.take() {
                            before_end();
                        }
                        exit_at_once(INTERRUPTED);
                    }
                    Phase::Running(stop) if first => {
                        stop.interrupt();
                        announce(message);
                        first = false;
                    }
                    Phase::Running(_) if signal == SIGHUP => {}
                    Phase::Running(_) => exit_at_once(INTERRUPTED),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(listen).context("cannot listen to signals")?;
        Ok(interrupts)
    }

    /// What is to be done if a signal comes before the run has started.
    pub fn before_end(&self, action: impl FnOnce() + Send + 'static) {
        *lock(&self.0) = Phase::Starting(Some(Box::new(action)));
    }

    /// The run has started.
    pub fn started(&self, stop: Stop) {
        *lock(&self.0) = Phase::Running(stop);
    }
}

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On another thread: where stderr is a pipe that is full, printing waits, and the second signal must
/// not.
fn announce(message: &'static str) {
    let announced = std::thread::Builder::new().spawn(move || {
        say(message);
        tracing::info!("interrupted by a signal");
    });
    drop(announced); // Without threads the run ends silently.
}

/// Whether the program was started with this signal ignored.
#[allow(unsafe_code)]
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all bits zero is a valid `sigaction`; with no new action, the call only writes `old`.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0
            && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Ends the program without destructors of static objects: other threads still compute, and libtorch
/// crashes where its globals go away below them.
#[allow(unsafe_code)]
fn exit_at_once(code: u8) -> ! {
    // SAFETY: does not return, and touches no memory of ours.
    unsafe { libc::_exit(code.into()) }
}

/// Sends the program's log to a file, if one is given, and to the screen its warnings and what the
/// libraries report of slow work.
pub fn log(file: Option<&Path>, screen: &Screen) -> Result<()> {
    let file = file.map(|path| {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.shown()))
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
