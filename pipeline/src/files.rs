//! Names of image files, and error messages about files.

use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
pub(crate) use rsflow_graph::first_few;

/// Extensions of image files: torchvision's `IMG_EXTENSIONS`, and those that Pillow's registry has for
/// the same formats. The format itself is detected from the content.
pub(crate) const EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "jpe", "jfif", "pbm", "pnm",
    "gif",
];

/// Whether the name has the extension of an image file, in upper or lower case.
pub fn is_image(name: &Path) -> bool {
    name.extension().is_some_and(|extension| {
        let extension = extension.to_string_lossy().to_lowercase();
        EXTENSIONS.contains(&extension.as_str())
    })
}

/// Whether the name of a file or folder is hidden, or of a folder that a system adds by itself: macOS
/// to zip archives, Synology's servers to shares, file systems to their top.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || matches!(name, b"__MACOSX" | b"@eaDir" | b"lost+found")
}

/// The path up to its first hidden name, if one is in it.
pub(crate) fn hidden_part(path: &[u8]) -> Option<&[u8]> {
    let mut end = 0;
    for name in path.split(|&byte| byte == b'/') {
        end += name.len();
        if is_hidden(name) {
            return Some(&path[..end]);
        }
        end += 1;
    }
    None
}

/// Upper bound of an image file. Real ones are far smaller; many are in memory at once.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// Reads the file of an image that was listed.
///
/// # Errors
/// A file that cannot be read or is too large; a folder, FIFO, socket or device.
pub(crate) fn read_image(path: &Path) -> Result<Vec<u8>> {
    let file = input_file::open(path).map_err(cannot_read)?;
    let length = file.metadata().map_err(cannot_read)?.len();
    let mut bytes = memory(length)?;
    // The length is only a hint: the file may be growing.
    let mut file = file.take(MAX_IMAGE_BYTES);
    file.read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

/// Reads at most so many of the first bytes of such a file.
///
/// # Errors
/// As [`read_image`], but for the size.
pub(crate) fn read_start(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = input_file::open(path).map_err(cannot_read)?;
    let mut bytes = Vec::new();
    let mut start = file.take(most);
    start.read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

/// Allocates memory for an image's file.
pub(crate) fn memory(length: u64) -> Result<Vec<u8>> {
    ensure!(
        length <= MAX_IMAGE_BYTES,
        "the file has {length} bytes, the limit for an image is {MAX_IMAGE_BYTES}; remove it"
    );
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length as usize)
        .context("out of memory")?;
    Ok(bytes)
}

/// The error for a listed file that cannot be read, with advice.
pub(crate) fn cannot_read(error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "it existed when the run began; restore it, start a new run without it"
        }
        io::ErrorKind::PermissionDenied => "check its permissions",
        // It was one when it was listed.
        io::ErrorKind::InvalidInput => "remove it",
        _ => "check its disk or network",
    };
    anyhow::Error::new(error).context(format!(
        "cannot read the file: {advice}, or skip it with `on_error: Skip(budget: ...)`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_hidden_from_its_first_hidden_name_on() {
        for (path, hidden) in [
            ("a/1.jpg", None),
            ("a./b..jpg", None),
            ("a/._1.jpg", Some("a/._1.jpg")),
            (".x", Some(".x")),
            (
                "a/.ipynb_checkpoints/.x/1.jpg",
                Some("a/.ipynb_checkpoints"),
            ),
            ("__MACOSX/a/1.jpg", Some("__MACOSX")),
            ("a/@eaDir/1.jpg/SYNO", Some("a/@eaDir")),
        ] {
            let found = hidden_part(path.as_bytes());
            assert_eq!(found, hidden.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_has_a_cause_and_advice() {
        for (kind, advice) in [
            (io::ErrorKind::NotFound, "restore it"),
            (io::ErrorKind::PermissionDenied, "check its permissions"),
            (io::ErrorKind::StaleNetworkFileHandle, "disk or network"),
            (io::ErrorKind::InvalidInput, "remove it"),
        ] {
            let error = format!("{:#}", cannot_read(kind.into()));
            assert!(error.contains(advice), "{error}");
            assert!(error.contains("`on_error: Skip(budget: ...)`"), "{error}");
            assert!(error.ends_with(&kind.to_string()), "{error}");
        }
    }
}
