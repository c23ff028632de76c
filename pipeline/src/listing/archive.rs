//! A tar, its index, and what is listed of it.
//!
//! The headers are read once, in order (`scan`). The index is saved beside the archive as
//! `NAME.tar.rsflow-index`, or in the user's cache folder where that cannot be written. It is valid as
//! long as the archive's size, times and inode are unchanged.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{NotThere, did_you_mean};
use serde::{Deserialize, Serialize};

use super::index_file::{self, Stamp};
use super::names::split;
use super::passed_over::PassedOver;
use super::scan::{normalize, scan};
use super::{Bytes, Listing, Names, in_brackets, join, lossy, read_part};
use crate::files::{first_few, hidden_part};

pub struct Archive {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) length: u64,
}

/// Which files of an archive are indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Within {
    /// The files of the archive.
    Files,
    /// Also the files of tars within the archive: `CLASS.tar` is treated as a folder `CLASS`.
    Tars,
}

/// The folders and images of an archive.
#[derive(Default, Serialize, Deserialize)]
pub struct Index {
    /// Paths of the folders that have an entry of their own or hold a file, sorted; not those above
    /// them.
    pub(super) folders: Names,
    /// Paths of all images, sorted by folder, then by name.
    pub(super) images: Names,
    /// Offset and length in bytes of each image.
    pub(super) parts: Vec<(u64, u64)>,
    /// Paths and types of the entries that cannot be read in place.
    pub(super) others: Vec<(Vec<u8>, Other)>,
    /// Paths of all other files, sorted, and whether each is a FIFO or a device.
    pub(super) passed_over: Vec<(Vec<u8>, bool)>,
}

/// The type of an entry whose content is not stored as contiguous bytes.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Other {
    SymbolicLink,
    HardLink,
    Sparse,
}

/// The content of an index file.
#[derive(Serialize, Deserialize)]
struct CachedIndex {
    stamp: Stamp,
    within: Within,
    index: Index,
}

impl Archive {
    /// Opens a tar. `advice` is part of the message if it does not exist or is no file.
    ///
    /// # Errors
    /// A file that does not exist, cannot be read or is compressed.
    pub fn open(path: &Path, advice: Option<&str>) -> Result<Self> {
        let place = path.shown();
        let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
        let file = match input_file::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(NotThere(format!("there is no file {place}{advice}")))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                bail!(NotThere(format!("{place}: {error}{advice}")))
            }
            file => file.with_context(|| format!("cannot open {place}"))?,
        };
        let metadata = file.metadata();
        let metadata = metadata.with_context(|| format!("cannot open {place}"))?;
        let archive = Archive {
            path: path.to_owned(),
            file,
            length: metadata.len(),
        };
        if let Some(program) = archive.compressed() {
            bail!(
                "{place} is compressed, so its images cannot be read at random; decompress it with \
                 `{program}`"
            );
        }
        Ok(archive)
    }

    /// The program that decompresses the archive, if it is compressed.
    fn compressed(&self) -> Option<&'static str> {
        let mut start = [0; 6];
        let read = self.file.read_at(&mut start, 0).unwrap_or(0);
        let programs: [(&[u8], _); 4] = [
            (b"\x1f\x8b", "gunzip"),
            (b"BZh", "bunzip2"),
            (b"\xfd7zXZ\0", "unxz"),
            (b"\x28\xb5\x2f\xfd", "unzstd"),
        ];
        let mut programs = programs.iter();
        let found = programs.find(|(mark, _)| start[..read].starts_with(mark));
        found.map(|(_, program)| *program)
    }

    /// Reads a part of the archive. Threads can share it.
    pub(super) fn read(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        read_part(&self.file, start, length).with_context(|| {
            format!(
                "cannot read {length} bytes from byte {start} of {} on",
                self.path.shown()
            )
        })
    }

    /// The index of the archive: from its index file, or built and saved. It is saved beside the
    /// archive or in `cache`. It is not saved if the archive changed within two seconds before `now`:
    /// another change could get the same timestamp.
    ///
    /// # Errors
    /// A file that is not a tar, is damaged or truncated; an image whose path is outside of the archive.
    pub fn index(&self, within: Within, cache: Option<&Path>, now: SystemTime) -> Result<Index> {
        let place = self.path.shown();
        let cannot = || format!("cannot read {place}");
        let stamp = Stamp::of(&self.file.metadata().with_context(cannot)?);
        let mut beside = self.path.clone().into_os_string();
        beside.push(".rsflow-index");
        let canonical = std::fs::canonicalize(&self.path).with_context(cannot)?;
        let in_cache = cache.map(|cache| index_file::path_for(cache, &canonical));
        let files: Vec<PathBuf> = [Some(beside.into()), in_cache]
            .into_iter()
            .flatten()
            .collect();

        let mut cached = files
            .iter()
            .filter_map(|file| index_file::load::<CachedIndex>(file));
        if let Some(cached) = cached.find(|cached| cached.stamp == stamp && cached.within == within)
        {
            tracing::info!(archive = %place, images = cached.index.images.len(), "index found");
            return Ok(cached.index);
        }
        let index = scan(self, within)?;
        tracing::info!(archive = %place, images = index.images.len(), "indexed");
        let after = Stamp::of(&self.file.metadata().with_context(cannot)?);
        ensure!(
            after == stamp,
            "{place} changed while it was being indexed; retry when it is complete"
        );
        let cached = CachedIndex {
            stamp,
            within,
            index,
        };
        if !stamp.is_recent(now) {
            let mut errors = Vec::new();
            let is_saved = files.iter().any(|file| {
                let saved = index_file::save(file, &cached);
                errors.extend(saved.as_ref().err().map(|error| format!("{error:#}")));
                saved.is_ok()
            });
            if !is_saved {
                tracing::warn!("cannot save the index of {place}: {}", errors.join("; "));
            }
        }
        Ok(cached.index)
    }
}

