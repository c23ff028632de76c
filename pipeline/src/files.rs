//! What counts as an image file, and how files are listed to a user.

use std::path::Path;

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

/// "`a`, `b` and 3 more": the first five of `names`, and how many there are beyond.
pub(crate) fn first_few(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN);
    let shown: Vec<String> = shown.map(|name| format!("`{}`", name.as_ref())).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
