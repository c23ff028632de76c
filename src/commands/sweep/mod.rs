//! `rsflow sweep`: a recipe with every combination of some values, several seeds each.

mod check;
mod plan;
mod record;
mod results;
mod runs;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::run_files;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, counted};

use self::plan::{Combination, Over, combinations, repeated_field};
use super::recipes::plan;
use super::usage::Usage;
use crate::cli::Sweep;
use crate::process::{INTERRUPTED, Shares, WRONG, end_on_signals, say};
use crate::run_log::Final;
use crate::{files, launch, run_dir};
pub use record::FILE as RECORD;
use record::Record;
use results::{ensure_readable, finish};
use runs::{Outcome, run_all};

/// Upper bound of runs that catches typos.
const MAX_RUNS: u64 = 10_000;

/// One of the runs.
pub struct Run {
    combination: Combination,
    seed: u64,
    dir: PathBuf,
}

impl Run {
    /// `lr=0.1/3`.
    fn name(&self) -> String {
        format!("{}/{}", self.combination.name, self.seed)
    }

    /// Where what it prints is kept: not in its directory, which must be its own.
    fn log(&self) -> PathBuf {
        self.dir.with_file_name(format!("{}.log", self.seed))
    }

    /// What `--set` takes.
    fn sets(&self) -> Vec<String> {
        let seed = format!("seed={}", self.seed);
        [&self.combination.sets[..], &[seed]].concat()
    }

    fn is_done(&self) -> bool {
        Final::of(&self.dir).is_some()
    }

    /// Whether it has a checkpoint to resume from.
    fn is_begun(&self) -> bool {
        run_files::last_checkpoint(&self.dir).exists()
    }
}

pub fn run(arguments: &Sweep, out: &mut dyn Write) -> Result<ExitCode> {
    ensure!(
        launch::world()?.size == 1,
        Usage("a sweep starts its runs itself: start it once, without a launcher".to_owned())
    );
    let overs = overs(arguments)?;
    let base = plan(&arguments.recipe, &arguments.overrides)?;
    let seeds = seeds(&base, arguments, &overs)?;
    check::has_log(&base, &arguments.recipe)?;
    if !check::all_are_valid(arguments, &overs)? {
        return Ok(ExitCode::from(WRONG));
    }
    let dir = arguments.dir.clone().unwrap_or_else(|| {
        let recipe = arguments.recipe.file_stem().unwrap_or_default();
        Path::new("runs").join(recipe).join("sweep")
    });
    let _locked = match arguments.dry_run {
        true => None,
        false => Some(lock(&dir)?),
    };
    let record = Record::new(&arguments.recipe, &base, &overs);
    let mut record = record.continued(&dir, uses_let(&base, &overs))?;
    let combinations = combinations(&overs, &record.names());
    let runs = all_runs(&combinations, &seeds, &dir);
    ensure_readable(&runs)?;
    if arguments.dry_run {
        return list(&runs, out);
    }
    record.add(&combinations, &seeds);
    record.write(&dir)?;
    let recipe = dir.join(run_files::RECIPE);
    files::replace(&recipe, base.written().as_bytes())
        .with_context(|| format!("cannot write {}", recipe.shown()))?;
    let shares = introduce(arguments, &combinations, &runs, &dir);
    let outcome = run_all(&runs, &recipe, shares)?;
    // The comparison may take a while, and nothing is lost with it.
    end_on_signals()?;
    end(&outcome, &runs, out)
}

fn overs(arguments: &Sweep) -> Result<Vec<Over>> {
    ensure!(
        !arguments.over.is_empty() || arguments.seeds > 1,
        Usage(format!(
            "there is nothing to compare: name a field and its values, or several seeds\n\
             help: such as `rsflow sweep {0} --over trainer.optimizer.lr=0.1,0.03`, or `rsflow sweep {0} --seeds 3`",
            arguments.recipe.shown()
        ))
    );
    let parse = |typed: &String| {
        Over::parse(typed).map_err(|problem| Usage(format!("--over {}: {problem}", typed.shown())))
    };
    let overs: Vec<Over> = arguments.over.iter().map(parse).collect::<Result<_, _>>()?;
    if let Some(field) = repeated_field(&overs) {
        bail!(Usage(format!(
            "--over names {} twice; give all its values in one option",
            field.shown()
        )));
    }
    let mut count = arguments.seeds;
    for over in &overs {
        count = count.saturating_mul(over.values.len() as u64);
    }
    ensure!(
        count <= MAX_RUNS,
        Usage(format!("{count} runs are too many: at most {MAX_RUNS}"))
    );
    Ok(overs)
}

