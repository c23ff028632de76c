//! Listing a tar, so that its images can be read where they are.
//!
//! The headers are read once, in order; what they say is kept beside the archive as
//! `NAME.tar.rsflow-index`, or in the user's cache folder where that cannot be written. The index
//! holds good as long as the archive's size, times and inode are what they were.

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

use super::kept::{self, Stamp};
use super::names::split;
use super::slow::Slow;
use super::{Bytes, Listing, Names, join, lossy, read_part};
use crate::files::{first_few, is_image};

/// An open archive.
pub struct Archive {
    pub(super) path: PathBuf,
    file: File,
    length: u64,
}

/// What counts as part of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Within {
    /// Its files.
    Files,
    /// Its files, and the files of the tars in it: `CLASS.tar` counts as a folder `CLASS`.
    Tars,
}

/// What an archive holds.
#[derive(Default, Serialize, Deserialize)]
pub struct Index {
    /// Paths of all folders, sorted. The archive itself is one, and has no name.
    folders: Names,
    /// Paths of all images, sorted by folder, then by name.
    images: Names,
    /// First byte and length of each image.
    parts: Vec<(u64, u64)>,
    /// Paths of what cannot be read in place, and what it is.
    others: Vec<(Vec<u8>, Other)>,
}

/// An entry whose bytes are not simply there.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Other {
    SymbolicLink,
    HardLink,
    Sparse,
}

/// What is kept of an archive.
#[derive(Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    within: Within,
    index: Index,
}

impl Archive {
    /// Opens a tar. `way_out` says what to do where it is not there.
    ///
    /// # Errors
    /// A file that is not there, cannot be read or is compressed.
    pub fn open(path: &Path, way_out: &str) -> Result<Self> {
        let place = path.display();
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no file {place}; {way_out}")
            }
            file => file.with_context(|| format!("cannot open {place}"))?,
        };
        let metadata = file.metadata();
        let metadata = metadata.with_context(|| format!("cannot open {place}"))?;
        ensure!(metadata.is_file(), "{place} is not a file; {way_out}");
        let archive = Archive {
            path: path.to_owned(),
            file,
            length: metadata.len(),
        };
        if let Some(program) = archive.compressed() {
            bail!(
                "{place} is compressed, so nothing in it can be found without reading all before it; \
                 unpack it to a plain tar with `{program}`"
            );
        }
        Ok(archive)
    }

    /// The program that takes the compression away, if there is any.
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

    /// Reads a part of it. Any number of threads may do so at once.
    pub(super) fn read(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        read_part(&self.file, start, length).with_context(|| {
            format!(
                "cannot read {length} bytes from byte {start} of {} on",
                self.path.display()
            )
        })
    }

    /// What it holds: as it was kept, or read anew and kept. With a folder `cache`, it may also be
    /// kept there. It is not kept if the archive changed within two seconds before `now`: one more
    /// change could bear the same time.
    ///
    /// # Errors
    /// A file that is no tar, is damaged or was cut off; an image whose path leads out of it.
    pub fn index(&self, within: Within, cache: Option<&Path>, now: SystemTime) -> Result<Index> {
        let place = self.path.display();
        let cannot = || format!("cannot read {place}");
        let stamp = Stamp::of(&self.file.metadata().with_context(cannot)?);
        let mut beside = self.path.clone().into_os_string();
        beside.push(".rsflow-index");
        let whole = std::fs::canonicalize(&self.path).with_context(cannot)?;
        let in_cache = cache.map(|cache| kept::file_for(cache, &whole));
        let files: Vec<PathBuf> = [Some(beside.into()), in_cache]
            .into_iter()
            .flatten()
            .collect();

        let mut kept = files.iter().filter_map(|file| kept::load::<Kept>(file));
        if let Some(kept) = kept.find(|kept| kept.stamp == stamp && kept.within == within) {
            tracing::info!(archive = %place, images = kept.index.images.len(), "index found");
            return Ok(kept.index);
        }
        let index = self.read_index(within)?;
        tracing::info!(archive = %place, images = index.images.len(), "indexed");
        let after = Stamp::of(&self.file.metadata().with_context(cannot)?);
        ensure!(
            after == stamp,
            "{place} changed while it was indexed; begin again when it is complete"
        );
        let kept = Kept {
            stamp,
            within,
            index,
        };
        if !stamp.is_recent(now) {
            let mut errors = Vec::new();
            let is_kept = files.iter().any(|file| {
                let saved = kept::save(file, &kept);
                errors.extend(saved.as_ref().err().map(|error| format!("{error:#}")));
                saved.is_ok()
            });
            if !is_kept {
                tracing::warn!("the index of {place} cannot be kept: {}", errors.join("; "));
            }
        }
        Ok(kept.index)
    }

    fn read_index(&self, within: Within) -> Result<Index> {
        let mut scan = Scan {
            archive: self,
            within,
            folders: BTreeSet::from([Vec::new()]),
            images: Vec::new(),
            others: BTreeMap::new(),
            slow: Slow::new(),
        };
        scan.tar(0..self.length, None)?;
        Ok(scan.index())
    }
}

