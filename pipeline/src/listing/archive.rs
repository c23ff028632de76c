//! Indexes a tar, so that its images can be read in place.
//!
//! The headers are read once, in order. The index is saved beside the archive as
//! `NAME.tar.rsflow-index`, or in the user's cache folder where that cannot be written. It is valid as
//! long as the archive's size, times and inode are unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_graph::did_you_mean;
use serde::{Deserialize, Serialize};

use super::index_file::{self, Stamp};
use super::names::split;
use super::progress::Progress;
use super::{Bytes, Listing, Names, join, lossy, read_part};
use crate::files::{first_few, is_image};

pub struct Archive {
    pub(super) path: PathBuf,
    file: File,
    length: u64,
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
    /// Paths of all folders, sorted. The top level of the archive is the empty path.
    folders: Names,
    /// Paths of all images, sorted by folder, then by name.
    images: Names,
    /// Offset and length in bytes of each image.
    parts: Vec<(u64, u64)>,
    /// Paths and types of the entries that cannot be read in place.
    others: Vec<(Vec<u8>, Other)>,
}

/// The type of an entry whose content is not stored as contiguous bytes.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Other {
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
    /// Opens a tar. `advice` is part of the message if it does not exist.
    ///
    /// # Errors
    /// A file that does not exist, cannot be read or is compressed.
    pub fn open(path: &Path, advice: &str) -> Result<Self> {
        let place = path.display();
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no file {place}; {advice}")
            }
            file => file.with_context(|| format!("cannot open {place}"))?,
        };
        let metadata = file.metadata();
        let metadata = metadata.with_context(|| format!("cannot open {place}"))?;
        ensure!(metadata.is_file(), "{place} is not a file; {advice}");
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
                self.path.display()
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
        let place = self.path.display();
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
        let index = self.read_index(within)?;
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

    fn read_index(&self, within: Within) -> Result<Index> {
        let mut scan = Scan {
            archive: self,
            within,
            folders: BTreeSet::from([Vec::new()]),
            images: Vec::new(),
            others: BTreeMap::new(),
            progress: Progress::new(),
        };
        scan.tar(0..self.length, None)?;
        Ok(scan.index())
    }
}

/// The state of indexing.
struct Scan<'a> {
    archive: &'a Archive,
    within: Within,
    folders: BTreeSet<Vec<u8>>,
    /// In the order of the archive.
    images: Vec<(Vec<u8>, (u64, u64))>,
    others: BTreeMap<Vec<u8>, Other>,
    progress: Progress,
}

/// The block size of a tar in bytes. A tar ends with two zero blocks.
const BLOCK: u64 = 512;

