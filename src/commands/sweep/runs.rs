//! The runs of a sweep: started side by side, followed, and counted.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_base::shown::Shown as _;
use rsflow_graph::counted;

use super::Run;
use crate::process::{Ended, INTERRUPTED, Shares, SideBySide};
use crate::progress::{Count, Screen, duration};
use crate::run_dir::is_locked;
use crate::run_log::Final;

/// Minimum time between two lines about one run where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// Minimum time between two looks at what runs have said.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Lines of a failed run that are shown.
const LAST_LINES: usize = 8;

/// How the runs ended.
pub struct Outcome {
    /// What is said of each run that failed.
    pub failed: Vec<String>,
    /// A signal came before all had ended.
    pub interrupted: bool,
    pub done: usize,
}

/// Starts what is not done yet, at most as many side by side as there are shares of the cores.
///
/// # Errors
/// This program's file is not known, or the system has no more file descriptors.
pub fn run_all(runs: &[Run], recipe: &Path, shares: Shares) -> Result<Outcome> {
    let terminal = std::io::stderr().is_terminal();
    let screen = Screen::new(terminal);
    let pending: Vec<usize> = (0..runs.len()).filter(|&at| !runs[at].is_done()).collect();
    let mut sweep = Sweep {
        program: std::env::current_exe().context("this program's file is not known")?,
        recipe,
        runs,
        done: runs.len() - pending.len(),
        pending,
        programs: SideBySide::new(shares)?,
        followed: Vec::new(),
        count: Count::new(screen.clone(), "runs", runs.len()),
        looked: Instant::now(),
        waits: false,
        failed: Vec::new(),
        screen,
        terminal,
    };
    sweep.run();
    let interrupted = sweep.programs.interrupted();
    Ok(Outcome {
        interrupted: interrupted && sweep.done + sweep.failed.len() < runs.len(),
        failed: sweep.failed,
        done: sweep.done,
    })
}

struct Sweep<'a> {
    program: PathBuf,
    recipe: &'a Path,
    runs: &'a [Run],
    /// What is not started yet, by its place in `runs`.
    pending: Vec<usize>,
    programs: SideBySide,
    followed: Vec<Followed>,
    done: usize,
    failed: Vec<String>,
    count: Count,
    screen: Screen,
    terminal: bool,
    looked: Instant,
    /// Whether the user knows that it waits for runs of an earlier start.
    waits: bool,
}

