//! Run directories.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::run_files::{
    BEST, CHECKPOINTS, EVENTS, LAST, LOG, METRICS, METRICS_CSV, NOW, RECIPE, SKIPPED, TENSORBOARD,
    epochs_of, last_checkpoint,
};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::Checkpoint;

use crate::{cli, files};

/// The directory of a run.
pub struct RunDir {
    /// The directory.
    pub path: PathBuf,
    /// The checkpoint to resume from.
    pub resume: Option<PathBuf>,
    /// Whether this run made the directory.
    fresh: bool,
    /// Whether it is named by the start time; another run may have the same.
    is_named_by_time: bool,
    /// Whether what an earlier run has left there, which saved nothing, is to be removed.
    starts_over: bool,
    /// Which process of the run this is.
    rank: u32,
}

impl RunDir {
    /// Finds the directory of a run, or a place for it. Writes nothing.
    ///
    /// # Errors
    /// There is nothing to resume from, or something that would be overwritten.
    pub fn find(arguments: &cli::Run) -> Result<Self> {
        let all_runs = of_recipe(arguments.recipe.file_stem().unwrap_or_default());
        let (path, resume) = match (arguments.run_dir.as_deref(), &arguments.resume) {
            (Some(path), None) if arguments.resume_if_any => {
                return Self::resume_if_any(path);
            }
            (wanted, None) => (wanted.map(Path::to_owned), None),
            (wanted, Some(Some(run))) if run.is_dir() => {
                let path = wanted.unwrap_or(run);
                (Some(path.to_owned()), Some(last_checkpoint(run)))
            }
            (wanted, Some(Some(checkpoint))) => {
                let path = wanted.map(Path::to_owned).or_else(|| run_of(checkpoint));
                (path, Some(checkpoint.clone()))
            }
            (Some(path), Some(None)) => (Some(path.to_owned()), Some(last_checkpoint(path))),
            (None, Some(None)) => {
                let path = match run_of_recipe(&arguments.recipe) {
                    Some(run) => run,
                    None => latest(&all_runs)?,
                };
                let last = last_checkpoint(&path);
                (Some(path), Some(last))
            }
        };
        let is_named_by_time = path.is_none();
        let path = path.unwrap_or_else(|| match is_run(&all_runs) {
            true => beside(&all_runs, &start_time()),
            false => all_runs.join(start_time()),
        });
        if let Some(checkpoint) = &resume {
            ensure!(
                checkpoint.is_file(),
                "there is no checkpoint {} to resume from; {}",
                checkpoint.shown(),
                match newest_sound(&path.join(CHECKPOINTS)) {
                    Some(other) => instead(&other),
                    None => "leave --resume out to start a new run".to_owned(),
                }
            );
        }
        if resume.is_none() && !is_named_by_time && path.exists() {
            ensure!(path.is_dir(), "{} is not a folder", path.shown());
            ensure!(
                !is_locked(&path),
                "another run uses the run directory {}; --run-dir names another",
                path.shown()
            );
            let way_out = || {
                if last_checkpoint(&path).exists() {
                    return "--resume resumes it, another --run-dir starts a new run".to_owned();
                }
                match newest_sound(&path.join(CHECKPOINTS)) {
                    Some(other) => format!("its {LAST} is gone; {}", instead(&other)),
                    // What no run has made, nobody is to remove.
                    None if !path.join(LOG).is_file() => {
                        "it is not the directory of a run; name another --run-dir".to_owned()
                    }
                    None => "it holds no checkpoint to resume from: remove it, or name another \
                             --run-dir"
                        .to_owned(),
                }
            };
            ensure!(
                is_empty(&path)?,
                "the run directory {} is not empty; {}",
                path.shown(),
                way_out()
            );
        }
        Ok(RunDir {
            path,
            resume,
            fresh: false,
            is_named_by_time,
            starts_over: false,
            rank: 0,
        })
    }

