//! Files that a user names: opened without waiting, and read up to a limit.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Opens a regular file for reading.
///
/// A plain `open` of a FIFO waits until somebody writes to it, and asking first what a path is leaves
/// a moment in which that changes. So it is opened without waiting, and then the open file is asked.
///
/// # Errors
/// Those of `open`; a folder, FIFO, socket or device.
pub fn open(path: &Path) -> io::Result<File> {
    let open = |flags| File::options().read(true).custom_flags(flags).open(path);
    let file = match open(libc::O_NONBLOCK) {
        // A file server holds a lease on it, which only a waiting `open` breaks. Only regular files
        // have leases.
        Err(error) if error.kind() == ErrorKind::WouldBlock && fs::metadata(path)?.is_file() => {
            open(0)
        }
        // Sockets cannot be opened at all.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            check(fs::metadata(path)?.file_type())?;
            Err(error)
        }
        file => file,
    }?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

fn check(kind: FileType) -> io::Result<()> {
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        format!("it is {what}, not a file"),
    ))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; a larger file; no memory.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    read_all(file, length, limit)
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`]; bytes that are not UTF-8.
pub fn read_to_string(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = format!("it is not text: byte {at} is not UTF-8");
        io::Error::new(ErrorKind::InvalidData, text)
    })
}

/// Reads all of `from`, at most `limit` bytes. `expected` is the length that it probably has.
///
/// # Errors
/// Those of `from`; more bytes; no memory.
pub fn read_all(from: impl Read, expected: u64, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = |found: &str| {
        let text = format!("it has {found} bytes, the limit is {limit}");
        io::Error::new(ErrorKind::FileTooLarge, text)
    };
    if expected > limit {
        return Err(too_large(&expected.to_string()));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(expected as usize)?;
    // One more, to see that there is more: the file may be growing.
    from.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_large("more")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_only_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), b"12345").unwrap();
        fs::write(at("binary"), b"12\xff").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(at("fifo"))
                .status()
                .unwrap()
                .success()
        );
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&at(name), 5).unwrap(), b"12345");
            let error = read(&at(name), 4).unwrap_err().to_string();
            assert_eq!(error, "it has 5 bytes, the limit is 4");
        }
        for (path, expected) in [
            (at("fifo"), "it is a FIFO, not a file"),
            (at("socket"), "it is a socket, not a file"),
            (folder.path().to_owned(), "it is a folder, not a file"),
            ("/dev/zero".into(), "it is a device, not a file"),
        ] {
            assert_eq!(read(&path, 5).unwrap_err().to_string(), expected);
        }
        assert_eq!(
            read(&at("none"), 5).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let error = read_to_string(&at("binary"), 5).unwrap_err().to_string();
        assert_eq!(error, "it is not text: byte 2 is not UTF-8");
        // What is longer than it said.
        let error = read_all(io::repeat(0), 3, 1000).unwrap_err().to_string();
        assert_eq!(error, "it has more bytes, the limit is 1000");
    }
}
