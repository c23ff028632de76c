//! Run directories.

use std::fs;
use std::io::ErrorKind::AlreadyExists;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::run_files::{CHECKPOINTS, LOG, RECIPE, last_checkpoint};

use crate::files;

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
}

impl RunDir {
    /// Finds the directory of a run, or a place for it. `resume` as on the command line: not given,
    /// given without a checkpoint, or with one. Writes nothing.
    pub fn find(
        recipe: &Path,
        wanted: Option<&Path>,
        resume: Option<&Option<PathBuf>>,
    ) -> Result<Self> {
        let all_runs = Path::new("runs").join(recipe.file_stem().unwrap_or_default());
        let (path, resume) = match (wanted, resume) {
            (wanted, None) => (wanted.map(Path::to_owned), None),
            (wanted, Some(Some(checkpoint))) => {
                let path = wanted.map(Path::to_owned).or_else(|| run_of(checkpoint));
                (path, Some(checkpoint.clone()))
            }
            (Some(path), Some(None)) => (Some(path.to_owned()), Some(last_checkpoint(path))),
            (None, Some(None)) => {
                let path = latest(&all_runs)?;
                let last = last_checkpoint(&path);
                (Some(path), Some(last))
            }
        };
        let is_named_by_time = path.is_none();
        let path = path.unwrap_or_else(|| all_runs.join(start_time()));
        if let Some(checkpoint) = &resume {
            ensure!(
                checkpoint.is_file(),
                "there is no checkpoint {} to resume from; leave --resume out to start a new run",
                checkpoint.display()
            );
        }
        if resume.is_none() && !is_named_by_time && path.exists() {
            ensure!(path.is_dir(), "{} is not a folder", path.display());
            let mut entries =
                fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
            let way_out = match last_checkpoint(&path).exists() {
                true => "--resume resumes it, another --run-dir starts a new run",
                false => {
                    "it holds no checkpoint to resume from: remove it, or name another --run-dir"
                }
            };
            ensure!(
                entries.next().is_none(),
                "the run directory {} is not empty; {way_out}",
                path.display()
            );
        }
        Ok(RunDir {
            path,
            resume,
            fresh: false,
            is_named_by_time,
        })
    }

    /// Makes the directory, unless it exists. One that is named by the start time belongs to this run
    /// alone: a number is added where another run was started in the same second.
    pub fn make(&mut self) -> Result<()> {
        self.try_to_make().with_context(|| {
            format!(
                "cannot make the run directory {}; --run-dir names another",
                self.path.display()
            )
        })
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
                    let name = wanted.file_name().unwrap_or_default().display();
                    self.path = wanted.with_file_name(format!("{name}-{number}"));
                }
                Err(_) if self.path.is_dir() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file for the program's log.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Writes the recipe that runs, overrides applied.
    pub fn write_recipe(&self, text: &str) -> Result<()> {
        let path = self.path.join(RECIPE);
        files::replace(&path, text.as_bytes()).with_context(|| {
            format!(
                "cannot write {}; --run-dir names another place",
                path.display()
            )
        })
    }

    /// Removes the directory if this run made it.
    pub fn discard(&self) {
        if self.fresh {
            let _ = fs::remove_dir_all(&self.path);
            // `remove_dir` removes empty folders only.
            let mut parent = self.path.parent();
            while let Some(folder) = parent.filter(|folder| folder.starts_with("runs")) {
                if fs::remove_dir(folder).is_err() {
                    break;
                }
                parent = folder.parent();
            }
        }
    }
}

/// The directory of the run that wrote a checkpoint; a resumed run continues there.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let folder = checkpoint.parent()?;
    let run_dir = folder.parent()?;
    let run_dir = match run_dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => run_dir,
    };
    // Other folders may have the same name.
    let is_one = folder.file_name()? == CHECKPOINTS && run_dir.join(LOG).is_file();
    is_one.then(|| run_dir.to_owned())
}

/// The run whose last checkpoint is the newest.
fn latest(runs: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let newest = entries
        .filter_map(|entry| {
            let modified =
                fs::metadata(last_checkpoint(&entry.path())).and_then(|file| file.modified());
            Some((modified.ok()?, entry.path()))
        })
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => bail!(
            "no run in {} has a checkpoint to resume from; --run-dir names a run",
            runs.display()
        ),
    }
}

fn start_time() -> String {
    let now = jiff::ZonedDateTime::now();
    now.strftime("%Y-%m-%d_%H-%M-%S").to_string()
}
