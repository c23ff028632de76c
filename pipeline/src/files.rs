//! Names of image files, and error messages about files.

use std::io;
use std::path::Path;

pub(crate) use rsflow_graph::first_few;

/// Extensions of image files, as in torchvision. The format itself is detected from the content.
pub(crate) const EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp",
];

/// Whether the name has the extension of an image file, in upper or lower case.
pub(crate) fn is_image(name: &Path) -> bool {
    name.extension().is_some_and(|extension| {
        let extension = extension.to_string_lossy().to_lowercase();
        EXTENSIONS.contains(&extension.as_str())
    })
}

/// The error for a listed file that cannot be read, with advice.
pub(crate) fn cannot_read(error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "it existed when the run began; restore it, start a new run without it"
        }
        io::ErrorKind::PermissionDenied => "check its permissions",
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
    fn a_file_that_cannot_be_read_has_a_cause_and_advice() {
        for (kind, advice) in [
            (io::ErrorKind::NotFound, "restore it"),
            (io::ErrorKind::PermissionDenied, "check its permissions"),
            (io::ErrorKind::StaleNetworkFileHandle, "disk or network"),
        ] {
            let error = format!("{:#}", cannot_read(kind.into()));
            assert!(error.contains(advice), "{error}");
            assert!(error.contains("`on_error: Skip(budget: ...)`"), "{error}");
            assert!(error.ends_with(&kind.to_string()), "{error}");
        }
    }
}
