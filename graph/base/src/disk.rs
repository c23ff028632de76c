//! The system calls by which a run changes its files, one function each.
//!
//! What a run leaves on the disk has to be sound after any of them: a test can have the n-th one fail, or
//! be the last one that happens ([`injection`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Creates a file that does not exist. A link of that name, dangling or not, is an error.
///
/// # Errors
/// What the file system says, here and below.
pub fn create_new(path: &Path) -> io::Result<File> {
    before("create")?;
    File::create_new(path)
}

/// Writes all of `bytes`.
pub fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = before("write") {
        // A process that is killed, or a disk that becomes full, leaves a part of them.
        let _ = file.write_all(&bytes[..bytes.len() / 2]);
        return Err(error);
    }
    file.write_all(bytes)
}

/// Gives the file another length.
pub fn set_len(file: &File, length: u64) -> io::Result<()> {
    before("truncate")?;
    file.set_len(length)
}

/// Forces content and length of a file to the disk.
pub fn sync(file: &File) -> io::Result<()> {
    before("sync")?;
    file.sync_all()
}

/// Forces the names in a file's folder to the disk.
pub fn sync_folder_of(file: &Path) -> io::Result<()> {
    before("sync folder")?;
    File::open(folder_of(file))?.sync_all()
}

/// Renames a file, replacing what is at `to`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    before("rename")?;
    fs::rename(from, to)
}

/// Gives a file a further name, which must be free.
pub fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    before("link")?;
    fs::hard_link(from, to)
}

/// Removes a file's name.
pub fn remove_file(path: &Path) -> io::Result<()> {
    before("remove")?;
    fs::remove_file(path)
}

pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(not(debug_assertions))]
fn before(_: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
use injection::before;

/// Faults at a chosen system call, for tests: in debug builds, on the calling thread alone.
#[cfg(debug_assertions)]
pub mod injection {
    use std::cell::Cell;
    use std::io;

    /// What happens at the chosen call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// From it on nothing happens any more, as if the process had been killed.
        Killed,
        /// It fails once, as on a disk that is full.
        DiskFull,
    }

    thread_local! {
        static CALLS: Cell<u64> = const { Cell::new(0) };
        static FAULT: Cell<Option<(u64, Fault)>> = const { Cell::new(None) };
    }

    /// Runs `body` with a fault at its `call`-th system call, counted from 0; without one, `None` counts
    /// them. Returns what `body` does, and the number of calls.
    pub fn with<T>(fault: Option<(u64, Fault)>, body: impl FnOnce() -> T) -> (T, u64) {
        CALLS.set(0);
        FAULT.set(fault);
        let result = body();
        FAULT.set(None);
        (result, CALLS.get())
    }

    const ENOSPC: i32 = 28;

    pub(super) fn before(call: &str) -> io::Result<()> {
        let number = CALLS.get();
        CALLS.set(number + 1);
        match FAULT.get() {
            Some((at, Fault::Killed)) if number >= at => {
                Err(io::Error::other(format!("killed before: {call}")))
            }
            Some((at, Fault::DiskFull)) if number == at => {
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            _ => Ok(()),
        }
    }
}
