//! Files that are complete or absent, whatever happens: written or copied under a temporary name, then
//! renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::disk;

/// Has `write` write a file under a temporary name beside `path`, which then takes the name `path`
/// and replaces what was there. When this returns, the disk has it.
///
/// # Errors
/// What the file system says (no such folder, no permission, disk full), without the path. The
/// temporary file is gone then, and what was at `path` is still there.
pub fn write(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_checked(path, write, |_| Ok(()))
}

/// The same, but the file takes its name only if `check`, which gets its temporary name, finds no error.
///
/// # Errors
/// As [`write()`]; that of `check`.
pub fn write_checked(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    path.file_name().context("it is not the path of a file")?;
    let (temporary, file) = temporary(path, disk::create_new)?;
    let written = write(&mut Whole(&file))
        .and_then(|()| check(&temporary))
        .and_then(|()| Ok(disk::sync(&file)?))
        .and_then(|()| Ok(disk::rename(&temporary, path)?));
    if written.is_err() {
        // The first error is the one to tell; this one would add nothing to it.
        let _ = disk::remove_file(&temporary);
    }
    written?;
    // The rename itself must survive a power failure too.
    Ok(disk::sync_folder_of(path)?)
}

/// The same, but nothing is forced to the disk: for what is replaced all the time, and of which a power failure
/// may leave nothing. The reader must notice that.
///
/// # Errors
/// As [`write()`].
pub fn write_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    let (temporary, file) = temporary(path, disk::create_new)?;
    let written = disk::write_all(&file, content).and_then(|()| disk::rename(&temporary, path));
    if written.is_err() {
        let _ = disk::remove_file(&temporary);
    }
    written
}

/// Writes to a file by [`disk`].
struct Whole<'a>(&'a File);

impl Write for Whole<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        disk::write_all(self.0, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has `make` make something under a free name beside `path`: `.NAME.RANDOM.partial`. Nothing that has
/// this name already is opened, or followed if it is a link.
fn temporary<T>(path: &Path, make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(RANDOM)
        .suffix(PARTIAL)
        // Removed here, so that a test sees every change to the disk.
        .disable_cleanup(true)
        .make_in(disk::folder_of(path), make)?;
    let (made, place) = made.into_parts();
    Ok((place.to_path_buf(), made))
}

const PARTIAL: &str = ".partial";
/// Random characters in the name of a temporary file.
const RANDOM: usize = 6;

/// The name of the file that a temporary one would have become, by the temporary name. That of older
/// programs, `.NAME.partial`, counts too.
pub fn unfinished(name: &str) -> Option<&str> {
    let name = name.strip_prefix('.')?.strip_suffix(PARTIAL)?;
    let random = |random: &str| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    match name.rsplit_once('.') {
        Some((name, end)) if random(end) => Some(name),
        _ => Some(name),
    }
}

/// Makes sure that files can be written in a folder; leaves none.
///
/// # Errors
/// What the file system says.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    tempfile::tempfile_in(folder).map(|_| ())
}

/// Removes what killed processes left of files in a folder whose names are `wanted`. No other process
/// may be writing them.
///
/// # Errors
/// What the file system says.
pub fn remove_unfinished(folder: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_str().and_then(unfinished).is_some_and(&wanted) {
            disk::remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Replaces a file that can be made again, such as a cache. Several processes may write it at the same
/// time, and the last one stays. Everybody may read it. It is not forced to the disk, so the reader must
/// notice what a power failure leaves of it.
///
/// # Errors
/// What the file system says.
pub fn write_cache(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(disk::folder_of(path))?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// Gives the complete file `from` the further name `to`, which may already be another file's; there is
/// a complete file of that name at any time. The folder still has to be synced
/// ([`disk::sync_folder_of`]).
///
/// # Errors
/// What the file system says.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let link = |place: &Path| disk::hard_link(from, place);
    let (temporary, ()) = temporary(to, link)
        // Not every file system has links.
        .or_else(|_| temporary(to, |place| copy(from, place)))?;
    let renamed = disk::rename(&temporary, to);
    // Also where it was renamed: if both names were the same file's already, nothing was done.
    let _ = disk::remove_file(&temporary);
    renamed
}

/// Copies a file with its permissions to a new one, down to the disk.
///
/// # Errors
/// There is a file `to` already; what the file system says. A part of the copy is removed.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut old = File::open(from)?;
    let new = disk::create_new(to)?;
    let copied = io::copy(&mut old, &mut Whole(&new))
        .and_then(|_| new.set_permissions(old.metadata()?.permissions()))
        .and_then(|()| disk::sync(&new));
    if copied.is_err() {
        let _ = disk::remove_file(to);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::injection::{Fault, with};

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
        write(&path, |file| Ok(file.write_all(b"old")?)).unwrap();
        let failed = write(&path, |file| {
            file.write_all(b"ne")?;
            anyhow::bail!("no more")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let wrong = |written: &Path| {
            assert_eq!(fs::read(written)?, b"new");
            anyhow::bail!("it is wrong")
        };
        let refused = write_checked(&path, |file| Ok(file.write_all(b"new")?), wrong);
        assert_eq!(refused.unwrap_err().to_string(), "it is wrong");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let (failed, calls) = with(Some((1, Fault::DiskFull)), || write_unsynced(&path, b"not"));
        assert_eq!(
            (failed.unwrap_err().kind(), calls),
            (io::ErrorKind::StorageFull, 3)
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_unsynced(&path, b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");

        write_cache(&path, b"cached").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"cached");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_other_file_is_opened_by_the_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let [victim, path, old] =
            ["victim", "file", ".file.partial"].map(|name| folder.path().join(name));
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, &old).unwrap();
        write(&path, |file| Ok(file.write_all(b"new")?)).unwrap();
        link_or_copy(&path, &folder.path().join("link")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert!(!path.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn what_a_killed_process_left_is_known_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let killed = Some((2, Fault::Killed));
        let (failed, _) = with(killed, || write(&path, |file| Ok(file.write_all(b"new")?)));
        failed.unwrap_err();
        let names = fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        let [name] = names.as_slice() else {
            panic!("{names:?}")
        };
        assert_eq!(unfinished(name.to_str().unwrap()), Some("last.safetensors"));
        remove_unfinished(folder.path(), |name| name == "other").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove_unfinished(folder.path(), |name| name == "last.safetensors").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let table = [
            (".last.safetensors.partial", Some("last.safetensors")),
            (".a.b.partial", Some("a.b")),
            ("last.safetensors.partial", None),
            (".last.safetensors", None),
        ];
        for (name, target) in table {
            assert_eq!(unfinished(name), target, "{name}");
        }
    }
}
