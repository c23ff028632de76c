//! Where a run keeps its files.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::files;
use crate::progress::Screen;

/// The directory of a run.
pub struct RunDir {
    /// The directory.
    pub path: PathBuf,
    /// The checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Whether it is this run that makes it.
    fresh: bool,
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
            (Some(path), None) => (path.to_owned(), None),
            (None, None) => (all_runs.join(start_time()), None),
            (wanted, Some(Some(checkpoint))) => {
                // A checkpoint in a run directory brings its directory along.
                let its_own = checkpoint
                    .parent()
                    .filter(|parent| parent.file_name().is_some_and(|name| name == CHECKPOINTS))
                    .and_then(Path::parent);
                let path = wanted.or(its_own).map(Path::to_owned);
                (
                    path.unwrap_or_else(|| all_runs.join(start_time())),
                    Some(checkpoint.clone()),
                )
            }
            (Some(path), Some(None)) => (path.to_owned(), Some(last_checkpoint(path))),
            (None, Some(None)) => {
                let path = latest(&all_runs)?;
                let last = last_checkpoint(&path);
                (path, Some(last))
            }
        };
        if let Some(checkpoint) = &resume {
            ensure!(
                checkpoint.is_file(),
                "there is no checkpoint {} to go on from; leave --resume out to start anew",
                checkpoint.display()
            );
        }
        let fresh = !path.exists();
        if resume.is_none() && !fresh {
            ensure!(path.is_dir(), "{} is not a folder", path.display());
            let mut entries =
                fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
            ensure!(
                entries.next().is_none(),
                "the run directory {} is not empty; --resume goes on with it, another --run-dir starts anew",
                path.display()
            );
        }
        Ok(RunDir {
            path,
            resume,
            fresh,
        })
    }

    /// Makes the directory, unless it is there.
    pub fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| {
            format!(
                "cannot make the run directory {}; --run-dir names another",
                self.path.display()
            )
        })
    }

    /// Writes the recipe that runs, overrides applied.
    pub fn write_recipe(&self, text: &str) -> Result<()> {
        let path = recipe(&self.path);
        files::replace(&path, text.as_bytes()).with_context(|| {
            format!(
                "cannot write {}; --run-dir names another place",
                path.display()
            )
        })
    }

    /// Removes the directory, if this run made it.
    pub fn discard(&self) {
        if self.fresh {
            let _ = fs::remove_dir_all(&self.path);
            // The folders above are only removed if they are empty.
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

const CHECKPOINTS: &str = "checkpoints";

/// The recipe of a run, overrides applied.
pub fn recipe(run_dir: &Path) -> PathBuf {
    run_dir.join("recipe.ron")
}

/// The newest checkpoint of a run.
pub fn last_checkpoint(run_dir: &Path) -> PathBuf {
    run_dir.join(CHECKPOINTS).join("last.safetensors")
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
            "no run in {} has a checkpoint to go on from; --run-dir names a run",
            runs.display()
        ),
    }
}

fn start_time() -> String {
    let now = jiff::Zoned::try_from(SystemTime::now()).unwrap_or_else(|_| jiff::Zoned::now());
    now.strftime("%Y-%m-%d_%H-%M-%S").to_string()
}

/// Sends the program's log to the run directory, if there is one, and its warnings to the screen.
pub fn log(run_dir: Option<&RunDir>, screen: &Screen) -> Result<()> {
    let file = run_dir.map(|run_dir| {
        let path = run_dir.path.join("run.log");
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))
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
    let screen = screen.clone();
    let to_screen = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .with_writer(move || screen.clone())
        // Errors are printed when the run ends, with all of their causes. What it computes on is worth
        // to be seen at once.
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
            let computes = metadata.target().starts_with("rsflow_model::compute");
            *metadata.level() == tracing::Level::WARN
                || *metadata.level() == tracing::Level::INFO && computes
        }));
    // A second run in one process (a test) keeps the first one's log.
    let _ = tracing_subscriber::registry()
        .with(to_file)
        .with(to_screen)
        .try_init();
    Ok(())
}
