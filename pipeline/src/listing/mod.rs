//! Listings of data sets: the classes, and the name, label and location of each image.
//!
//! | file | content |
//! |---|---|
//! | `folder` | lists a folder of class folders |
//! | `archive` | lists a tar, and tars within a tar |
//! | `names` | a compact list of names |
//! | `index_file` | caches listings for the next start |
//! | `progress` | progress messages |
//!
//! A folder and an archive with the same files have the same listing: classes are the sorted names of
//! the class folders; within a class, images are sorted by folder, then by name.

mod archive;
mod folder;
mod index_file;
mod names;
mod progress;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::files::cannot_read;

pub use archive::{Archive, Index, Within};
pub use index_file::cache_folder;
pub use names::Names;

use crate::files::{EXTENSIONS, first_few};

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
            Bytes::Files(root) => read_file(&root.join(self.name(image))),
            Bytes::Parts { archive, parts, .. } => {
                let part = parts.get(image as usize);
                let &(start, length) = part.context("no such image in the archive")?;
                archive.read(start, length)
            }
        }
    }

    /// The image in messages: its path, or the archive and the path in it.
    pub fn describe(&self, image: u32) -> String {
        let name = self.name(image);
        match &self.bytes {
            Bytes::Files(root) => root.join(name).display().to_string(),
            Bytes::Parts {
                archive, folder, ..
            } => join(&archive.path, &folder.join(name)),
        }
    }

    fn name(&self, image: u32) -> &Path {
        let name = self.names.get(image as usize);
        Path::new(OsStr::from_bytes(name.unwrap_or_default()))
    }

    /// Checks that every class has an image, and the number of images.
    fn check(self, classes: &Names) -> Result<Listing> {
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
            "class folders without an image in {origin}: {}; fill them or remove them (images end in {})",
            first_few(&empty),
            EXTENSIONS.join(", ")
        );
        ensure!(
            u32::try_from(self.labels.len()).is_ok(),
            "{origin} holds more than {} images",
            u32::MAX
        );
        Ok(self)
    }
}

fn lossy(names: &Names) -> Arc<[String]> {
    let names = names.iter().map(String::from_utf8_lossy);
    names.map(|name| name.into_owned()).collect()
}

/// A path within an archive, for messages.
fn join(archive: &Path, path: &Path) -> String {
    format!("{}: {}", archive.display(), path.display())
}

