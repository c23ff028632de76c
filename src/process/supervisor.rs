//! The processes of a run on this machine: started, watched, ended together, and started again.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libc::{SIGCONT, SIGSTOP, SIGTERM, SIGTSTP, c_int};
use signal_hook::iterator::Signals;

use super::{ending, say};

/// How long other processes of a run may take to end once one of them has failed: they look for the reason.
const GRACE: Duration = Duration::from_secs(10);
/// How long one may take that a signal has stopped: it may be continued.
const GRACE_OF_STOPPED: Duration = Duration::from_secs(2);
/// How long process 0 may take, which writes a checkpoint.
const GRACE_OF_FIRST: Duration = Duration::from_secs(120);

/// Before they are started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the processes of a run to their end, which have the first one's screen, and passes signals on to
/// them. One that fails ends the others; then all are started again, up to `max_restarts` times. `commands`
/// gives their command lines by the number of the attempt, from 0. Returns the exit code: that of the first
/// process, unless only another one failed.
///
/// # Errors
/// A process cannot be started.
pub fn supervise(
    max_restarts: u32,
    commands: impl Fn(u32) -> Result<Vec<Command>>,
) -> Result<ExitCode> {
    // A SIGHUP that is ignored, as under `nohup`, stays ignored here and in the processes.
    let ending: Vec<c_int> = ending().collect();
    let of_job_control = [SIGTSTP, SIGCONT];
    let signals = Signals::new(ending.iter().chain(&of_job_control));
    let mut signals = signals.context("cannot listen to signals")?;
    for attempt in 0.. {
        let processes = Processes::start(commands(attempt)?)?;
        let ended = processes.wait(&mut signals);
        ended.report();
        if !ended.may_succeed_again() || attempt >= max_restarts {
            return Ok(ended.code());
        }
        std::thread::sleep(PAUSE);
        say(format_args!(
            "starting all processes again from the last checkpoint ({} of {max_restarts})",
            attempt + 1
        ));
    }
    Ok(ExitCode::FAILURE)
}

/// Those that run, by rank.
struct Processes {
    all: Vec<Child>,
    /// What they say on stderr, if that is not the screen.
    said: Vec<Option<JoinHandle<String>>>,
}

impl Processes {
    fn start(commands: Vec<Command>) -> Result<Self> {
        let mut all: Vec<Child> = Vec::new();
        for (rank, mut command) in commands.into_iter().enumerate() {
            // A terminal's Ctrl-C comes here alone, and is passed on once.
            command.process_group(0);
            ends_with_this_one(&mut command);
            if rank > 0 {
                command.stdin(Stdio::null()).stdout(Stdio::null());
                command.stderr(Stdio::piped());
            }
            match command.spawn() {
                Ok(process) => all.push(process),
                Err(error) => {
                    all.iter_mut().for_each(end_at_once);
                    return Err(error)
                        .with_context(|| format!("cannot start process {rank} of the run"));
                }
            }
        }
        let said = all.iter_mut().map(collect_errors).collect();
        Ok(Processes { all, said })
    }

