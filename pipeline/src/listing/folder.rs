//! Lists a folder of class folders.
//!
//! A listing is cached in the user's cache folder. It is valid as long as the times, sizes and inodes of
//! all folders are unchanged, which costs one `stat` per folder: adding, removing and renaming files
//! change a folder's times. The content of files is not part of the listing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::NotThere;
use serde::{Deserialize, Serialize};

use super::index_file::{self, Stamp};
use super::passed_over::PassedOver;
use super::progress::Progress;
use super::{Bytes, Listing, Names, in_brackets, lossy};
use crate::files::{is_hidden, is_image};

impl Listing {
    /// Lists the images of a folder of class folders. With a folder `cache`, the listing is cached
    /// there, and reused the next time if no folder has changed. It is not cached if a folder changed
    /// within two seconds before `now`: another change could get the same timestamp.
    ///
    /// # Errors
    /// A folder that does not exist, cannot be listed or has no class folders; a class without an
    /// image; a symbolic link to a folder that contains it; an image that is a broken link.
    pub fn of_folder(root: &Path, cache: Option<&Path>, now: SystemTime) -> Result<Self> {
        let place = root.shown();
        let there = fs::metadata(root);
        let relative = match root.is_relative() {
            true => " (relative paths start at the working directory)",
            false => "",
        };
        ensure!(
            !there.is_err_and(|error| error.kind() == ErrorKind::NotFound) && !root.is_file(),
            NotThere(format!("there is no folder {place}{relative}"))
        );
        let whole = fs::canonicalize(root).with_context(|| cannot_list(root))?;
        let index_path = cache.map(|cache| index_file::path_for(cache, &whole));
        let cached = index_path
            .as_deref()
            .and_then(index_file::load::<CachedListing>);
        let (listing, is_cached) = match cached.filter(|listing| listing.is_current(root)) {
            Some(listing) => (listing, true),
            None => (Walk::new(root, &whole).classes()?, false),
        };
        let (classes, images) = (listing.classes.len(), listing.labels.len());
        tracing::info!(folder = %place, classes, images, is_cached, "listed");
        if let Some(file) = index_path.filter(|_| !is_cached && !listing.is_recent(now))
            && let Err(error) = index_file::save(&file, &listing)
        {
            tracing::warn!(
                "cannot cache the listing of {place} in {}: {error:#}",
                file.shown()
            );
        }
        let found = Listing {
            origin: place.to_string(),
            passed_over: listing.passed,
            classes: lossy(&listing.classes),
            labels: listing.labels,
            names: listing.names,
            bytes: Bytes::Files(root.to_owned()),
            whole: None,
        };
        found.check(&listing.classes)
    }
}

/// The images of a folder and its subfolders, sorted by folder, then by name, and what else it holds.
///
/// # Errors
/// As [`Listing::of_folder`], but for class folders.
pub fn images_in(folder: &Path) -> Result<(Vec<PathBuf>, PassedOver)> {
    let whole = fs::canonicalize(folder).with_context(|| cannot_list(folder))?;
    let mut walk = Walk::new(folder, &whole);
    let above = walk.folders.len().checked_sub(1);
    walk.images(PathBuf::new(), false, above)?;
    let names = walk.listing.names.iter();
    let images = names.map(|name| folder.join(OsStr::from_bytes(name)));
    Ok((images.collect(), walk.listing.passed))
}

fn cannot_list(folder: &Path) -> String {
    format!(
        "cannot list {}; let this user read it, shorten its path, or remove it",
        folder.shown()
    )
}

/// The content of an index file. Paths are relative to the root.
#[derive(Default, Serialize, Deserialize)]
struct CachedListing {
    classes: Names,
    names: Names,
    labels: Vec<u32>,
    passed: PassedOver,
    /// Everything whose change can change the listing: all folders, broken links, and links to files
    /// that may become links to folders.
    watched: Names,
    stamps: Vec<Option<Stamp>>,
}

impl CachedListing {
    fn is_current(&self, root: &Path) -> bool {
        let mut watched = self.watched.iter().zip(&self.stamps);
        watched.all(|(path, stamp)| {
            let metadata = fs::metadata(root.join(OsStr::from_bytes(path)));
            metadata.ok().as_ref().map(Stamp::of) == *stamp
        })
    }

    /// Whether a later change could go undetected, because it could get the same timestamp.
    fn is_recent(&self, now: SystemTime) -> bool {
        let mut stamps = self.stamps.iter().flatten();
        stamps.any(|stamp| stamp.is_recent(now))
    }
}

struct Walk<'a> {
    root: &'a Path,
    listing: CachedListing,
    /// The folders above those that are being listed, starting with the ancestors of the root; each
    /// refers to its parent by index.
    folders: Vec<Folder>,
    progress: Progress,
}

struct Folder {
    path: PathBuf,
    /// Device and inode, which are the same for every path to the folder.
    identity: (u64, u64),
    parent: Option<usize>,
}