    /// The directory of a run that is started, or was and is to be resumed from its newest sound checkpoint.
    /// If it ended before its first one, it starts over.
    fn resume_if_any(path: &Path) -> Result<Self> {
        ensure!(
            path.is_dir() || !path.exists(),
            "{} is not a folder",
            path.shown()
        );
        let checkpoints = path.join(CHECKPOINTS);
        let entries = match fs::read_dir(&checkpoints) {
            Err(error) if error.kind() == NotFound => Vec::new(),
            entries => entries
                .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
                .with_context(|| format!("cannot list {}", checkpoints.shown()))?,
        };
        let is_one = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_str().is_some_and(is_checkpoint)
        };
        let resume = match entries.iter().any(is_one) {
            false => None,
            true => {
                let last = last_checkpoint(path);
                let sound = open_sound(&last).map(|_| last);
                let newest = || newest_sound(&checkpoints);
                let found = sound.or_else(|error| newest().ok_or(error));
                Some(found.with_context(|| {
                    format!("no checkpoint in {} is sound", checkpoints.shown())
                })?)
            }
        };
        // Only what a run has left there is removed.
        let starts_over = resume.is_none() && path.join(LOG).is_file();
        ensure!(
            resume.is_some() || starts_over || !path.exists() || is_empty(path)?,
            "{} is not empty, and it is not the directory of a run; --run-dir names another",
            path.shown()
        );
        Ok(RunDir {
            path: path.to_owned(),
            fresh: false,
            is_named_by_time: false,
            starts_over,
            resume,
            rank: 0,
        })
    }

    /// Makes the directory, unless it exists, and locks it against other runs for as long as the file
    /// that is returned is open. One that is named by the start time belongs to this run alone: a number
    /// is added where another run was started in the same second.
    pub fn make(&mut self) -> Result<File> {
        self.try_to_make().with_context(|| {
            format!(
                "cannot make the run directory {}; --run-dir names another",
                self.path.shown()
            )
        })?;
        let place = self.path.shown();
        let folder = File::open(&self.path).with_context(|| format!("cannot open {place}"))?;
        let locked = !is_busy(&folder);
        if locked && self.starts_over {
            remove_files(&self.path);
            return Ok(folder);
        }
        // Another run may have had it until now, and left something in it.
        let ours = locked && (self.resume.is_some() || is_empty(&self.path)?);
        if !ours {
            self.fresh = false;
            bail!("another run uses the run directory {place}; --run-dir names another");
        }
        Ok(folder)
    }

    fn try_to_make(&mut self) -> std::io::Result<()> {
        let wanted = self.path.clone();
        if let Some(folder) = wanted.parent() {
            fs::create_dir_all(folder)?;
        }
        for number in 2.. {
            match fs::create_dir(&self.path) {
                Ok(()) => {
                    // `create_dir` succeeds for one process only.
                    self.fresh = true;
                    break;
                }
                Err(error) if error.kind() != AlreadyExists => return Err(error),
                Err(_) if self.is_named_by_time => {
                    let mut name = wanted.file_name().unwrap_or_default().to_owned();
                    name.push(format!("-{number}"));
                    self.path = wanted.with_file_name(name);
                }
                Err(_) if self.path.is_dir() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the first process tells the others of the directory, once it has made it.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn to_text(&self) -> Result<String> {
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.with_context(|| format!("the path {} is no text", path.shown()))
        };
        let resume = self.resume.as_deref().map(text).transpose()?;
        Ok(serde_json::to_string(&(
            text(&self.path)?,
            resume,
            self.fresh,
        ))?)
    }

    /// The directory as another process sees it, by [`RunDir::to_text`].
    ///
    /// # Errors
    /// It is not such a text.
    pub fn of_text(text: &str, rank: u32) -> Result<Self> {
        let (path, resume, fresh) = serde_json::from_str(text)?;
        Ok(RunDir {
            path,
            resume,
            fresh,
            is_named_by_time: false,
            starts_over: false,
            rank,
        })
    }

    /// The file for the program's log; other processes than the first have files of their own.
    pub fn log(&self) -> PathBuf {
        self.path.join(log_of(self.rank))
    }

    /// Writes the recipe that runs, overrides applied.
    pub fn write_recipe(&self, text: &str) -> Result<()> {
        let path = self.path.join(RECIPE);
        files::replace(&path, text.as_bytes()).with_context(|| {
            format!(
                "cannot write {}; --run-dir names another place",
                path.shown()
            )
        })
    }

    /// What to remove if the run does not start; `None` where a run is resumed in its own directory. Call
    /// it after [`RunDir::make`].
    pub fn unused(&self) -> Option<Unused> {
        (self.resume.is_none() || self.fresh).then(|| Unused {
            path: self.path.clone(),
            made: self.fresh,
            rank: self.rank,
        })
    }
}

/// The directory of a run that has not trained: what is in it would only have to be removed by the user
/// before the next start. It was empty when this run locked it.
#[derive(Clone)]
pub struct Unused {
    path: PathBuf,
    /// Whether this run made the directory.
    made: bool,
    rank: u32,
}

fn log_of(rank: u32) -> String {
    match rank {
        0 => LOG.to_owned(),
        rank => format!("run.rank-{rank}.log"),
    }
}

impl Unused {
    /// Removes what a run writes before its first step, by name: what somebody else has put there stays.
    /// Then the folders, if they are empty (`remove_dir` removes no others): of several processes, the last
    /// one does.
    pub fn remove(&self) {
        if self.rank == 0 {
            let checkpoints = self.path.join(CHECKPOINTS);
            if checkpoints.exists() && fs::remove_dir(&checkpoints).is_err() {
                return; // Something is in it.
            }
            remove_files(&self.path);
        }
        let _ = fs::remove_file(self.path.join(log_of(self.rank)));
        if !self.made || fs::remove_dir(&self.path).is_err() {
            return;
        }
        let mut parent = self.path.parent();
        while let Some(folder) = parent.filter(|folder| folder.starts_with("runs")) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
            parent = folder.parent();
        }
    }
}

