//! Files that are complete or absent, whatever happens: written or copied under a temporary name, then
//! renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The name of a file until it is complete: `.NAME.partial`. What a run that was killed leaves behind
/// is found and removed by it.
pub fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
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
    Ok(sync_folder_of(path)?)
}

/// Replaces a file that can be made again, such as a cache. Several processes may write it at the same
/// time: each has a temporary file of its own, and the last one stays. Everybody may read it. It is not
/// forced to the disk, so the reader must notice what a power failure leaves of it.
///
/// # Errors
/// What the file system says.
pub fn write_cache(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder_of(path))?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// Gives the complete file `from` the further name `to`, which may already be another file's; there is
/// a complete file of that name at any time. The folder still has to be synced ([`sync_folder_of`]).
///
/// # Errors
/// What the file system says.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = partial(to);
    let done = fs::hard_link(from, &temporary)
        // Not every file system has links.
        .or_else(|_| copy(from, &temporary))
        .and_then(|()| fs::rename(&temporary, to));
    // Also where it was renamed: if both names were the same file's already, nothing was done.
    let _ = fs::remove_file(&temporary);
    done
}

/// Copies a file with its permissions to a new one, down to the disk.
///
/// # Errors
/// There is a file `to` already; what the file system says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut old = File::open(from)?;
    let mut new = File::create_new(to)?;
    io::copy(&mut old, &mut new)?;
    new.set_permissions(old.metadata()?.permissions())?;
    new.sync_all()
}

/// Makes the names in a file's folder survive a power failure.
///
/// # Errors
/// What the file system says.
pub fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_links_is_copied_but_never_over_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "whole").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"whole");
        let error = copy(&to, &from).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&from).unwrap(), b"whole");
    }

    #[test]
    fn a_file_that_is_not_completed_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, |mut file| Ok(file.write_all(b"old")?)).unwrap();
        let failed = write(&path, |mut file| {
            file.write_all(b"ne")?;
            anyhow::bail!("no more")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_cache(&path, b"cached").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"cached");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
