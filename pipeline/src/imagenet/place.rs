//! Moves or links one file. Never overwrites a file, and never loses one: whenever the program is killed,
//! the file has its old name, its new name, or both.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use rsflow_base::disk::sync_folder_of;
use rsflow_base::whole_file::copy;

/// Whether two paths are the same file, or files with the same content.
pub(super) fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    if same_file::is_same_file(one, other)? {
        return Ok(true);
    }
    let [mut one, mut other] = [File::open(one)?, File::open(other)?];
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let [mut one, mut other] = [&mut one, &mut other].map(BufReader::new);
    loop {
        let [a, b] = [one.fill_buf()?, other.fill_buf()?];
        let length = a.len().min(b.len());
        if a[..length] != b[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(a.len() == b.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Moves the file `from` to `to`, which must not exist.
pub(super) fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_symlink() {
        return move_link(from, to);
    }
    match rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            let partial = partial(to);
            // An incomplete copy of an earlier move.
            let _ = fs::remove_file(&partial);
            let copied = copy(from, &partial)
                .and_then(|()| rename(&partial, to))
                .and_then(|()| sync_folder_of(to));
            if copied.is_err() {
                let _ = fs::remove_file(&partial);
            }
            copied?;
            fs::remove_file(from)
        }
        result => result,
    }
}

/// The name of a copy until it is complete: `.NAME.partial`. A later run finds it by this name.
fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

/// Links `to`, which must not exist, to the file `from`: a hard link, or else a symbolic one.
pub(super) fn link_to(from: &Path, to: &Path) -> io::Result<()> {
    let file = fs::canonicalize(from)?;
    match fs::hard_link(&file, to) {
        // Another file system, or one without hard links.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => symlink(&file, to),
        result => result,
    }
}

/// Removes `from`, which has the same content as `to`.
pub(super) fn remove_duplicate(from: &Path, to: &Path) -> io::Result<()> {
    if !is_same(from, to)? {
        return Err(io::Error::other("they are no longer the same"));
    }
    // Left by a move that was interrupted after its copy was renamed.
    let _ = fs::remove_file(partial(to));
    if to.is_symlink() {
        // The link may point to `from`, so it is replaced by the file.
        let file = fs::canonicalize(from)?;
        fs::remove_file(to)?;
        if from.is_symlink() {
            symlink(&file, to)?;
        } else {
            return move_to(from, to);
        }
    }
    fs::remove_file(from)
}

/// Moves a symbolic link. Makes it absolute, because a relative one would be broken at its new path.
fn move_link(from: &Path, to: &Path) -> io::Result<()> {
    symlink(&fs::canonicalize(from)?, to)?;
    fs::remove_file(from)
}

/// Renames, but never over another file.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => Err(error),
        // Either `to` exists, or the file system has no hard links.
        Err(_) if to.symlink_metadata().is_ok() => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(unix)]
fn symlink(file: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(file, to)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
