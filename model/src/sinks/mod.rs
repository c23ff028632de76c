//! What keeps the trainer's words: nodes of their own, each in one file. They write on threads
//! where blocking is allowed, so the trainer waits only for room in the queue before them.
//!
//! All of them write below the run directory. A run that goes on from a checkpoint supersedes
//! what an earlier one wrote after it; each sink says how it deals with that.

mod checkpoints;
mod metrics_log;
mod tensorboard;

pub use checkpoints::Checkpoints;
pub use metrics_log::MetricsLog;
pub use tensorboard::TensorBoard;

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use rsflow_graph::{Build, Port};

/// The one input that every sink has.
const fn input(carries: &'static str) -> Port {
    Port {
        name: "input",
        carries,
    }
}

fn run_dir<'a>(build: &Build<'a>) -> Result<&'a Path> {
    build.run.run_dir.as_deref().with_context(|| {
        format!(
            "`{}` writes files, but there is no run directory to write them to",
            build.node
        )
    })
}

/// Makes sure that no other run in the same run directory writes to the file or folder for as long
/// as `file` is open. (That no other node of the recipe does is known from the plan.)
fn claim(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "{} is being written by another run; stop that run, or choose another run directory with \
             `--run-dir`",
            path.display()
        ),
        // Some network file systems have no locks; a run is possible there all the same.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Appends all of `bytes`, or nothing: what a full disk still took is cut off again.
fn append(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    let length = file.metadata().map(|metadata| metadata.len());
    let written = file.write_all(bytes);
    if let (Err(_), Ok(length)) = (&written, length) {
        // The first error is the one to tell.
        let _ = file.set_len(length);
    }
    written
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(with_way_out)
}

/// Makes the names in a folder survive a power failure.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot write the folder {}", folder.display()))
}

/// Says what can be done about a disk that does not take what is given to it.
fn with_way_out(error: Error) -> Error {
    use io::ErrorKind::{
        NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let way_out = match kind {
        Some(StorageFull | QuotaExceeded) => {
            "the disk is full; free some space, `--resume` then continues from the last checkpoint"
        }
        Some(ReadOnlyFilesystem | PermissionDenied) => {
            "the run directory cannot be written to; make it writable (`--resume` then continues \
             from the last checkpoint) or choose another with `--run-dir`"
        }
        Some(NotFound | NotADirectory) => {
            "the run directory is not there, or cannot hold files; restore it (`--resume` then \
             continues from the last checkpoint) or choose another with `--run-dir`"
        }
        _ => return error,
    };
    error.context(way_out)
}
