//! The runs that are compared: found, read, and grouped by recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rsflow_base::home;
use rsflow_base::run_files::{BEST, CHECKPOINTS, LAST, LOG, RECIPE};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Recipe, Text, differences};
use rsflow_model::checkpoint::Checkpoint;

use crate::catalogue::CATALOGUE;
use crate::cli::Which;
use crate::commands::usage::Usage;
use crate::run_log::Final;

/// How deep folders of runs are looked into.
pub const DEPTH: usize = 4;

/// A run, or a file of predictions.
#[derive(Clone, Debug)]
pub struct Run {
    pub path: PathBuf,
    /// The run's recipe; `None` for a file.
    pub recipe: Option<String>,
    pub seed: u64,
    pub checkpoint: Option<PathBuf>,
    /// See [`Checkpoint::identity`].
    pub identity: String,
    /// Steps that the checkpoint was trained for.
    pub step: u64,
    /// Whether the run has not ended.
    pub unfinished: bool,
    /// A hash of the names of its training images, where it is known.
    pub training_names: Option<String>,
}

/// Runs of one recipe that differ in the seed alone. Several recipes where networks of different sizes are taken
/// for one that has them all.
#[derive(Clone, Debug)]
pub struct Arm {
    pub name: String,
    /// One list for each recipe, in the same order of seeds.
    pub parts: Vec<Vec<Run>>,
}

/// The arms of the arguments: run directories, folders of them, files of predictions, and such joined by `+`.
/// `tell` gets what is left out.
///
/// # Errors
/// A path that is none of these; parts joined by `+` that do not have the same seeds.
pub fn arms(arguments: &[PathBuf], which: Which, tell: impl Fn(&str)) -> Result<Vec<Arm>> {
    let mut arms: Vec<Arm> = Vec::new();
    for argument in arguments {
        let paths = paths_of(argument);
        if let [path] = paths.as_slice() {
            for run in runs(path, which, &tell)? {
                add(run, &mut arms, &tell);
            }
            continue;
        }
        let parts = paths.iter().map(|path| {
            let mut found = Vec::new();
            for run in runs(path, which, &tell)? {
                add(run, &mut found, &tell);
            }
            ensure!(
                found.len() == 1,
                Usage(format!(
                    "{} holds {} recipes; what is joined by + must be runs of one recipe each",
                    path.shown(),
                    found.len()
                ))
            );
            Ok(found.into_iter().flat_map(|arm| arm.parts).collect())
        });
        let parts: Vec<Vec<Vec<Run>>> = parts.collect::<Result<_>>()?;
        arms.push(joined(parts.into_iter().flatten().collect(), argument)?);
    }
    name(&mut arms);
    Ok(arms)
}

/// What an argument names: itself, or the parts that `+` joins where there is no such file.
fn paths_of(argument: &Path) -> Vec<PathBuf> {
    let text = argument.to_str().unwrap_or_default();
    // Only the first part's `~` was seen when the argument was read.
    let part = |part: &str| home::expand(Path::new(part)).unwrap_or_else(|_| part.into());
    let parts: Vec<PathBuf> = text.split('+').map(part).collect();
    let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
    match argument.exists() || parts.iter().any(is_empty) {
        true => vec![argument.to_owned()],
        false => parts,
    }
}

/// Adds a run to the arm of its recipe. A second one with the same seed would say nothing new.
fn add(run: Run, arms: &mut Vec<Arm>, tell: &impl Fn(&str)) {
    let same = arms
        .iter_mut()
        .find_map(|arm| match arm.parts.as_mut_slice() {
            [runs] if is_same_but_seed(&runs[0], &run) => Some(runs),
            _ => None,
        });
    let Some(runs) = same else {
        arms.push(Arm {
            name: String::new(),
            parts: vec![vec![run]],
        });
        return;
    };
    match runs.iter().find(|there| there.seed == run.seed) {
        Some(there) => tell(&format!(
            "{} has the recipe and the seed of {}: it is left out",
            run.path.shown(),
            there.path.shown()
        )),
        None => runs.push(run),
    }
}

/// Whether two runs are of one recipe. In one folder of a sweep, what they start from may differ, too: the run
/// of the same seed.
fn is_same_but_seed(one: &Run, other: &Run) -> bool {
    let (Some(a), Some(b)) = (&one.recipe, &other.recipe) else {
        return false;
    };
    if one.training_names != other.training_names {
        return false;
    }
    let beside = one.path.parent() == other.path.parent();
    let field = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
    let differing = differences(a, b, CATALOGUE);
    differing.iter().map(field).all(|field| {
        field == "seed" || beside && field.ends_with(".start_from") && one.seed != other.seed
    })
}