/// What has been found so far.
struct Scan<'a> {
    archive: &'a Archive,
    within: Within,
    folders: BTreeSet<Vec<u8>>,
    /// In the order of the archive.
    images: Vec<(Vec<u8>, (u64, u64))>,
    others: BTreeMap<Vec<u8>, Other>,
    slow: Slow,
}

/// A tar is made of blocks of so many bytes, and ends with two that are empty.
const BLOCK: u64 = 512;

impl Scan<'_> {
    /// Reads all headers of a tar. `class` is the name of one within the archive.
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
        // Where the next header should be.
        let mut end = bytes.start;
        for entry in tar.entries_with_seek()? {
            let entry = entry.map_err(|error| match end + BLOCK > bytes.end {
                true => anyhow::Error::new(error).context(cut_off(&place, &bytes, "in a header")),
                false => anyhow::Error::new(error).context(format!(
                    "{place} is damaged, or no tar: no header can be read at byte {end}; \
                     download or pack it again"
                )),
            })?;
            let start = bytes.start + entry.raw_file_position();
            // A sparse file's size is not that of what is stored.
            let stored = match entry.header().entry_type().is_gnu_sparse() {
                true => entry.header().entry_size()?,
                false => entry.size(),
            };
            let stop = start.checked_add(stored).filter(|&stop| stop <= bytes.end);
            let stop = stop.with_context(|| {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let wanted = start.saturating_add(stored);
                let why = format!("but `{name}` should reach from byte {start} to {wanted}");
                cut_off(&place, &bytes, &why)
            })?;
            end = stop.next_multiple_of(BLOCK);
            self.entry(&place, entry, start..stop, class)?;
            let (path, length) = (self.archive.path.display(), self.archive.length.max(1));
            self.slow
                .at(|| format!("indexing {path}: {} %", stop.saturating_mul(100) / length));
        }
        ensure!(
            end + BLOCK <= bytes.end,
            cut_off(&place, &bytes, "without the mark of a tar's end")
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
        let Some(path) = below(class, &path) else {
            ensure!(
                !is_image,
                "{place}: `{}` leads out of the archive; pack the images with paths below one \
                 folder, without `/` at the front and without `..`",
                shown()
            );
            return Ok(());
        };
        // As when a tar is unpacked, an entry takes the place of an earlier one of its name.
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
            // Whatever its name, a link might lead to a folder of images.
            Kind::Other(other) if is_image || other == Other::SymbolicLink => {
                self.others.insert(path, other);
            }
            Kind::Other(_) => {}
        }
        Ok(())
    }

    /// The name of a tar in the archive without the `.tar`, if it counts as a folder.
    fn inner<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let name = split(path).1.strip_suffix(b".tar")?;
        (self.within == Within::Tars && !name.is_empty()).then_some(name)
    }

    /// Notes a folder, and those that it is in.
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
        // The last one of a name stays, unless a link took its place later.
        self.images.dedup_by(|next, kept| {
            let is_double = next.0 == kept.0;
            if is_double {
                kept.1 = next.1;
            }
            is_double
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

/// What an entry can be.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    File,
    Other(Other),
}

/// `None` for what no data set is made of: devices, pipes, comments.
fn kind_of(entry: &mut tar::Entry<impl Read>) -> io::Result<Option<Kind>> {
    let kind = entry.header().entry_type();
    // The newer way to say that a file is sparse.
    let mut pax = entry.pax_extensions()?.into_iter().flatten().flatten();
    let is_sparse = kind.is_gnu_sparse() || pax.any(|pax| pax.key_bytes().starts_with(SPARSE));
    let is_file = kind.is_file() || kind.is_contiguous();
    Ok(match () {
        () if is_sparse => Some(Kind::Other(Other::Sparse)),
        () if kind.is_symlink() => Some(Kind::Other(Other::SymbolicLink)),
        () if kind.is_hard_link() => Some(Kind::Other(Other::HardLink)),
        // The oldest tars have no other mark.
        () if kind.is_dir() || (is_file && entry.path_bytes().ends_with(b"/")) => {
            Some(Kind::Folder)
        }
        () if is_file => Some(Kind::File),
        () => None,
    })
}

const SPARSE: &[u8] = b"GNU.sparse.";

fn cut_off(place: &str, bytes: &Range<u64>, why: &str) -> String {
    let end = bytes.end;
    format!("{place} is cut off: it ends at byte {end}, {why}; download or pack it again")
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// A path in the archive in plain form: without `.` and empty parts. `None` where it leads out.
fn below(class: Option<&[u8]>, path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") {
        return None;
    }
    let parts = class.into_iter().chain(path.split(|&byte| byte == b'/'));
    let parts: Vec<&[u8]> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let leads_out = parts.iter().any(|part| *part == b"..");
    (!leads_out).then(|| parts.join(&b'/'))
}

/// A part of a file as a file.
struct Window<'a> {
    file: &'a File,
    bytes: Range<u64>,
    /// Where in the file.
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
    /// The same images under other paths, `CLASS/IMAGE`: what `path` says for each image's name.
    ///
    /// # Errors
    /// Those of `path`.
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

    /// The folders that hold folders with images: one of them holds the class folders.
    fn candidates(&self) -> BTreeSet<&[u8]> {
        let folders = self.images.iter().map(|image| split(image).0);
        let folders = folders.filter(|folder| !folder.is_empty());
        folders.map(|folder| split(folder).0).collect()
    }
}

