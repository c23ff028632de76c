//! Reads the headers of a tar, and of tars within it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;

use super::archive::{Archive, Index, Other, Within};
use super::join;
use super::names::split;
use super::progress::Progress;
use crate::files::{is_hidden, is_image};

/// Indexes an archive.
pub(super) fn scan(archive: &Archive, within: Within) -> Result<Index> {
    let mut scan = Scan {
        archive,
        within,
        folders: BTreeSet::new(),
        images: Vec::new(),
        others: BTreeMap::new(),
        passed_over: BTreeMap::new(),
        progress: Progress::new(),
    };
    scan.tar(0..archive.length, None)?;
    Ok(scan.index())
}

/// The state of indexing.
struct Scan<'a> {
    archive: &'a Archive,
    within: Within,
    folders: BTreeSet<Vec<u8>>,
    /// In the order of the archive.
    images: Vec<(Vec<u8>, (u64, u64))>,
    others: BTreeMap<Vec<u8>, Other>,
    passed_over: BTreeMap<Vec<u8>, bool>,
    progress: Progress,
}

/// The block size of a tar in bytes. A tar ends with two zero blocks.
const BLOCK: u64 = 512;
/// Upper bound of what precedes a file's content: its long name, pax records, sparse maps. They are
/// read into memory. Extended attributes of macOS may have some hundred KB.
const MAX_HEADERS: u64 = 1 << 20;
/// Upper bound of a path; file systems take 4 KB.
const MAX_PATH: usize = 64 << 10;

impl Scan<'_> {
    /// Reads all headers of a tar. `class` is the name of a tar within the archive.
    fn tar(&mut self, bytes: Range<u64>, class: Option<&[u8]>) -> Result<()> {
        let place = match class {
            None => self.archive.path.shown().to_string(),
            Some(class) => {
                let tar = format!("{}.tar", String::from_utf8_lossy(class));
                join(&self.archive.path, Path::new(&tar))
            }
        };
        let left = Cell::new(0);
        let mut tar = tar::Archive::new(Window {
            file: &self.archive.file,
            bytes: bytes.clone(),
            at: bytes.start,
            left: &left,
        });
        let mut entries = tar.entries_with_seek()?;
        // The expected offset of the next header.
        let mut end = bytes.start;
        let too_long = |start| {
            format!(
                "{place}: the entry at byte {start} has a name or attributes of more than the limit of \
                 {MAX_HEADERS} bytes; create it again without that entry"
            )
        };
        while let Some(entry) = {
            left.set(MAX_HEADERS);
            entries.next()
        } {
            let entry = entry.map_err(|error| match end + BLOCK > bytes.end {
                _ if left.get() == 0 => anyhow::Error::msg(too_long(end)),
                true => anyhow::Error::new(error).context(truncated(&place, &bytes, "in a header")),
                false => anyhow::Error::new(error).context(format!(
                    "{place} is damaged or not a tar: invalid header at byte {end}; download or \
                     create it again"
                )),
            })?;
            let header = end;
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
            let read = self.entry(&place, header, entry, start..stop, class);
            ensure!(read.is_ok() || left.get() > 0, too_long(header));
            read?;
            let (path, length) = (self.archive.path.shown(), self.archive.length.max(1));
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
        header: u64,
        mut entry: tar::Entry<impl Read>,
        bytes: Range<u64>,
        class: Option<&[u8]>,
    ) -> Result<()> {
        // Names end at a zero, as in GNU tar.
        let mut path = entry.path_bytes().into_owned();
        path.truncate(
            path.iter()
                .position(|&byte| byte == 0)
                .unwrap_or(path.len()),
        );
        ensure!(
            path.len() <= MAX_PATH,
            "{place}: the entry at byte {header} has a path of {} bytes, the limit is {MAX_PATH}; create it \
             again without that entry",
            path.len()
        );
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let kind = kind_of(&mut entry)
            .with_context(|| format!("{place}: cannot read the header of `{}`", shown()))?;
        let Some(kind) = kind else { return Ok(()) };
        if let (Kind::File, None, Some(class)) = (kind, class, self.inner(&path)) {
            self.folder(class);
            return self.tar(bytes, Some(class));
        }
        let is_image = kind != Kind::Folder && is_image(Path::new(OsStr::from_bytes(&path)));
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
        self.passed_over.remove(&path);
        match kind {
            Kind::Folder => self.folder(&path),
            Kind::File => {
                self.folder(split(&path).0);
                if is_image {
                    let part = (bytes.start, bytes.end - bytes.start);
                    self.images.push((path, part));
                } else {
                    self.passed_over.insert(path, false);
                }
            }
            Kind::Special => {
                self.passed_over.insert(path, true);
            }
            // Whatever its name, a symbolic link could point to a folder of images.
            Kind::Other(other) if is_image || other == Other::SymbolicLink => {
                self.others.insert(path, other);
            }
            Kind::Other(_) => {
                self.passed_over.insert(path, false);
            }
        }
        Ok(())
    }

    /// The name without `.tar` of a tar within the archive, if those are indexed.
    fn inner<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let name = split(path).1.strip_suffix(b".tar")?;
        (self.within == Within::Tars && !name.is_empty() && !is_hidden(name)).then_some(name)
    }

    fn folder(&mut self, path: &[u8]) {
        if !self.folders.contains(path) {
            self.folders.insert(path.to_owned());
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
            passed_over: self.passed_over.into_iter().collect(),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    File,
    Other(Other),
    /// A FIFO or device.
    Special,
}

/// `None` for what is not a file: comments, headers of other programs.
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
        () if kind.is_fifo() || kind.is_character_special() || kind.is_block_special() => {
            Some(Kind::Special)
        }
        () => None,
    })
}

const SPARSE: &[u8] = b"GNU.sparse.";

fn truncated(place: &str, bytes: &Range<u64>, why: &str) -> String {
    let end = bytes.end;
    format!("{place} is truncated: it ends at byte {end}, {why}; download or create it again")
}

/// Normalizes a path within the archive: removes `.` and empty parts. `None` if it is absolute or has
/// `..`.
pub(super) fn normalize(class: Option<&[u8]>, path: &[u8]) -> Option<Vec<u8>> {
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
    /// How many more bytes may be read.
    left: &'a Cell<u64>,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.end.saturating_sub(self.at);
        let wanted = left.min(buffer.len() as u64);
        if wanted > 0 && self.left.get() == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = wanted.min(self.left.get()) as usize;
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        self.left.set(self.left.get() - read as u64);
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