/// Networks of different sizes in place of one, seed by seed.
fn joined(mut parts: Vec<Vec<Run>>, argument: &Path) -> Result<Arm> {
    for runs in &mut parts {
        runs.sort_by_key(|run| run.seed);
    }
    let seeds = |runs: &[Run]| runs.iter().map(|run| run.seed).collect::<Vec<_>>();
    let first = parts.first().map(|runs| seeds(runs)).unwrap_or_default();
    if let Some(other) = parts.iter().find(|runs| seeds(runs) != first) {
        let text = format!(
            "{}: what is joined by + must have the same seeds, and there are {first:?} and {:?}",
            argument.shown(),
            seeds(other)
        );
        return Err(Usage(text).into());
    }
    Ok(Arm {
        name: String::new(),
        parts,
    })
}

/// The runs that a path names.
fn runs(path: &Path, which: Which, tell: &impl Fn(&str)) -> Result<Vec<Run>> {
    if path.is_file() {
        return Ok(vec![Run {
            path: path.to_owned(),
            recipe: None,
            seed: 0,
            checkpoint: None,
            identity: String::new(),
            step: 0,
            unfinished: false,
            training_names: None,
        }]);
    }
    let mut found = Vec::new();
    directories(path, DEPTH, &mut found)?;
    let runs = found.iter().map(|path| open(path, which, tell));
    let runs: Vec<Run> = runs
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    ensure!(
        !runs.is_empty(),
        Usage(format!(
            "{} is neither a run directory with a checkpoint, nor a folder of some, nor a file that `rsflow eval \
             --predictions` has written",
            path.shown()
        ))
    );
    Ok(runs)
}

/// The run directories in a folder, itself one of them perhaps, sorted: numbers by their value.
///
/// # Errors
/// A folder that cannot be read.
pub fn directories(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    // A sweep has a recipe in its folder, too.
    if folder.join(RECIPE).is_file() && folder.join(LOG).is_file() {
        found.push(folder.to_owned());
        return Ok(());
    }
    if depth == 0 || !folder.is_dir() {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.with_context(|| format!("cannot list {}", folder.shown()))?;
    let mut folders: Vec<PathBuf> = entries.iter().map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (name.parse::<u64>().unwrap_or(u64::MAX), name.into_owned())
    });
    for folder in folders {
        directories(&folder, depth - 1, found)?;
    }
    Ok(())
}

/// `None`: it has no checkpoint yet.
fn open(path: &Path, which: Which, tell: &impl Fn(&str)) -> Result<Option<Run>> {
    let name = match which {
        Which::Last => LAST,
        Which::Best => BEST,
    };
    let file = path.join(CHECKPOINTS).join(name);
    if !file.is_file() {
        tell(&format!(
            "{} has no checkpoint {name}: it is left out",
            path.shown()
        ));
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(&file)?;
    let metadata = checkpoint.metadata();
    Ok(Some(Run {
        path: path.to_owned(),
        recipe: Some(metadata.recipe.clone()),
        seed: seed_of(&metadata.recipe)?,
        step: metadata.step,
        unfinished: Final::of(path).is_none(),
        training_names: metadata.training_names.clone(),
        identity: checkpoint.identity(),
        checkpoint: Some(file),
    }))
}

fn seed_of(recipe: &str) -> Result<u64> {
    let text = Text::new("the checkpoint's recipe", recipe);
    let recipe = Recipe::parse(text, CATALOGUE, &[]);
    Ok(recipe.context("the recipe of a run cannot be read")?.seed())
}

/// Names the arms by what their paths do not have in common.
fn name(arms: &mut [Arm]) {
    let full: Vec<Vec<PathBuf>> = arms
        .iter()
        .map(|arm| arm.parts.iter().map(|runs| common(runs)).collect())
        .collect();
    let all: Vec<&PathBuf> = full.iter().flatten().collect();
    let shared = |at: usize| {
        let part = |path: &PathBuf| path.components().nth(at).map(|c| c.as_os_str().to_owned());
        let first = all.first().and_then(|path| part(path));
        // What is left must not be empty.
        let long_enough = all.iter().all(|path| path.components().count() > at + 1);
        long_enough && all.iter().all(|path| part(path) == first)
    };
    let cut = (0..).take_while(|at| shared(*at)).count();
    for (arm, paths) in arms.iter_mut().zip(&full) {
        let rest = paths.iter().map(|path| {
            let rest: PathBuf = path.components().skip(cut).collect();
            rest.shown().to_string()
        });
        arm.name = rest.collect::<Vec<_>>().join("+");
    }
}

/// The folder that runs of one recipe lie in; of one run, itself.
fn common(runs: &[Run]) -> PathBuf {
    let Some((first, others)) = runs.split_first() else {
        return PathBuf::new();
    };
    let mut path = first.path.clone();
    while !others.iter().all(|run| run.path.starts_with(&path)) {
        if !path.pop() {
            return first.path.clone();
        }
    }
    match path.as_os_str().is_empty() {
        true => first.path.clone(),
        false => path,
    }
}