impl Index {
    /// The same images with other paths: `path` maps an image's name to its class and new name.
    pub fn renamed(
        &self,
        mut path: impl FnMut(&[u8]) -> Result<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Index> {
        let (mut images, mut passed_over) = (Vec::new(), self.passed_over.clone());
        for (image, part) in self.images.iter().zip(&self.parts) {
            match hidden_part(image) {
                None => images.push((path(split(image).1)?, *part)),
                Some(_) => passed_over.push((image.to_owned(), false)),
            }
        }
        images.sort();
        let folders: BTreeSet<&[u8]> = images.iter().map(|((class, _), _)| &class[..]).collect();
        let paths = images
            .iter()
            .map(|((class, name), _)| [&class[..], name].join(&b'/'));
        Ok(Index {
            folders: folders.into_iter().collect(),
            images: paths.collect(),
            parts: images.iter().map(|(_, part)| *part).collect(),
            others: self.others.clone(),
            passed_over,
        })
    }

    #[cfg(test)]
    pub fn folders(&self) -> usize {
        self.folders.len()
    }

    /// The folders whose subfolders have images: one of them is the parent of the class folders.
    pub fn candidates(&self) -> BTreeSet<&[u8]> {
        let images = self.images.iter();
        let images = images.filter(|image| hidden_part(image).is_none());
        let folders = images.map(|image| split(image).0);
        let folders = folders.filter(|folder| !folder.is_empty());
        folders.map(|folder| split(folder).0).collect()
    }
}

impl Listing {
    /// Lists the images in the class folders of an archive's `folder`, which is optional if there is
    /// only one such folder.
    ///
    /// # Errors
    /// No such folder, no class folders, or several candidates; a class without an image; images that
    /// are links or sparse files.
    pub fn of_archive(archive: Archive, index: &Index, folder: Option<&str>) -> Result<Self> {
        let place = archive.path.display().to_string();
        let folder = match folder {
            Some(folder) => normalize(None, folder.as_bytes()).unwrap_or_default(),
            None => only_folder(&place, index)?,
        };
        let shown = String::from_utf8_lossy(&folder).into_owned();
        let origin = match shown.as_str() {
            "" => place.clone(),
            folder => join(&archive.path, Path::new(folder)),
        };
        let below_folder = |path: &[u8]| match folder.as_slice() {
            [] => Some(0),
            folder => path
                .strip_prefix(folder)?
                .starts_with(b"/")
                .then_some(folder.len() + 1),
        };
        // A path below the folder that is not hidden; the others are counted.
        let mut hidden = BTreeSet::new();
        let mut inside = |path: &'_ [u8]| {
            let path = &path[below_folder(path)?..];
            if let Some(part) = hidden_part(path) {
                hidden.insert(part.to_owned());
                return None;
            }
            Some(path.to_owned())
        };

