//! `rsflow wandb`: runs as offline runs of Weights & Biases, which `wandb sync` uploads.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the command: which run, which folder |
//! | `records` | what a run becomes: its records, in their order |
//! | `history` | the names and values of metrics by step |
//! | `config` | a recipe as nested values |
//! | `messages` | the protocol buffers, as far as they are written |
//! | `log_file` | records in a file |

mod config;
mod history;
mod log_file;
mod messages;
mod records;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rsflow_base::input_file;
use rsflow_base::run_files::{LOG, METRICS, RECIPE};
use rsflow_base::shown::Shown as _;
use xxhash_rust::xxh3::xxh3_64;

use super::recipes::MAX_RECIPE;
use super::runs::find::run_dirs;
use super::usage::Usage;
use crate::cli::Wandb;
use crate::files::replace;
use crate::next_commands;
use crate::process::say;
use crate::program_log::ProgramLog;
use crate::run_dir::is_locked;
use crate::run_log::RunLog;

/// What the folder of a run that was not uploaded begins with.
const OFFLINE: &str = "offline-run-";

pub fn run(arguments: &Wandb, out: &mut dyn Write) -> Result<ExitCode> {
    let mut runs = Vec::new();
    for named in &arguments.runs {
        let place = named.shown();
        ensure!(
            named.is_dir(),
            Usage(format!("there is no run directory {place}"))
        );
        let (mut found, notes) = run_dirs(named);
        for note in notes {
            say(note);
        }
        ensure!(
            !found.is_empty(),
            Usage(format!(
                "{place} is not a run directory and has none in it: a run has {METRICS} or {LOG}; name one, such as \
                 runs/RECIPE/START_TIME"
            ))
        );
        found.sort();
        runs.extend(found);
    }
    let mut written: Vec<Vec<String>> = Vec::new();
    let result = runs.iter().try_for_each(|path| -> Result<()> {
        let run = Run::read(path)?;
        let folder = run.write(&arguments.out)?;
        let command = format!("wandb sync {}", next_commands::word(&folder));
        written.push(vec![run.name, path.shown().into_owned(), command]);
        Ok(())
    });
    // Also those before the one that failed.
    out.write_all(lines(&written).as_bytes())?;
    result?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each run, in columns.
fn lines(runs: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = runs.iter().filter_map(|run| run.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |run: &Vec<String>| {
        let cells = run.iter().enumerate();
        let cells: Vec<String> = cells
            .map(|(column, cell)| format!("{cell:<0$}", width(column)))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    runs.iter().map(line).collect()
}

/// A run as its directory has it.
struct Run {
    /// Follows from the directory, so that a second export of it is the same run.
    id: String,
    /// Where it is, from the folder `runs` on.
    name: String,
    started: Option<Timestamp>,
    /// The recipe's text; empty if there is none.
    recipe: String,
    log: RunLog,
    is_running: bool,
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let place = path.shown();
        let whole = fs::canonicalize(path).with_context(|| format!("cannot open {place}"))?;
        let log = RunLog::read(path)?;
        for note in log.notes() {
            say(format_args!("{place}: {note}"));
        }
        let recipe = match input_file::read_to_string(&path.join(RECIPE), MAX_RECIPE) {
            Ok(text) => text,
            Err(error) => {
                say(format_args!(
                    "{place}: {RECIPE} cannot be read, the run has no config: {error}"
                ));
                String::new()
            }
        };
        let started = ProgramLog::read(&path.join(LOG)).started();
        Ok(Run {
            id: id(&whole, started),
            name: name(&whole),
            started,
            recipe,
            log,
            is_running: is_locked(path),
        })
    }

    /// Writes the run below a folder, and returns its own. One that was written before is replaced.
    fn write(&self, out: &Path) -> Result<PathBuf> {
        let folder = match self.written_before(out) {
            Some(folder) => folder,
            None => out.join(format!("{OFFLINE}{}-{}", self.date(), self.id)),
        };
        let place = folder.shown();
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {place}; --out names another"))?;
        let file = folder.join(format!("run-{}.wandb", self.id));
        replace(&file, &self.bytes()).with_context(|| {
            format!("cannot write {}; --out names another folder", file.shown())
        })?;
        // What `wandb sync` leaves beside a file that it has uploaded, and then passes over.
        let mut uploaded = file.into_os_string();
        uploaded.push(".synced");
        match fs::remove_file(&uploaded) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let uploaded = Path::new(&uploaded).shown();
                Err(error).with_context(|| format!("cannot remove {uploaded}"))
            }
            _ => Ok(folder),
        }
    }

    fn written_before(&self, out: &Path) -> Option<PathBuf> {
        let end = format!("-{}", self.id);
        let entries = fs::read_dir(out).into_iter().flatten().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let found = names.find(|name| name.starts_with(OFFLINE) && name.ends_with(&end))?;
        Some(out.join(found))
    }

    /// When it was started, in universal time: the same on every machine. Of a run without a log, now.
    fn date(&self) -> String {
        let now = || Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let time = self.started.unwrap_or_else(now);
        let time = time.to_zoned_datetime(TimeZone::UTC);
        time.strftime("%Y%m%d_%H%M%S").to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        log_file::bytes(records::of(self))
    }
}

/// Of the directory's name and of the time at which the run was started, so that it stays the same where the
/// directory is moved, and runs of the same name on two machines have two. Without that time, of the whole path.
fn id(whole: &Path, started: Option<Timestamp>) -> String {
    let own = whole.file_name().unwrap_or_default();
    let key = match started {
        Some(time) => [own.as_encoded_bytes(), time.to_string().as_bytes()].join(&b'\0'),
        None => whole.as_os_str().as_encoded_bytes().to_vec(),
    };
    format!("{:016x}", xxh3_64(&key))
}

/// What follows the folder `runs`, else the directory's name.
fn name(whole: &Path) -> String {
    let parts: Vec<_> = whole.iter().collect();
    let runs = parts.iter().rposition(|part| *part == "runs");
    let start = runs.map_or(0, |at| at + 1);
    let rest: PathBuf = match runs {
        Some(_) if start < parts.len() => parts[start..].iter().collect(),
        _ => PathBuf::from(whole.file_name().unwrap_or_default()),
    };
    rest.shown().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_the_same_wherever_it_is_moved() {
        let time = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let (one, other) = (
            time("2026-01-02T03:04:05.000006Z"),
            time("2026-01-02T03:04:05.000007Z"),
        );
        let first = id(Path::new("/a/mine"), one);
        assert_eq!(first.len(), 16);
        let table = [
            ("/b/mine", one, true),
            ("/a/mine", other, false),
            ("/a/yours", one, false),
            ("/a/mine", None, false),
        ];
        for (path, started, is_same) in table {
            let id = id(Path::new(path), started);
            assert_eq!(id == first, is_same, "{path} {started:?}");
        }
        assert_ne!(id(Path::new("/a/x"), None), id(Path::new("/b/x"), None));
    }

    #[test]
    fn a_name_begins_after_runs() {
        for (path, expected) in [
            ("/home/me/runs/mine", "mine"),
            ("/runs/old/runs/r/2026-01-02", "r/2026-01-02"),
            ("/home/me/runs/mine/sweep/a/1", "mine/sweep/a/1"),
            ("/home/me/runs", "runs"),
            ("/home/me/mine", "mine"),
        ] {
            assert_eq!(name(Path::new(path)), expected, "{path}");
        }
    }
}
