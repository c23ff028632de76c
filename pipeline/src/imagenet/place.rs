//! Moves and links one file, so that nothing is overwritten and nothing is lost.
//!
//! Whenever the program is ended, the file has its old name, its new name, or both.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

/// Whether two names lead to one file, or to files of the same bytes.
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

/// Gives the file `from` the name `to`, which must be free.
pub(super) fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_symlink() {
        return move_link(from, to);
    }
    match rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            let partial = partial(to);
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

/// Gives the file `from` the further name `to`, which must be free.
pub(super) fn link_to(from: &Path, to: &Path) -> io::Result<()> {
    let file = fs::canonicalize(from)?;
    match fs::hard_link(&file, to) {
        // Another file system, or one without hard links.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => symlink(&file, to),
        result => result,
    }
}

/// Takes `from` away, whose bytes `to` has too.
pub(super) fn drop_double(from: &Path, to: &Path) -> io::Result<()> {
    if !is_same(from, to)? {
        return Err(io::Error::other("they are no longer the same"));
    }
    // Where a move was ended after its copy had got its name.
    let _ = fs::remove_file(partial(to));
    if to.is_symlink() {
        // It may lead to `from`: what it leads to has to take its place.
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

/// A relative link would lead nowhere from its new place.
fn move_link(from: &Path, to: &Path) -> io::Result<()> {
    symlink(&fs::canonicalize(from)?, to)?;
    fs::remove_file(from)
}

/// Renames, but never over another file.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => Err(error),
        // Either that is why, or the file system has no links.
        Err(_) if to.symlink_metadata().is_ok() => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Copies a file down to the disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    // A copy that was not finished, perhaps already as write-protected as the file itself.
    let _ = fs::remove_file(to);
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Makes a new name survive a power failure.
fn sync_folder_of(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// What a file is called until it is whole.
fn partial(to: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(".partial");
    to.with_file_name(name)
}

#[cfg(unix)]
fn symlink(file: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(file, to)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