/// Removes what process 0 writes before the first checkpoint, by name.
fn remove_files(run_dir: &Path) {
    for name in [METRICS, METRICS_CSV, NOW, RECIPE, SKIPPED] {
        let _ = fs::remove_file(run_dir.join(name));
    }
    let events = run_dir.join(TENSORBOARD);
    for entry in fs::read_dir(&events).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(EVENTS) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(events);
}

/// Whether another run uses the directory.
pub fn is_locked(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|folder| is_busy(&folder))
}

/// Locks the directory, if no other run has locked it. Some network file systems do not support locks;
/// run without.
pub fn is_busy(folder: &File) -> bool {
    matches!(folder.try_lock(), Err(TryLockError::WouldBlock))
}

fn is_empty(folder: &Path) -> Result<bool> {
    let entries = fs::read_dir(folder);
    let mut entries = entries.with_context(|| format!("cannot list {}", folder.shown()))?;
    Ok(entries.next().is_none())
}

/// Opens the checkpoint to resume from, and makes sure that all of it is sound. Where it is not, the error
/// names another one.
pub fn open(path: &Path) -> Result<Checkpoint> {
    open_sound(path).map_err(|error| {
        let folder = path.parent().unwrap_or(Path::new(""));
        match newest_sound(folder) {
            Some(other) => error.context(format!(
                "cannot resume from {}; {}",
                path.shown(),
                instead(&other)
            )),
            None => error,
        }
    })
}

fn open_sound(path: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.verify()?;
    Ok(checkpoint)
}

/// Whether a file of a folder of checkpoints is one, by its name.
fn is_checkpoint(name: &str) -> bool {
    matches!(name, LAST | BEST) || epochs_of(name).is_some()
}

/// The sound checkpoint of a folder that is furthest in its run.
fn newest_sound(checkpoints: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(checkpoints).ok()?.flatten();
    let found = entries.filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        if !is_checkpoint(name) {
            return None;
        }
        let checkpoint = Checkpoint::open(&entry.path()).ok()?;
        let metadata = checkpoint.metadata();
        // Of equal ones that of an epoch: it stays what it is.
        Some((metadata.epoch, metadata.step, epochs_of(name), entry.path()))
    });
    let mut found: Vec<_> = found.collect();
    found.sort();
    let paths = found.into_iter().rev().map(|(.., path)| path);
    paths.into_iter().find(|path| open_sound(path).is_ok())
}

/// What to write to resume from another checkpoint.
fn instead(checkpoint: &Path) -> String {
    format!(
        "the newest whole checkpoint in this folder resumes it: --resume {}",
        checkpoint.shown()
    )
}

/// The directory of the run that wrote a checkpoint; a resumed run continues there.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let folder = checkpoint.parent()?;
    // Other folders may have the same name.
    run_with(folder).filter(|_| folder.file_name() == Some(CHECKPOINTS.as_ref()))
}

/// The directory of the run that keeps its recipe in this file.
fn run_of_recipe(recipe: &Path) -> Option<PathBuf> {
    run_with(recipe).filter(|_| recipe.file_name() == Some(RECIPE.as_ref()))
}

/// The directory that a file or folder is in, if it is that of a run.
fn run_with(entry: &Path) -> Option<PathBuf> {
    let run_dir = entry.parent()?;
    let run_dir = match run_dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => run_dir,
    };
    run_dir.join(LOG).is_file().then(|| run_dir.to_owned())
}

/// Where the runs of a recipe are that name no directory, or all runs of data of that name.
pub fn of_recipe(name: impl AsRef<Path>) -> PathBuf {
    Path::new("runs").join(name)
}

/// `runs/NAME-TIME` for `runs/NAME`, which is the directory of a run itself.
fn beside(run: &Path, time: &str) -> PathBuf {
    let mut name = run.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{time}"));
    run.with_file_name(name)
}

fn is_run(folder: &Path) -> bool {
    folder.join(LOG).is_file()
}

/// The run of a recipe whose last checkpoint is the newest. They are in the folder `runs`, or it is the directory of
/// one itself, and others are beside it.
pub fn latest(runs: &Path) -> Result<PathBuf> {
    let list = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = list(runs).map(|entry| entry.path()).collect();
    if is_run(runs) {
        let named = beside(runs, "");
        let named = named.to_string_lossy();
        let others = list(runs.parent().unwrap_or(Path::new(""))).map(|entry| entry.path());
        all = others
            .filter(|other| other.to_string_lossy().starts_with(&*named))
            .chain([runs.to_owned()])
            .collect();
    }
    let newest = all
        .into_iter()
        .filter_map(|run| {
            let saved = fs::metadata(last_checkpoint(&run)).and_then(|file| file.modified());
            Some((saved.ok()?, run))
        })
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => bail!(
            "no run in {} has a checkpoint to resume from; --run-dir names a run",
            runs.shown()
        ),
    }
}

fn start_time() -> String {
    let now = jiff::ZonedDateTime::now();
    now.strftime("%Y-%m-%d_%H-%M-%S").to_string()
}
