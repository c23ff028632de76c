//! Sinks: metrics and checkpoints on disk. They write on threads where blocking is allowed; the
//! trainer waits only if their queue is full.
//!
//! All of them write below the run directory. A resumed run replaces what the previous run wrote
//! after the checkpoint; each sink says how.

mod checkpoints;
mod metrics_csv;
pub mod metrics_line;
mod metrics_log;
mod tensorboard;

pub use checkpoints::Checkpoints;
pub use metrics_csv::MetricsCsv;
pub use metrics_log::MetricsLog;
pub use tensorboard::TensorBoard;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Error, Result, bail, ensure};
use rsflow_base::disk;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Build, Journal, LogWriter, Port};

/// The one input that every sink has.
const fn input(carries: &'static str) -> Port {
    Port {
        name: "input",
        carries,
    }
}

fn run_dir<'a>(build: &Build<'a>) -> Result<&'a Path> {
    build
        .run
        .run_dir
        .as_deref()
        .with_context(|| format!("`{}` needs a run directory to write to", build.node))
}

/// Locks a file or folder against other runs in the same run directory, for as long as `file` is
/// open. (The plan already checks that no other node of the recipe writes to it.)
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "{} is being written by another run; stop that run, or choose another run directory with \
             `--run-dir`",
            path.shown()
        ),
        // Some network file systems do not support locks; run without.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Appends all of `bytes` or nothing: a partial write, as on a full disk, is truncated.
fn append(file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    let length = file.metadata().map(|metadata| metadata.len());
    let written = disk::write_all(file, bytes);
    if written.is_err()
        && let Ok(length) = length
    {
        let _ = disk::set_len(file, length);
    }
    written
        .with_context(|| format!("cannot write {}", path.shown()))
        .map_err(with_hint)
}

/// Adds a log to those that checkpoints wait for.
fn join(journal: &Journal, file: &File, path: &Path) -> Result<LogWriter> {
    let (file, path) = (file.try_clone()?, path.to_owned());
    Ok(journal.add(move || sync(&file, &path).map_err(with_hint)))
}

/// Forces a log to the disk, and makes sure that it still has its name.
fn sync(file: &File, path: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", path.shown());
    let ours = file.metadata().with_context(cannot)?;
    if !ours.is_file() {
        return Ok(()); // A pipe or a device.
    }
    disk::sync(file).with_context(cannot)?;
    let named = fs::metadata(path).with_context(|| {
        let path = path.shown();
        format!("{path} was removed while the run was writing to it")
    })?;
    ensure!(
        (named.dev(), named.ino()) == (ours.dev(), ours.ino()),
        "{} was replaced by another file while the run was writing to it",
        path.shown()
    );
    Ok(())
}

/// Adds to an I/O error what can be done about it.
fn with_hint(error: Error) -> Error {
    use io::ErrorKind::{
        NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let hint = match kind {
        Some(StorageFull | QuotaExceeded) => {
            "the disk is full; free some space, `--resume` then continues from the last checkpoint"
        }
        Some(ReadOnlyFilesystem | PermissionDenied) => {
            "the run directory cannot be written to; make it writable (`--resume` then continues \
             from the last checkpoint) or choose another with `--run-dir`"
        }
        Some(NotFound | NotADirectory) => {
            "the run directory does not exist or is not a directory; restore it (`--resume` then \
             continues from the last checkpoint) or choose another with `--run-dir`"
        }
        _ => return error,
    };
    error.context(hint)
}
