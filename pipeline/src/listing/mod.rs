//! Listings of data sets: the classes, and the name, label and location of each image.
//!
//! | file | content |
//! |---|---|
//! | `folder` | lists a folder of class folders |
//! | `archive` | lists a tar, and tars within a tar |
//! | `scan` | reads the headers of a tar |
//! | `names` | a compact list of names |
//! | `passed_over` | counts of what is not read |
//! | `part` | what is held out for validation |
//! | `level` | whether the classes look like the folders above them |
//! | `index_file` | caches listings for the next start |
//! | `progress` | progress messages |
//!
//! A folder and an archive with the same files have the same listing: classes are the sorted names of
//! the class folders; within a class, images are sorted by folder, then by name.

mod archive;
mod folder;
mod index_file;
mod level;
mod names;
mod part;
mod passed_over;
mod progress;
mod scan;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::nfc::{nfc, spelled_out};
use rsflow_base::shown::Shown as _;
use xxhash_rust::xxh3::Xxh3;

pub use archive::{Archive, Index, Within};
pub use folder::images_in;
pub use names::Names;
pub use part::Part;
pub use passed_over::PassedOver;

use crate::files::{EXTENSIONS, first_few, memory, read_image, read_start};

/// All images of a data set.
pub struct Listing {
    /// The data set in messages: a folder, or an archive and the folder in it.
    pub origin: String,
    /// Names of the class folders, sorted; invalid UTF-8 is replaced.
    pub classes: Arc<[String]>,
    /// The class index of each image.
    labels: Vec<u32>,
    /// The path `CLASS/IMAGE` or `CLASS/.../IMAGE` of each image.
    names: Names,
    bytes: Bytes,
    pub passed_over: PassedOver,
    /// Number of images of the whole data set, if this is a part of it.
    pub whole: Option<u32>,
}

/// The location of the images.
enum Bytes {
    /// Each is a file below this folder.
    Files(PathBuf),
    /// Each is a part of one file.
    Parts {
        archive: Archive,
        /// The parent of the class folders, within the archive.
        folder: PathBuf,
        /// Offset and length in bytes.
        parts: Vec<(u64, u64)>,
    },
}

impl Listing {
    /// Number of images.
    pub fn len(&self) -> u32 {
        // Guaranteed by `check`.
        u32::try_from(self.labels.len()).unwrap_or(u32::MAX)
    }

    /// The class index of an image. An error if there is no such image.
    pub fn label(&self, image: u32) -> Result<u32> {
        let label = self.labels.get(image as usize).copied();
        label.with_context(|| format!("{} has no image number {image}", self.origin))
    }

    /// Reads the bytes of an image's file. An error if it no longer exists or cannot be read.
    pub fn read(&self, image: u32) -> Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Files(root) => read_image(&root.join(self.name(image))),
            Bytes::Parts { archive, parts, .. } => {
                let part = parts.get(image as usize);
                let &(start, length) = part.context("no such image in the archive")?;
                archive.read(start, length)
            }
        }
    }

    /// Reads at most so many of the first bytes of an image's file. An error as [`Listing::read`].
    pub fn read_start(&self, image: u32, most: u64) -> Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Files(root) => read_start(&root.join(self.name(image)), most),
            Bytes::Parts { archive, parts, .. } => {
                let part = parts.get(image as usize);
                let &(start, length) = part.context("no such image in the archive")?;
                archive.read(start, length.min(most))
            }
        }
    }

    /// The image's path `CLASS/IMAGE` in the data set; invalid UTF-8 is replaced.
    pub fn name_text(&self, image: u32) -> String {
        self.name(image).to_string_lossy().into_owned()
    }

    /// The image in messages: its path, or the archive and the path in it.
    pub fn describe(&self, image: u32) -> String {
        self.place(self.name(image))
    }

    /// A path in the data set, for messages.
    fn place(&self, path: &Path) -> String {
        match &self.bytes {
            Bytes::Files(root) => root.join(path).shown().to_string(),
            Bytes::Parts {
                archive, folder, ..
            } => join(&archive.path, &folder.join(path)),
        }
    }

    /// A hash of the names of classes and images, in their order: not of the images' content. It is
    /// the same for a folder and an archive with the same files.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        let classes: Names = self.classes.iter().collect();
        classes.hash(&mut hash);
        self.names.hash(&mut hash);
        hash.digest()
    }

    fn name(&self, image: u32) -> &Path {
        let name = self.names.get(image as usize);
        Path::new(OsStr::from_bytes(name.unwrap_or_default()))
    }

    /// Checks that every class has an image and a name of its own, and the number of images.
    fn check(self, classes: &Names) -> Result<Listing> {
        self.check_names()?;
        let mut images = vec![0_u64; classes.len()];
        for label in &self.labels {
            if let Some(images) = images.get_mut(*label as usize) {
                *images += 1;
            }
        }
        let empty = classes
            .iter()
            .zip(images)
            .filter(|(_, images)| *images == 0);
        let empty: Vec<_> = empty
            .map(|(name, _)| String::from_utf8_lossy(name))
            .collect();
        let origin = &self.origin;
        ensure!(
            empty.is_empty(),
            "class folders without an image in {origin}: {}; fill them or remove them (images end in {}){}",
            first_few(&empty),
            EXTENSIONS.join(", "),
            in_brackets(&self.passed_over)
        );
        ensure!(
            u32::try_from(self.labels.len()).is_ok(),
            "{origin} holds more than {} images",
            u32::MAX
        );
        Ok(self)
    }

    /// Checks that no two classes have names that look the same.
    fn check_names(&self) -> Result<()> {
        let mut seen = HashMap::new();
        for class in self.classes.iter() {
            let Some(other) = seen
                .insert(nfc(class), class)
                .filter(|other| *other != class)
            else {
                continue;
            };
            bail!(
                "{} and {} are written alike, but with other characters (`{}` and `{}`); move the images \
                 into one of them, or rename one",
                self.place(Path::new(other)).shown(),
                self.place(Path::new(class)).shown(),
                spelled_out(other).shown(),
                spelled_out(class).shown()
            );
        }
        Ok(())
    }
}

/// " (9 other files passed over: 9 .gif)"; empty if there is nothing.
pub fn in_brackets(passed_over: &PassedOver) -> String {
    match passed_over.to_string() {
        text if text.is_empty() => text,
        text => format!(" ({text})"),
    }
}

fn lossy(names: &Names) -> Arc<[String]> {
    let names = names.iter().map(String::from_utf8_lossy);
    names.map(|name| name.into_owned()).collect()
}

/// A path within an archive, for messages.
fn join(archive: &Path, path: &Path) -> String {
    format!("{}: {}", archive.shown(), path.shown())
}

/// Reads a part of a file. Does not move the file's position, so threads can share it.
fn read_part(file: &File, start: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = memory(length)?;
    bytes.resize(length as usize, 0);
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