impl Scan<'_> {
    /// Reads all headers of a tar. `class` is the name of a tar within the archive.
    fn tar(&mut self, bytes: Range<u64>, class: Option<&[u8]>) -> Result<()> {
        let place = match class {
            None => self.archive.path.display().to_string(),
            Some(class) => {
                let tar = format!("{}.tar", String::from_utf8_lossy(class));
                join(&self.archive.path, Path::new(&tar))
            }
        };
        let mut tar = tar::Archive::new(Window {
            file: &self.archive.file,
            bytes: bytes.clone(),
            at: bytes.start,
        });
        // The expected offset of the next header.
        let mut end = bytes.start;
        for entry in tar.entries_with_seek()? {
            let entry = entry.map_err(|error| match end + BLOCK > bytes.end {
                true => anyhow::Error::new(error).context(truncated(&place, &bytes, "in a header")),
                false => anyhow::Error::new(error).context(format!(
                    "{place} is damaged or not a tar: invalid header at byte {end}; download or \
                     create it again"
                )),
            })?;
            let start = bytes.start + entry.raw_file_position();
            // The size of a sparse file is not its stored size.
            let stored = match entry.header().entry_type().is_gnu_sparse() {
                true => entry.header().entry_size()?,
                false => entry.size(),
            };
            let stop = start.checked_add(stored).filter(|&stop| stop <= bytes.end);
            let stop = stop.with_context(|| {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let wanted = start.saturating_add(stored);
                let why = format!("but `{name}` is stored from byte {start} to {wanted}");
                truncated(&place, &bytes, &why)
            })?;
            end = stop.next_multiple_of(BLOCK);
            self.entry(&place, entry, start..stop, class)?;
            let (path, length) = (self.archive.path.display(), self.archive.length.max(1));
            self.progress
                .report(|| format!("indexing {path}: {} %", stop.saturating_mul(100) / length));
        }
        ensure!(
            end + BLOCK <= bytes.end,
            truncated(&place, &bytes, "without an end-of-archive marker")
        );
        Ok(())
    }

    fn entry(
        &mut self,
        place: &str,
        mut entry: tar::Entry<impl Read>,
        bytes: Range<u64>,
        class: Option<&[u8]>,
    ) -> Result<()> {
        let path = entry.path_bytes().into_owned();
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let kind = kind_of(&mut entry)
            .with_context(|| format!("{place}: cannot read the header of `{}`", shown()))?;
        let Some(kind) = kind else { return Ok(()) };
        if let (Kind::File, None, Some(class)) = (kind, class, self.inner(&path)) {
            self.folder(class);
            return self.tar(bytes, Some(class));
        }
        let is_image = kind != Kind::Folder && is_image(as_path(&path));
        let Some(path) = normalize(class, &path) else {
            ensure!(
                !is_image,
                "{place}: `{}` is outside of the archive; create it with relative paths without `..`",
                shown()
            );
            return Ok(());
        };
        // As when a tar is extracted, an entry replaces an earlier one of the same name.
        self.others.remove(&path);
        match kind {
            Kind::Folder => self.folder(&path),
            Kind::File => {
                self.folder(split(&path).0);
                if is_image {
                    let part = (bytes.start, bytes.end - bytes.start);
                    self.images.push((path, part));
                }
            }
            // Whatever its name, a symbolic link could point to a folder of images.
            Kind::Other(other) if is_image || other == Other::SymbolicLink => {
                self.others.insert(path, other);
            }
            Kind::Other(_) => {}
        }
        Ok(())
    }

    /// The name without `.tar` of a tar within the archive, if those are indexed.
    fn inner<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let name = split(path).1.strip_suffix(b".tar")?;
        (self.within == Within::Tars && !name.is_empty()).then_some(name)
    }

    /// Adds a folder and its parents.
    fn folder(&mut self, path: &[u8]) {
        let mut path = path;
        while !self.folders.contains(path) {
            self.folders.insert(path.to_owned());
            path = split(path).0;
        }
    }

    fn index(mut self) -> Index {
        self.images
            .sort_by(|(a, _), (b, _)| split(a).cmp(&split(b)));
        // The last entry of a name wins, unless a link replaced it later.
        self.images.dedup_by(|next, kept| {
            let is_duplicate = next.0 == kept.0;
            if is_duplicate {
                kept.1 = next.1;
            }
            is_duplicate
        });
        self.images
            .retain(|(path, _)| !self.others.contains_key(path));
        Index {
            folders: self.folders.iter().collect(),
            images: self.images.iter().map(|(path, _)| path).collect(),
            parts: self.images.iter().map(|(_, part)| *part).collect(),
            others: self.others.into_iter().collect(),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    File,
    Other(Other),
}

/// `None` for types that a data set does not use: devices, pipes, comments.
fn kind_of(entry: &mut tar::Entry<impl Read>) -> io::Result<Option<Kind>> {
    let kind = entry.header().entry_type();
    // The PAX format of sparse files.
    let mut pax = entry.pax_extensions()?.into_iter().flatten().flatten();
    let is_sparse = kind.is_gnu_sparse() || pax.any(|pax| pax.key_bytes().starts_with(SPARSE));
    let is_file = kind.is_file() || kind.is_contiguous();
    Ok(match () {
        () if is_sparse => Some(Kind::Other(Other::Sparse)),
        () if kind.is_symlink() => Some(Kind::Other(Other::SymbolicLink)),
        () if kind.is_hard_link() => Some(Kind::Other(Other::HardLink)),
        // The oldest tars mark folders by a trailing `/` only.
        () if kind.is_dir() || (is_file && entry.path_bytes().ends_with(b"/")) => {
            Some(Kind::Folder)
        }
        () if is_file => Some(Kind::File),
        () => None,
    })
}

const SPARSE: &[u8] = b"GNU.sparse.";

fn truncated(place: &str, bytes: &Range<u64>, why: &str) -> String {
    let end = bytes.end;
    format!("{place} is truncated: it ends at byte {end}, {why}; download or create it again")
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Normalizes a path within the archive: removes `.` and empty parts. `None` if it is absolute or has
/// `..`.
fn normalize(class: Option<&[u8]>, path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") {
        return None;
    }
    let parts = class.into_iter().chain(path.split(|&byte| byte == b'/'));
    let parts: Vec<&[u8]> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let is_outside = parts.iter().any(|part| *part == b"..");
    (!is_outside).then(|| parts.join(&b'/'))
}

/// A part of a file as a seekable reader.
struct Window<'a> {
    file: &'a File,
    bytes: Range<u64>,
    /// The position in the file.
    at: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.end.saturating_sub(self.at);
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(offset) => self.bytes.start.checked_add(offset),
            SeekFrom::End(offset) => self.bytes.end.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        let at = at.filter(|&at| at >= self.bytes.start);
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at - self.bytes.start)
    }
}

