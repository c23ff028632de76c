//! `rsflow runs`: the run directories in a folder, how far they are and how good.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the command, its table and its JSON |
//! | `find` | the run directories in a folder |
//! | `row` | a run in one line, read from its directory |

pub mod find;
mod row;

use std::cmp::Reverse;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{iter, thread};

use anyhow::{Result, ensure};
use jiff::tz::TimeZone;
use rsflow_base::shown::Shown as _;
use serde::Serialize;

use super::usage::{Usage, many};
use crate::cli::Runs;
use crate::files::{check_output, is_stdout, write_json};
use crate::process::say;
use crate::progress::duration;
use crate::table::grid;
use row::{Row, State};

/// The field names are JSON keys.
#[derive(Serialize)]
struct List {
    /// The newest first.
    runs: Vec<Row>,
    /// What could not be searched.
    notes: Vec<String>,
}

pub fn run(arguments: &Runs, out: &mut dyn Write) -> Result<ExitCode> {
    let folder = &arguments.folder;
    ensure!(
        folder.is_dir(),
        Usage(format!("there is no folder {}", folder.shown()))
    );
    if let Some(json) = &arguments.json {
        check_output(json, "--json", arguments.force, &[])?;
    }
    let (found, notes) = find::run_dirs(folder);
    let mut runs = rows(&found);
    runs.sort_by_cached_key(|row| (Reverse(row.started), row.directory.clone()));
    let list = List { runs, notes };
    if !is_stdout(arguments.json.as_deref()) {
        write_table(&list, out)?;
    }
    for note in &list.notes {
        say(note);
    }
    for row in &list.runs {
        for note in &row.notes {
            say(format_args!("{}: {note}", row.directory.shown()));
        }
    }
    if list.runs.is_empty() {
        say(format_args!("{} has no runs", folder.shown()));
    }
    if let Some(json) = &arguments.json {
        write_json(json, &list, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is read of run directories, on all cores: logs of many epochs are long.
fn rows(paths: &[PathBuf]) -> Vec<Row> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let read = || {
        let paths = iter::from_fn(|| paths.get(next.fetch_add(1, Ordering::Relaxed)));
        paths.map(|path| Row::read(path)).collect::<Vec<Row>>()
    };
    thread::scope(|scope| {
        let threads = 1..cores.min(paths.len());
        let threads: Vec<_> = threads.map(|_| scope.spawn(read)).collect();
        let mut rows = read();
        for thread in threads {
            match thread.join() {
                Ok(others) => rows.extend(others),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        rows
    })
}

fn write_table(list: &List, out: &mut dyn Write) -> Result<()> {
    if list.runs.is_empty() {
        return Ok(());
    }
    let header = [
        "run",
        "started",
        "state",
        "network",
        "sizes",
        "epochs",
        "best top-1 % at the largest",
        "time",
    ];
    writeln!(out, "{}", grid(&header, list.runs.iter().map(cells)))?;
    writeln!(out, "{}", many(list.runs.len() as u64, "run"))?;
    Ok(())
}

fn cells(row: &Row) -> Vec<String> {
    let none = || "-".to_owned();
    let started = row.started.map(|started| {
        let local = started.to_zoned_datetime(TimeZone::system());
        local.strftime("%Y-%m-%d %H:%M").to_string()
    });
    let epochs = row.epochs.map_or_else(none, |epochs| epochs.to_string());
    let sizes: Vec<String> = row.sizes.iter().map(u32::to_string).collect();
    let state = match row.state {
        State::Finished => "finished".to_owned(),
        State::Running => format!("running, {} of {epochs} epochs", row.epoch),
        State::Stopped => format!("stopped, {} of {epochs} epochs", row.epoch),
        State::Unreadable => "unreadable".to_owned(),
    };
    let time = row
        .seconds
        .and_then(|it| Duration::try_from_secs_f64(it).ok());
    vec![
        row.directory.clone(),
        started.unwrap_or_else(none),
        state,
        row.network.clone().unwrap_or_else(none),
        match sizes.is_empty() {
            true => none(),
            false => sizes.join(","),
        },
        epochs,
        row.best_top1.map_or_else(none, |top1| format!("{top1:.2}")),
        time.map_or_else(none, duration),
    ]
}