/// Whether a value of `let` is swept over, or a value names one.
fn uses_let(base: &Plan, overs: &[Over]) -> bool {
    let is_of_node = |field: &String| {
        let name = field.split('.').next();
        base.nodes()
            .iter()
            .any(|node| Some(node.id.name.as_str()) == name)
    };
    overs.iter().any(|over| {
        !over.fields.iter().all(is_of_node) || over.values.iter().any(|value| value.contains('$'))
    })
}

/// The recipe's seed and those that follow it.
fn seeds(base: &Plan, arguments: &Sweep, overs: &[Over]) -> Result<Vec<u64>> {
    let is_swept = |over: &Over| over.fields.iter().any(|field| field == "seed");
    ensure!(
        !overs.iter().any(is_swept),
        Usage(
            "--over seed: --seeds N runs with N seeds, from that of --set seed=FIRST on".to_owned()
        )
    );
    let first = base.seed();
    let end = first.checked_add(arguments.seeds).with_context(|| {
        Usage(format!(
            "there are no {} seeds from {first} on",
            arguments.seeds
        ))
    })?;
    Ok((first..end).collect())
}

fn all_runs(combinations: &[Combination], seeds: &[u64], dir: &Path) -> Vec<Run> {
    let runs = combinations.iter().flat_map(|combination| {
        seeds.iter().map(|&seed| Run {
            combination: combination.clone(),
            seed,
            dir: dir.join(&combination.name).join(seed.to_string()),
        })
    });
    runs.collect()
}

/// Makes the directory, and locks it against other sweeps for as long as the file is open.
fn lock(dir: &Path) -> Result<File> {
    let cannot = || {
        let dir = dir.shown();
        format!("cannot make the directory {dir}; --dir names another")
    };
    fs::create_dir_all(dir).with_context(cannot)?;
    let folder = File::open(dir).with_context(cannot)?;
    ensure!(
        !run_dir::is_busy(&folder),
        "another sweep uses {}; --dir names another directory",
        dir.shown()
    );
    Ok(folder)
}

/// The runs with what is set in them, and how far they are.
fn list(runs: &[Run], out: &mut dyn Write) -> Result<ExitCode> {
    let place = |run: &Run| run.dir.shown().into_owned();
    let width = runs.iter().map(|run| place(run).len()).max().unwrap_or(0);
    for run in runs {
        let state = match (run.is_done(), run.is_begun()) {
            (true, _) => "done",
            (false, true) => "to resume",
            (false, false) => "to start",
        };
        let sets: Vec<String> = run
            .sets()
            .iter()
            .map(|it| it.shown().into_owned())
            .collect();
        let sets = sets.join("  ");
        writeln!(out, "{:width$}  {state:9}  {sets}", place(run))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is about to run, and how the cores are shared out for it.
fn introduce(arguments: &Sweep, combinations: &[Combination], runs: &[Run], dir: &Path) -> Shares {
    let side_by_side = runs.len().min(arguments.parallel.into());
    let shares = Shares::new(side_by_side);
    let done = runs.iter().filter(|run| run.is_done()).count();
    let dir = dir.shown();
    say(format_args!(
        "{dir}: {} of {} with {}, {done} done",
        counted(runs.len(), "run"),
        counted(combinations.len(), "combination"),
        counted(runs.len() / combinations.len().max(1), "seed"),
    ));
    if side_by_side > 1 {
        let each = counted(shares.each(), "core");
        say(format_args!(
            "{side_by_side} runs side by side, {each} each"
        ));
    }
    if side_by_side > shares.cores {
        let cores = counted(shares.cores, "core");
        say(format_args!(
            "warning: {side_by_side} runs share {cores}; a lower --parallel is faster on the CPU"
        ));
    }
    shares
}

/// Says how it ended.
fn end(outcome: &Outcome, runs: &[Run], out: &mut dyn Write) -> Result<ExitCode> {
    if !outcome.interrupted {
        finish(runs, out)?;
        out.flush()?;
    }
    if !outcome.failed.is_empty() {
        let failed = outcome.failed.len();
        say(format_args!(
            "error: {failed} of {} failed",
            counted(runs.len(), "run")
        ));
        for failed in &outcome.failed {
            say(format_args!("  {failed}"));
        }
    }
    if outcome.interrupted {
        let (done, all) = (outcome.done, counted(runs.len(), "run"));
        say(format_args!(
            "interrupted: {done} of {all} done; the same command again continues the sweep"
        ));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(match outcome.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