impl Sweep<'_> {
    fn run(&mut self) {
        self.count_ended();
        let mut announced = false;
        loop {
            if !self.programs.interrupted() {
                self.start();
            } else if !announced {
                announced = true;
                self.announce();
            }
            let is_over = self.pending.is_empty() || self.programs.interrupted();
            if is_over && self.programs.running() == 0 {
                break;
            }
            for ended in self.programs.wait() {
                self.end(&ended);
            }
            if self.looked.elapsed() >= BETWEEN_LOOKS {
                self.looked = Instant::now();
                self.look();
            }
        }
    }

    fn announce(&self) {
        let running = self.programs.running();
        if running > 0 {
            self.screen.line(&format!(
                "interrupted: waiting for {} to save a checkpoint; press Ctrl-C again to quit now",
                counted(running, "run")
            ));
        }
    }

    /// Starts runs where there is room.
    fn start(&mut self) {
        while self.programs.has_room() {
            // One whose sweep was killed may still write its last checkpoint.
            let mut pending = self.pending.iter();
            let Some(next) = pending.position(|&at| !is_locked(&self.runs[at].dir)) else {
                self.say_that_it_waits();
                return;
            };
            let at = self.pending.remove(next);
            if self.runs[at].is_done() {
                self.done += 1;
                self.count_ended();
            } else if let Err(error) = self.start_one(at) {
                self.fail(at, &format!("cannot be started: {error:#}"), "");
            }
        }
    }

    fn say_that_it_waits(&mut self) {
        if self.waits || self.pending.is_empty() || self.programs.running() > 0 {
            return;
        }
        self.waits = true;
        let run = &self.runs[self.pending[0]];
        self.screen.line(&format!(
            "waiting for another process that uses {}",
            run.dir.shown()
        ));
    }

    fn start_one(&mut self, at: usize) -> Result<()> {
        let run = &self.runs[at];
        let path = run.log();
        let cannot = || format!("cannot write {}", path.shown());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(cannot)?;
        }
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(cannot)?;
        let from = log.metadata().map_or(0, |log| log.len());
        let verb = match run.is_begun() {
            true => "resumed",
            false => "started",
        };
        let mut command = Command::new(&self.program);
        command.arg("run").arg(self.recipe);
        for set in run.sets() {
            command.args(["--set", &set]);
        }
        command
            .arg("--run-dir")
            .arg(&run.dir)
            .arg("--resume-if-any");
        let stdout = log.try_clone().with_context(cannot)?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        self.programs.start(at, command)?;
        self.followed.push(Followed::new(at, path, from));
        self.screen.line(&format!("{}: {verb}", run.name()));
        Ok(())
    }

    fn end(&mut self, ended: &Ended) {
        let run = &self.runs[ended.id];
        let followed = self.followed.iter().position(|it| it.id == ended.id);
        let followed = followed.map(|at| self.followed.swap_remove(at));
        let result = Final::of(&run.dir).filter(|_| ended.status.success());
        if let Some(result) = result {
            self.done += 1;
            self.screen.line(&format!(
                "{}: done in {}  top-1 %: {}",
                run.name(),
                duration(ended.took),
                result.line()
            ));
            self.count_ended();
        } else if !(self.programs.interrupted() && was_interrupted(ended.status)) {
            let said = followed.map(|followed| followed.last_lines());
            self.fail(ended.id, &reason(ended.status), &said.unwrap_or_default());
        }
    }

    /// A run that does not end well; the others go on.
    fn fail(&mut self, at: usize, why: &str, said: &str) {
        let run = &self.runs[at];
        let why = format!("{}: {why}", run.name());
        let log = run.log();
        self.screen.line(&match said {
            "" => why.clone(),
            said => format!("{why}; the last lines of {}:\n{said}", log.shown()),
        });
        self.failed.push(match log.exists() {
            true => format!("{why}, see {}", log.shown()),
            false => why,
        });
        self.count_ended();
    }

    fn count_ended(&mut self) {
        self.count.done(self.done + self.failed.len());
    }

    /// Shows the newest epoch of each run.
    fn look(&mut self) {
        for followed in &mut self.followed {
            followed.read();
            if !self.terminal && followed.shown.elapsed() < BETWEEN_LINES {
                continue;
            }
            let Some(epoch) = followed.epoch.take() else {
                continue;
            };
            followed.shown = Instant::now();
            let line = format!("{}: {epoch}", self.runs[followed.id].name());
            match self.terminal {
                true => self.count.note(&line),
                false => self.screen.line(&line),
            }
        }
    }
}

fn was_interrupted(status: ExitStatus) -> bool {
    status.signal().is_some() || status.code() == Some(INTERRUPTED.into())
}

fn reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended without a result".to_owned(),
        (Some(code), _) if code == i32::from(INTERRUPTED) => "was interrupted".to_owned(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// What a run says, as it goes.
struct Followed {
    id: usize,
    log: PathBuf,
    /// Where this start of the run begins in the log.
    from: u64,
    /// The end of the last whole line that was read.
    read: u64,
    /// The newest epoch, if it was not shown.
    epoch: Option<String>,
    shown: Instant,
}

impl Followed {
    fn new(id: usize, log: PathBuf, from: u64) -> Self {
        Followed {
            id,
            log,
            from,
            read: from,
            epoch: None,
            shown: Instant::now(),
        }
    }

    /// Reads what is new.
    fn read(&mut self) {
        let new = after(&self.log, self.read).unwrap_or_default();
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        self.read += end as u64 + 1;
        let text = String::from_utf8_lossy(&new[..end]);
        let is_epoch = |line: &&str| line.starts_with("epoch ") && line.contains("top-1 %: ");
        if let Some(epoch) = text.lines().rfind(is_epoch) {
            self.epoch = Some(epoch.to_owned());
        }
    }

    /// The last lines, indented.
    fn last_lines(&self) -> String {
        /// As many bytes are enough for them.
        const END: u64 = 16 << 10;
        let length = fs::metadata(&self.log).map_or(0, |log| log.len());
        let from = self.from.max(length.saturating_sub(END));
        let said = after(&self.log, from).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        let indented: Vec<String> = last.iter().map(|line| format!("  {line}")).collect();
        indented.join("\n")
    }
}

/// What a file holds from there on.
fn after(path: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
