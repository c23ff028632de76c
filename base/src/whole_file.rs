//! Files that are complete or absent, whatever happens.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The name of a file until it is complete.
pub fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

/// Has `write` write a file under a temporary name beside `path`, which then takes the name `path`
/// and replaces what was there. When this returns, the disk has it.
///
/// One path is written by one thread at a time.
///
/// # Errors
/// What the file system says (no such folder, no permission, disk full), without the path. The
/// temporary file is gone then, and what was at `path` is still there.
pub fn write(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    path.file_name().context("it is not the path of a file")?;
    let temporary = partial(path);
    let file = File::create(&temporary)?;
    let written = write(&file)
        .and_then(|()| Ok(file.sync_all()?))
        .and_then(|()| Ok(fs::rename(&temporary, path)?));
    if written.is_err() {
        // The first error is the one to tell; this one would add nothing to it.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // The rename itself must survive a power failure too.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok(File::open(folder)?.sync_all()?)
}