impl Index {
    /// The same images with other paths: `path` maps an image's name to its class and new name.
    pub fn renamed(
        &self,
        mut path: impl FnMut(&[u8]) -> Result<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Index> {
        let images = self.images.iter().zip(&self.parts);
        let images = images.map(|(image, part)| Ok((path(split(image).1)?, *part)));
        let mut images: Vec<_> = images.collect::<Result<_>>()?;
        images.sort();
        let folders: BTreeSet<&[u8]> = images.iter().map(|((class, _), _)| &class[..]).collect();
        let paths = images
            .iter()
            .map(|((class, name), _)| [&class[..], name].join(&b'/'));
        Ok(Index {
            folders: [&[][..]].into_iter().chain(folders).collect(),
            images: paths.collect(),
            parts: images.iter().map(|(_, part)| *part).collect(),
            others: self.others.clone(),
        })
    }

    /// The folders whose subfolders have images: one of them is the parent of the class folders.
    pub fn candidates(&self) -> BTreeSet<&[u8]> {
        let folders = self.images.iter().map(|image| split(image).0);
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
        let inside = |path: &'_ [u8]| below_folder(path).map(|start| path[start..].to_owned());

        let folders = index.folders.iter().filter_map(inside);
        let classes: BTreeSet<Vec<u8>> = folders
            .filter(|folder| !folder.is_empty() && !folder.contains(&b'/'))
            .collect();
        let classes: Names = classes.into_iter().collect();
        ensure!(classes.len() > 0, no_folder(&place, &shown, index));
        let others = index.others.iter();
        let others = others.filter(|(path, _)| below_folder(path).is_some());
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
            let Some(start) = below_folder(path) else {
                continue;
            };
            let mut parts = path[start..].splitn(2, |&byte| byte == b'/');
            // An image outside of the class folders has no class.
            let (Some(class), Some(_)) = (parts.next(), parts.next()) else {
                continue;
            };
            let class = classes.find_sorted(class);
            let class = class.with_context(|| format!("the index of {place} lacks a folder"))?;
            images.push((u32::try_from(class).context("too many classes")?, at));
        }
        images.sort();
        let paths = images.iter().filter_map(|&(_, at)| index.images.get(at));
        let parts = images.iter().filter_map(|&(_, at)| index.parts.get(at));
        let listing = Listing {
            classes: lossy(&classes),
            labels: images.iter().map(|&(class, _)| class).collect(),
            names: paths.filter_map(inside).collect(),
            bytes: Bytes::Parts {
                parts: parts.copied().collect(),
                folder: as_path(&folder).to_owned(),
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
fn no_folder(place: &str, folder: &str, index: &Index) -> anyhow::Error {
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
    anyhow::anyhow!("{folder}{place} holds no class folders; {meant}{there}")
}