impl Listing {
    /// Lists the images of an archive's `folder` of class folders. It may be left out where there is
    /// only one.
    ///
    /// # Errors
    /// There is no such folder, or none that holds class folders, or several; a class without an
    /// image; images that are links or sparse files.
    pub fn of_archive(archive: Archive, index: &Index, folder: Option<&str>) -> Result<Self> {
        let place = archive.path.display().to_string();
        let folder = match folder {
            Some(folder) => below(None, folder.as_bytes()).unwrap_or_default(),
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
                "{place} holds {what}, which have no bytes of their own to read: {}; pack it again \
                 with {option} (GNU tar)",
                first_few(&paths)
            );
        }

        // By class, and within a class in the order that they are in.
        let mut images: Vec<(u32, usize)> = Vec::new();
        for (at, path) in index.images.iter().enumerate() {
            let Some(start) = below_folder(path) else {
                continue;
            };
            let mut parts = path[start..].splitn(2, |&byte| byte == b'/');
            // An image beside the class folders is of no class.
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

/// The folder that the class folders are in, if only one can be.
fn only_folder(place: &str, index: &Index) -> Result<Vec<u8>> {
    let candidates = index.candidates();
    let mut folders = candidates.iter();
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_vec()),
        (None, _) => Ok(Vec::new()),
        _ => {
            bail!(
                "{place} has class folders in several folders: {}; `folder` says which of them is \
                 meant",
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

/// No class folders in `folder`.
fn no_folder(place: &str, folder: &str, index: &Index) -> anyhow::Error {
    let candidates = shown(&index.candidates());
    let meant = did_you_mean(folder, candidates.iter().map(String::as_str));
    let there = match candidates.as_slice() {
        [] => "images are expected in it as CLASS/IMAGE.jpg".to_owned(),
        [top] if top.is_empty() => "they are at its top: leave `folder` out".to_owned(),
        folders => format!("there are some in {}", first_few(folders)),
    };
    let meant = meant.map_or_else(String::new, |meant| format!("{meant} "));
    let folder = match folder {
        "" => String::new(),
        folder => format!("`{folder}` of "),
    };
    anyhow::anyhow!("{folder}{place} holds no class folders; {meant}{there}")
}