    /// Until all have ended.
    fn wait(mut self, signals: &mut Signals) -> Ended {
        let mut statuses: Vec<Option<ExitStatus>> = vec![None; self.all.len()];
        let mut first_failed = None;
        let mut interrupted = false;
        while statuses.iter().any(Option::is_none) {
            for signal in signals.pending() {
                interrupted |= !matches!(signal, SIGTSTP | SIGCONT);
                let running = self.all.iter().zip(&statuses);
                let running = running.filter(|(_, status)| status.is_none());
                pass_on(signal, running.map(|(process, _)| process.id()));
            }
            for (rank, process) in self.all.iter_mut().enumerate() {
                if statuses[rank].is_none() {
                    statuses[rank] = process.try_wait().unwrap_or_default();
                    let failed = statuses[rank].is_some_and(|status| !status.success());
                    if failed && first_failed.is_none() {
                        first_failed = Some((rank, Instant::now()));
                    }
                }
                let (None, Some((_, at))) = (statuses[rank], first_failed) else {
                    continue;
                };
                let stopped = is_stopped(process);
                let grace = match (stopped, rank) {
                    (true, _) => GRACE_OF_STOPPED,
                    (false, 0) => GRACE_OF_FIRST,
                    (false, _) => GRACE,
                };
                if at.elapsed() > grace {
                    if stopped {
                        say(format_args!(
                            "process {rank} of the run was stopped by a signal"
                        ));
                    }
                    end_at_once(process);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = self.said.into_iter();
        Ended {
            statuses,
            first_failed: first_failed.map(|(rank, _)| rank),
            said: said
                .map(|said| said.and_then(|said| said.join().ok()).unwrap_or_default())
                .collect(),
            interrupted,
        }
    }
}

/// How the processes ended, by rank.
struct Ended {
    statuses: Vec<Option<ExitStatus>>,
    first_failed: Option<usize>,
    said: Vec<String>,
    /// By a signal that came to all of them.
    interrupted: bool,
}

impl Ended {
    fn code_of(&self, rank: usize) -> Option<i32> {
        self.statuses[rank].and_then(|status| status.code())
    }

    /// The first process prints an error, also one of another process.
    fn first_reports(&self) -> bool {
        self.code_of(0).is_some_and(|code| code != 0)
    }

    /// Not with the same command line if that is wrong.
    fn may_succeed_again(&self) -> bool {
        let code = self.first_failed.map(|rank| self.code_of(rank));
        !self.interrupted && matches!(code, Some(None | Some(1)))
    }

    /// Says what the screen does not show yet.
    fn report(&self) {
        let Some(rank) = self.first_failed else {
            return;
        };
        let has_said = self.said[rank].trim_end();
        let code = self.code_of(rank);
        let is_known =
            self.first_reports() && (matches!(code, Some(1 | 130)) || code == self.code_of(0));
        if !(is_known || has_said.is_empty()) {
            say(format_args!("process {rank} of the run said:\n{has_said}"));
        }
        if let Some(signal) = self.statuses[rank].and_then(|status| status.signal()) {
            say(format_args!(
                "process {rank} of the run was ended by signal {signal}"
            ));
        }
    }

    fn code(&self) -> ExitCode {
        let Some(rank) = self.first_failed else {
            return ExitCode::SUCCESS;
        };
        let code = self.code_of(if self.first_reports() { 0 } else { rank });
        ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

/// Has a process that is started end, as by SIGTERM, where this one ends in whatever way.
#[allow(unsafe_code)]
pub(super) fn ends_with_this_one(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec it makes one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Reads what a process says on stderr, if that comes here: the last of it.
fn collect_errors(process: &mut Child) -> Option<JoinHandle<String>> {
    const MOST: usize = 64 << 10;
    let stderr = process.stderr.take()?;
    Some(std::thread::spawn(move || {
        let mut last = VecDeque::new();
        let mut bytes = 0;
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            bytes += line.len();
            last.push_back(String::from_utf8_lossy(&line).into_owned());
            while bytes > MOST
                && let Some(line) = last.pop_front()
            {
                bytes = bytes.saturating_sub(line.len());
            }
        }
        Vec::from(last).join("\n")
    }))
}

/// Passes a signal on to processes that have not been waited for. Ctrl-Z stops them and this one, until
/// SIGCONT comes.
pub(super) fn pass_on(signal: c_int, processes: impl Iterator<Item = u32>) {
    let passed_on = if signal == SIGTSTP { SIGSTOP } else { signal };
    processes.for_each(|process| send(process, passed_on));
    if signal == SIGTSTP {
        send(std::process::id(), SIGSTOP);
    }
}

#[allow(unsafe_code)]
fn send(process: u32, signal: c_int) {
    // SAFETY: takes numbers alone. The process was not waited for, so its number is its own.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// Whether a signal has stopped the process; known on Linux only.
fn is_stopped(process: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()));
    // `pid (name) state ...`, and the name may hold anything.
    stat.is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    })
}

pub(super) fn end_at_once(process: &mut Child) {
    let _ = process.kill();
}