/// Reads a part of a file. Does not move the file's position, so threads can share it.
fn read_part(file: &File, start: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = memory(length)?;
    bytes.resize(length as usize, 0);
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// Reads a file. The length in its metadata is only a hint: the file may be growing, or a device.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(cannot_read)?;
    let mut bytes = memory(file.metadata().map_err(cannot_read)?.len())?;
    let mut file = file.take(MAX_FILE_BYTES);
    file.read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

/// Upper bound of an image file. Real ones are far smaller; many are in memory at once.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Allocates memory for an image file.
fn memory(length: u64) -> Result<Vec<u8>> {
    ensure!(
        length <= MAX_FILE_BYTES,
        "the file has {length} bytes, the limit for an image is {MAX_FILE_BYTES}; remove it"
    );
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length as usize)
        .context("out of memory")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A time at which files that are written now are not recent.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    /// Waits until new files get a later timestamp than existing ones.
    fn wait_for_another_time(folder: &Path) {
        let time = || {
            let probe = folder.join("probe");
            fs::write(&probe, "").unwrap();
            let metadata = fs::metadata(&probe).unwrap();
            fs::remove_file(&probe).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let before = time();
        while time() == before {}
    }

    fn fill(root: &Path) {
        for name in ["a/1.jpg", "a/deep/2.jpg", "b/1.jpg", "c/1.jpg"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
    }

    fn images(listing: &Listing) -> Vec<(String, u32)> {
        let images = 0..listing.len();
        images
            .map(|image| {
                let name = listing.name(image).to_string_lossy().into_owned();
                (name, listing.label(image).unwrap())
            })
            .collect()
    }

    /// The files of a cache folder with their inodes, which change when a file is replaced.
    fn kept(cache: &Path) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(cache).into_iter().flatten().flatten();
        let entries = entries.map(|entry| (entry.metadata().unwrap().ino(), entry.path()));
        entries.collect()
    }

    /// A change to a folder after it was listed, and whether the listing must change.
    type Change = (&'static str, fn(&Path), bool);

    #[test]
    fn a_kept_listing_is_used_until_a_folder_changes() {
        let changes: [Change; 12] = [
            ("nothing", |_| {}, false),
            (
                "other bytes",
                |root| fs::write(root.join("a/1.jpg"), "x").unwrap(),
                false,
            ),
            (
                "a new image",
                |root| fs::write(root.join("a/0.jpg"), "x").unwrap(),
                true,
            ),
            (
                "a new nested image",
                |root| fs::write(root.join("a/deep/0.jpg"), "x").unwrap(),
                true,
            ),
            (
                "an image less",
                |root| fs::remove_file(root.join("a/deep/2.jpg")).unwrap(),
                true,
            ),
            (
                "another name",
                |root| fs::rename(root.join("b/1.jpg"), root.join("b/2.jpg")).unwrap(),
                true,
            ),
            (
                "a class less",
                |root| fs::remove_dir_all(root.join("b")).unwrap(),
                true,
            ),
            (
                "a class of another name",
                |root| fs::rename(root.join("b"), root.join("d")).unwrap(),
                true,
            ),
            (
                "a class more",
                |root| {
                    fs::create_dir(root.join("d")).unwrap();
                    fs::write(root.join("d/1.jpg"), "x").unwrap();
                },
                true,
            ),
            (
                "a new image, the folder's time set back",
                |root| {
                    let modified = fs::metadata(root.join("a")).unwrap().modified().unwrap();
                    fs::write(root.join("a/0.jpg"), "x").unwrap();
                    File::open(root.join("a"))
                        .unwrap()
                        .set_modified(modified)
                        .unwrap();
                },
                true,
            ),
            (
                "another class of the same name",
                |root| {
                    fs::rename(root.join("c"), root.with_extension("old")).unwrap();
                    fs::create_dir(root.join("c")).unwrap();
                    fs::write(root.join("c/3.jpg"), "x").unwrap();
                },
                true,
            ),
            (
                "a link that leads somewhere now",
                |root| {
                    let class = root.with_extension("lost");
                    fs::create_dir(&class).unwrap();
                    fs::write(class.join("3.jpg"), "x").unwrap();
                },
                true,
            ),
        ];
        let now = SystemTime::now();
        let folder = tempfile::tempdir().unwrap();
        let places = |number: usize| {
            let root = folder.path().join(format!("{number}"));
            (root, folder.path().join(format!("cache of {number}")))
        };
        for number in 0..changes.len() {
            let (root, cache) = places(number);
            fill(&root);
            symlink(root.with_extension("lost"), root.join("lost")).unwrap();
            Listing::of_folder(&root, Some(&cache), now).unwrap();
            assert_eq!(kept(&cache), [], "what is so new may change unseen");
        }
        wait_for_another_time(folder.path());
        for (number, (case, change, is_seen)) in changes.into_iter().enumerate() {
            let (root, cache) = places(number);
            let first = Listing::of_folder(&root, Some(&cache), later()).unwrap();
            assert_eq!(images(&first).len(), 4);
            let before = kept(&cache);
            assert_eq!(before.len(), 1, "{case}");
            change(&root);
            let second = Listing::of_folder(&root, Some(&cache), now).unwrap();
            assert_eq!(
                images(&first) != images(&second) || first.classes != second.classes,
                is_seen,
                "{case}"
            );
            let anew = Listing::of_folder(&root, None, now).unwrap();
            assert_eq!(images(&second), images(&anew), "{case}");
            assert_eq!(second.classes, anew.classes, "{case}");
            assert_eq!(kept(&cache), before, "what is so new is not kept: {case}");
        }
    }

    #[test]
    fn a_damaged_listing_is_rebuilt() {
        let folder = tempfile::tempdir().unwrap();
        let (root, cache) = (folder.path().join("root"), folder.path().join("cache"));
        fill(&root);
        let list = || images(&Listing::of_folder(&root, Some(&cache), later()).unwrap());
        let expected = list();
        let [(_, file)] = kept(&cache).try_into().unwrap();
        let sound = fs::read(&file).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x11;
            fs::write(&file, bytes).unwrap();
            assert_eq!(list(), expected);
            assert_eq!(fs::read(&file).unwrap(), sound, "byte {at}");
        }
    }

    #[test]
    fn what_vanishes_after_it_was_listed_is_an_error_where_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let listing = Listing::of_folder(folder.path(), None, later()).unwrap();
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        let error = format!("{:#}", listing.read(0).unwrap_err());
        assert!(error.starts_with("cannot read the file: it existed when the run began"));
        assert!(error.ends_with("No such file or directory (os error 2)"));
        assert_eq!(listing.read(2).unwrap(), b"b/1.jpg");
    }

    /// Writes a tar of a folder. An existing file is overwritten in place.
    fn pack(folder: &Path, to: &Path) {
        let mut tar = tar::Builder::new(File::create(to).unwrap());
        tar.append_dir_all("", folder).unwrap();
        tar.into_inner().unwrap();
    }

    fn list_archive(path: &Path, cache: Option<&Path>, now: SystemTime) -> Listing {
        let archive = Archive::open(path, "").unwrap();
        let index = archive.index(Within::Files, cache, now).unwrap();
        Listing::of_archive(archive, &index, Some("")).unwrap()
    }

    #[test]
    fn an_index_is_kept_beside_the_tar_and_rebuilt_when_the_tar_changes() {
        let now = SystemTime::now();
        let folder = tempfile::tempdir().unwrap();
        let [root, path, index] =
            ["root", "x.tar", "x.tar.rsflow-index"].map(|name| folder.path().join(name));
        fill(&root);
        pack(&root, &path);
        let first = images(&list_archive(&path, None, now));
        assert_eq!(first.len(), 4);
        assert!(!index.exists(), "what is so new may change unseen");

        let list = || images(&list_archive(&path, None, later()));
        // A new file gets another inode while the old one is open.
        let inode = || fs::metadata(&index).unwrap().ino();
        assert_eq!(list(), first);
        let before = inode();
        let _before = File::open(&index).unwrap();
        assert_eq!(list(), first);
        assert_eq!(inode(), before, "it was used");

        let sound = fs::read(&index).unwrap();
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 1;
        for (case, bytes) in [
            ("damaged", damaged),
            ("cut off", sound[..40].to_vec()),
            ("something else", b"<html>".to_vec()),
            ("empty", Vec::new()),
        ] {
            let before = inode();
            let _before = File::open(&index).unwrap();
            fs::write(&index, bytes).unwrap();
            assert_eq!(list(), first, "{case}");
            assert_ne!(inode(), before, "{case}");
        }

        // Other names in the same file, with the same length and modification time.
        wait_for_another_time(folder.path());
        let before = fs::metadata(&path).unwrap();
        fs::rename(root.join("c/1.jpg"), root.join("c/9.jpg")).unwrap();
        pack(&root, &path);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        let after = fs::metadata(&path).unwrap();
        let same = |of: fn(&fs::Metadata) -> u64| of(&before) == of(&after);
        assert!(same(fs::Metadata::ino) && same(fs::Metadata::size));
        let second = list();
        assert_eq!(second[3], ("c/9.jpg".to_owned(), 2));
        assert_eq!(second[..3], first[..3]);
    }

    #[test]
    fn an_index_that_cannot_be_kept_beside_its_archive_is_kept_in_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("x.tar"), folder.path().join("cache"));
        fill(&folder.path().join("root"));
        pack(&folder.path().join("root"), &path);
        fs::create_dir(folder.path().join("x.tar.rsflow-index")).unwrap();
        let list = || list_archive(&path, Some(&cache), later());
        let first = list();
        let before = kept(&cache);
        assert_eq!(before.len(), 1);
        let second = list();
        assert_eq!(images(&second), images(&first));
        assert_eq!(kept(&cache), before, "it was used");
        assert_eq!(second.read(1).unwrap(), b"a/deep/2.jpg");

        // Truncated after it was indexed.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1000).unwrap();
        let error = format!("{:#}", second.read(3).unwrap_err());
        assert!(
            error.starts_with("cannot read 7 bytes from byte "),
            "{error}"
        );
    }
}
