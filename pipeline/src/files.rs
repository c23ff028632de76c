//! What counts as an image file.

use std::io;
use std::path::Path;

pub(crate) use rsflow_graph::first_few;

/// File names that count as images, as in the reference. The format itself is told by the bytes.
pub(crate) const EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp",
];

/// Whether a file of this name counts as an image.
pub(crate) fn is_image(name: &Path) -> bool {
    name.extension().is_some_and(|extension| {
        let extension = extension.to_string_lossy().to_lowercase();
        EXTENSIONS.contains(&extension.as_str())
    })
}

/// Why a file that was listed cannot be read, and the way out.
pub(crate) fn cannot_read(error: io::Error) -> anyhow::Error {
    let way_out = match error.kind() {
        io::ErrorKind::NotFound => {
            "it was there when the run began; put it back, or start a new run without it"
        }
        io::ErrorKind::PermissionDenied => "see to its permissions",
        _ => "see to the disk or the network that it is on",
    };
    anyhow::Error::new(error).context(format!(
        "cannot read the file: {way_out}, or pass over it with `on_error: Skip(budget: ...)`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_has_a_cause_and_a_way_out() {
        for (kind, way_out) in [
            (io::ErrorKind::NotFound, "put it back"),
            (io::ErrorKind::PermissionDenied, "see to its permissions"),
            (io::ErrorKind::StaleNetworkFileHandle, "the network that it"),
        ] {
            let error = format!("{:#}", cannot_read(kind.into()));
            assert!(error.contains(way_out), "{error}");
            assert!(error.contains("`on_error: Skip(budget: ...)`"), "{error}");
            assert!(error.ends_with(&kind.to_string()), "{error}");
        }
    }
}