#[derive(Default)]
struct Entries {
    folders: Vec<(OsString, FileType)>,
    images: Vec<OsString>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, whole: &Path) -> Self {
        let mut folders: Vec<Folder> = Vec::new();
        for above in whole.ancestors().skip(1).collect::<Vec<_>>().iter().rev() {
            if let Ok(metadata) = fs::metadata(above) {
                folders.push(Folder {
                    path: above.to_path_buf(),
                    identity: (metadata.dev(), metadata.ino()),
                    parent: folders.len().checked_sub(1),
                });
            }
        }
        Walk {
            root,
            listing: CachedListing::default(),
            folders,
            progress: Progress::new(),
        }
    }

    fn classes(mut self) -> Result<CachedListing> {
        let place = self.root.shown();
        let root = self.enter(Path::new(""), self.folders.len().checked_sub(1))?;
        let above = self.folders.len();
        let entries = self.entries(Path::new(""))?;
        for _ in &entries.images {
            self.listing.passed.unclassed();
        }
        let mut classes = entries.folders;
        ensure!(
            !classes.is_empty(),
            "{place} holds no class folders; images are expected as {place}/CLASS/IMAGE.jpg{}",
            in_brackets(&self.listing.passed)
        );
        classes.sort_by(|a, b| a.0.cmp(&b.0));
        for (label, (class, kind)) in classes.into_iter().enumerate() {
            let label = u32::try_from(label).context("too many classes")?;
            self.images(PathBuf::from(&class), kind.is_symlink(), Some(root))?;
            self.listing.classes.push(class.as_bytes());
            self.listing.labels.resize(self.listing.names.len(), label);
            self.folders.truncate(above);
        }
        Ok(self.listing)
    }

    /// Adds the images of a folder and its subfolders, sorted by folder, then by name, as Python's
    /// `sorted(os.walk(...))`.
    fn images(&mut self, folder: PathBuf, is_link: bool, parent: Option<usize>) -> Result<()> {
        let mut images: Vec<(PathBuf, Vec<OsString>)> = Vec::new();
        // Not recursive, because folders can be nested deeply.
        let mut ahead = vec![(folder, is_link, parent)];
        while let Some((path, is_link, parent)) = ahead.pop() {
            let folder = self.enter(&path, parent)?;
            if is_link {
                self.check_loop(folder)?;
            }
            let entries = self.entries(&path)?;
            let folders = entries.folders.into_iter();
            ahead.extend(
                folders.map(|(name, kind)| (path.join(name), kind.is_symlink(), Some(folder))),
            );
            images.push((path, entries.images));
        }
        images.sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
        for (folder, mut names) in images {
            names.sort();
            for name in names {
                self.listing
                    .names
                    .push(folder.join(name).as_os_str().as_bytes());
            }
        }
        Ok(())
    }

    /// Records a folder's stamp before it is listed, so that any later change is detected.
    fn enter(&mut self, path: &Path, parent: Option<usize>) -> Result<usize> {
        let whole = self.root.join(path);
        let metadata = fs::metadata(&whole).with_context(|| cannot_list(&whole))?;
        self.watch(path, Some(Stamp::of(&metadata)));
        self.folders.push(Folder {
            path: whole,
            identity: (metadata.dev(), metadata.ino()),
            parent,
        });
        Ok(self.folders.len() - 1)
    }

    fn watch(&mut self, path: &Path, stamp: Option<Stamp>) {
        self.listing.watched.push(path.as_os_str().as_bytes());
        self.listing.stamps.push(stamp);
    }

    /// Checks that a symbolic link does not point to a folder that contains it.
    fn check_loop(&self, folder: usize) -> Result<()> {
        let Some(link) = self.folders.get(folder) else {
            return Ok(());
        };
        let mut parent = link.parent;
        while let Some(above) = parent.and_then(|parent| self.folders.get(parent)) {
            ensure!(
                above.identity != link.identity,
                "the symbolic link {} points back to {}, which contains it; remove the link",
                link.path.shown(),
                above.path.shown()
            );
            parent = above.parent;
        }
        Ok(())
    }

    /// Reads the entries of one folder.
    fn entries(&mut self, path: &Path) -> Result<Entries> {
        let whole = self.root.join(path);
        let mut entries = Entries::default();
        for entry in fs::read_dir(&whole).with_context(|| cannot_list(&whole))? {
            let entry = entry.with_context(|| cannot_list(&whole))?;
            let name = entry.file_name();
            if is_hidden(name.as_bytes()) {
                self.listing.passed.hidden += 1;
                continue;
            }
            let kind = entry.file_type().with_context(|| cannot_list(&whole))?;
            let target = match kind.is_symlink() {
                false => kind,
                true => match self.follow(path, &name)? {
                    Some(target) => target,
                    None => continue,
                },
            };
            if target.is_dir() {
                entries.folders.push((name, kind));
            } else if !target.is_file() {
                self.listing.passed.special += 1;
            } else if is_image(Path::new(&name)) {
                entries.images.push(name);
            } else {
                self.listing.passed.file(Path::new(&name));
            }
        }
        let (images, root) = (self.listing.names.len(), self.root);
        self.progress
            .report(|| format!("listing {}: {images} images so far", root.shown()));
        Ok(entries)
    }

    /// The target type of a symbolic link. A broken link is an error if it has the name of an image.
    /// Any other link that is broken or points to a file is watched, because it may point to a folder
    /// later.
    fn follow(&mut self, folder: &Path, name: &OsStr) -> Result<Option<FileType>> {
        let path = folder.join(name);
        let link = self.root.join(&path);
        let (is_image, shown) = (is_image(&path), link.shown());
        match fs::metadata(&link) {
            Ok(target) => {
                if !target.is_dir() && !is_image {
                    self.watch(&path, Some(Stamp::of(&target)));
                }
                Ok(Some(target.file_type()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !is_image => {
                self.watch(&path, None);
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("the symbolic link {shown} is broken; fix it or remove it")
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot follow the symbolic link {shown}; remove it")),
        }
    }
}
