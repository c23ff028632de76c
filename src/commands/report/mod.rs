//! `rsflow report`: what runs did, as one page that loads nothing from elsewhere.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the command |
//! | `run` | a run as its report shows it, read from its directory |
//! | `answers` | predictions, counted: classes, confusions, mistakes |
//! | `pictures` | the pictures of mistakes |
//! | `latency`, `times` | what `eval --latency` and `profile` measured, if it is there |
//! | `charts` | the curves, as data for [`crate::plot`] |
//! | `page/` | the page as HTML |

mod answers;
mod charts;
mod latency;
mod page;
mod pictures;
mod run;
mod times;

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;

use super::compare::runs::{DEPTH, directories};
use super::usage::Usage;
use crate::cli::Report;
use crate::files::{check_output, is_stdout, replace};
use crate::process::say;
use answers::MOST_MISTAKES;
use run::{Extra, Run};

/// The name of the page.
const FILE: &str = "report.html";
/// Upper bound of runs in one page: of more lines than this nobody knows which is which.
const MOST_RUNS: usize = 36;
/// Pictures of all runs together, if there are several.
const MOST_PICTURES: usize = 48;

pub fn run(arguments: &Report, out: &mut dyn Write) -> Result<ExitCode> {
    let paths = run_dirs(&arguments.runs)?;
    let target = target(arguments, &paths)?;
    let mut runs = read(arguments, &paths)?;
    let most = match runs.len() {
        1 => MOST_MISTAKES,
        several => (MOST_PICTURES / several).clamp(4, 12),
    };
    for run in &mut runs {
        pictures::add(run, arguments.data.as_deref(), most)?;
    }
    let page = page::page(&runs);
    if is_stdout(Some(&target)) {
        out.write_all(page.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let written = replace(&target, page.as_bytes());
    written
        .with_context(|| format!("cannot write {}; --out names another file", target.shown()))?;
    say(format_args!(
        "{} has the report ({:.1} MB); open it in a browser",
        target.shown(),
        page.len() as f64 / 1e6
    ));
    Ok(ExitCode::SUCCESS)
}

/// The run directories that were named, and those in folders that were named.
fn run_dirs(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in named {
        let mut found = Vec::new();
        if run::check(path).is_err() && path.is_dir() {
            directories(path, DEPTH, &mut found)?;
        }
        // A sweep's folder has a recipe, but what it holds are the runs.
        if found.is_empty() && path.join(super::sweep::RECORD).is_file() {
            directories(path, DEPTH, &mut found)?;
        }
        if found.is_empty() {
            run::check(path)?;
            found.push(path.clone());
        }
        for path in found {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    ensure!(
        paths.len() <= MOST_RUNS,
        Usage(format!(
            "there are {} runs; a report has up to {MOST_RUNS}, name fewer",
            paths.len()
        ))
    );
    Ok(paths)
}

/// Where the page goes. A report may be replaced by a newer one.
fn target(arguments: &Report, paths: &[PathBuf]) -> Result<PathBuf> {
    let target = match (&arguments.out, paths) {
        (Some(path), _) => path.clone(),
        (None, [only]) => only.join(FILE),
        (None, _) => FILE.into(),
    };
    let named = [
        &arguments.predictions,
        &arguments.latency,
        &arguments.profile,
    ];
    let inputs: Vec<&Path> = named.into_iter().flatten().map(PathBuf::as_path).collect();
    let force = arguments.force || is_report(&target);
    check_output(&target, "--out", force, &inputs)?;
    Ok(target)
}

/// Whether a file begins as a page of this command does.
fn is_report(path: &Path) -> bool {
    let mut head = Vec::new();
    let file = rsflow_base::input_file::open(path);
    let read = file.and_then(|file: File| file.take(1024).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).contains(page::GENERATOR)
}

fn read(arguments: &Report, paths: &[PathBuf]) -> Result<Vec<Run>> {
    let named = [
        (&arguments.predictions, "--predictions"),
        (&arguments.latency, "--latency"),
        (&arguments.profile, "--profile"),
    ];
    for (path, option) in named {
        ensure!(
            path.is_none() || paths.len() == 1,
            Usage(format!(
                "{option} is of one run; with several, put the file into each run directory"
            ))
        );
    }
    let extra = Extra {
        predictions: arguments.predictions.as_deref(),
        latency: arguments.latency.as_deref(),
        profile: arguments.profile.as_deref(),
    };
    let names = run::names(paths);
    let runs = paths.iter().zip(names);
    runs.map(|(path, name)| Run::read(path, name, extra))
        .collect()
}