        let mut passed_over = PassedOver::default();
        for (path, is_special) in &index.passed_over {
            match inside(path) {
                Some(_) if *is_special => passed_over.special += 1,
                Some(path) => passed_over.file(Path::new(OsStr::from_bytes(&path))),
                None => {}
            }
        }
        let mut classes = BTreeSet::new();
        for folder in index.folders.iter() {
            let class = inside(folder).map(|mut folder| {
                folder.truncate(
                    folder
                        .iter()
                        .position(|&byte| byte == b'/')
                        .unwrap_or(folder.len()),
                );
                folder
            });
            classes.extend(class.filter(|class| !class.is_empty()));
        }
        let classes: Names = classes.into_iter().collect();
        let others = index.others.iter();
        let others = others.filter(|(path, _)| inside(path).is_some());
        let others: Vec<_> = others.collect();
        if let Some((_, kind)) = others.first() {
            let paths = others.iter().filter(|(_, other)| other == kind);
            let paths = paths.map(|(path, _)| String::from_utf8_lossy(path));
            let paths: Vec<_> = paths.collect();
            let (what, option) = match kind {
                Other::SymbolicLink => ("symbolic links", "--dereference"),
                Other::HardLink => ("hard links", "--hard-dereference"),
                Other::Sparse => ("sparse files", "no --sparse"),
            };
            bail!(
                "{place} holds {what}, which cannot be read in place: {}; create it again with {option} \
                 (GNU tar)",
                first_few(&paths)
            );
        }

        // Sorted by class, and within a class in the order of the index.
        let mut images: Vec<(u32, usize)> = Vec::new();
        for (at, path) in index.images.iter().enumerate() {
            let Some(path) = inside(path) else { continue };
            let Some(end) = path.iter().position(|&byte| byte == b'/') else {
                passed_over.unclassed();
                continue;
            };
            let class = classes.find_sorted(&path[..end]);
            let class = class.with_context(|| format!("the index of {place} lacks a folder"))?;
            images.push((u32::try_from(class).context("too many classes")?, at));
        }
        passed_over.hidden = hidden.len() as u64;
        ensure!(
            classes.len() > 0,
            "{}{}",
            no_folder(&place, &shown, index),
            in_brackets(&passed_over)
        );
        images.sort();
        let start = if folder.is_empty() {
            0
        } else {
            folder.len() + 1
        };
        let paths = images.iter().filter_map(|&(_, at)| index.images.get(at));
        let parts = images.iter().filter_map(|&(_, at)| index.parts.get(at));
        let listing = Listing {
            classes: lossy(&classes),
            labels: images.iter().map(|&(class, _)| class).collect(),
            names: paths.map(|path| &path[start..]).collect(),
            passed_over,
            whole: None,
            bytes: Bytes::Parts {
                parts: parts.copied().collect(),
                folder: PathBuf::from(OsStr::from_bytes(&folder)),
                archive,
            },
            origin,
        };
        listing.check(&classes)
    }
}

/// The parent of the class folders, if there is only one candidate.
fn only_folder(place: &str, index: &Index) -> Result<Vec<u8>> {
    let candidates = index.candidates();
    let mut folders = candidates.iter();
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_vec()),
        (None, _) => Ok(Vec::new()),
        _ => {
            bail!(
                "{place} has class folders in several folders: {}; select one with `folder`",
                first_few(&shown(&candidates))
            )
        }
    }
}

fn shown<'a>(folders: impl IntoIterator<Item = &'a &'a [u8]>) -> Vec<String> {
    let folders = folders.into_iter();
    folders
        .map(|folder| String::from_utf8_lossy(folder).into_owned())
        .collect()
}

/// The error if `folder` has no class folders.
fn no_folder(place: &str, folder: &str, index: &Index) -> String {
    let candidates = shown(&index.candidates());
    let meant = did_you_mean(folder, candidates.iter().map(String::as_str));
    let there = match candidates.as_slice() {
        [] => "images are expected in it as CLASS/IMAGE.jpg".to_owned(),
        [top] if top.is_empty() => "they are at the top level: omit `folder`".to_owned(),
        folders => format!("class folders are in {}", first_few(folders)),
    };
    let meant = meant.map_or_else(String::new, |meant| format!("{meant} "));
    let folder = match folder {
        "" => String::new(),
        folder => format!("`{folder}` of "),
    };
    format!("{folder}{place} holds no class folders; {meant}{there}")
}
