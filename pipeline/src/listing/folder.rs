//! Listing a folder of class folders.
//!
//! A listing is kept in the user's cache folder. It holds good as long as the times, sizes and inodes
//! of all folders in it are what they were, which costs one look at each folder: adding, removing
//! and renaming change a folder's times. What a file holds is not part of the listing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::kept::{self, Stamp};
use super::slow::Slow;
use super::{Bytes, Listing, Names, lossy};
use crate::files::is_image;

impl Listing {
    /// Lists the images of a folder of class folders. With a folder `cache`, the listing is kept
    /// there, and found there the next time if no folder has changed. Not if a folder changed within
    /// two seconds before `now`: one more change could bear the same time.
    ///
    /// # Errors
    /// A folder that is not there, cannot be listed or holds no class folders; a class without an
    /// image; a symbolic link that leads back to a folder above it, or an image that is a link to
    /// nowhere.
    pub fn of_folder(root: &Path, cache: Option<&Path>, now: SystemTime) -> Result<Self> {
        let place = root.display();
        let there = fs::metadata(root);
        ensure!(
            !there.is_err_and(|error| error.kind() == ErrorKind::NotFound) && !root.is_file(),
            "there is no folder {place} (relative paths start at the working directory); \
             `--set NODE.root=FOLDER` names another"
        );
        let whole = fs::canonicalize(root).with_context(|| cannot_list(root))?;
        let kept_in = cache.map(|cache| kept::file_for(cache, &whole));
        let kept = kept_in.as_deref().and_then(kept::load::<Found>);
        let (found, is_kept) = match kept.filter(|found| found.is_as_it_was(root)) {
            Some(found) => (found, true),
            None => (Walk::new(root, &whole).classes()?, false),
        };
        let (classes, images) = (found.classes.len(), found.labels.len());
        tracing::info!(folder = %place, classes, images, is_kept, "listed");
        if let Some(file) = kept_in.filter(|_| !is_kept && !found.is_recent(now))
            && let Err(error) = kept::save(&file, &found)
        {
            tracing::warn!(
                "the listing of {place} cannot be kept in {}: {error:#}",
                file.display()
            );
        }
        let listing = Listing {
            origin: place.to_string(),
            classes: lossy(&found.classes),
            labels: found.labels,
            names: found.names,
            bytes: Bytes::Files(root.to_owned()),
        };
        listing.check(&found.classes)
    }
}

fn cannot_list(folder: &Path) -> String {
    format!(
        "cannot list {}; let this user read it, shorten its path, or remove it",
        folder.display()
    )
}

/// What is kept of a listing. Paths are below the root.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    classes: Names,
    names: Names,
    labels: Vec<u32>,
    /// Every folder, and every link that led nowhere: what may hold more some day.
    watched: Names,
    stamps: Vec<Option<Stamp>>,
}

impl Found {
    fn is_as_it_was(&self, root: &Path) -> bool {
        let mut watched = self.watched.iter().zip(&self.stamps);
        watched.all(|(path, stamp)| {
            let metadata = fs::metadata(root.join(OsStr::from_bytes(path)));
            metadata.ok().as_ref().map(Stamp::of) == *stamp
        })
    }

    /// Whether a change could pass unseen, as it could bear the time of one that was seen.
    fn is_recent(&self, now: SystemTime) -> bool {
        let mut stamps = self.stamps.iter().flatten();
        stamps.any(|stamp| stamp.is_recent(now))
    }
}

/// A way through all folders.
struct Walk<'a> {
    root: &'a Path,
    found: Found,
    /// The folders on the way to those that are being listed, each with the place of its parent.
    /// First come the root and what it lies in.
    folders: Vec<Folder>,
    slow: Slow,
}

struct Folder {
    path: PathBuf,
    /// Device and inode, whatever the path.
    identity: (u64, u64),
    parent: Option<usize>,
}

/// What a folder holds.
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
            found: Found::default(),
            folders,
            slow: Slow::new(),
        }
    }

    /// Lists class by class.
    fn classes(mut self) -> Result<Found> {
        let place = self.root.display();
        let root = self.enter(Path::new(""), self.folders.len().checked_sub(1))?;
        let above = self.folders.len();
        let mut classes = self.entries(Path::new(""))?.folders;
        ensure!(
            !classes.is_empty(),
            "{place} holds no class folders; images are expected as {place}/CLASS/IMAGE.jpg"
        );
        classes.sort_by(|a, b| a.0.cmp(&b.0));
        for (label, (class, kind)) in classes.into_iter().enumerate() {
            let label = u32::try_from(label).context("too many classes")?;
            self.class(PathBuf::from(&class), kind, root)?;
            self.found.classes.push(class.as_bytes());
            self.found.labels.resize(self.found.names.len(), label);
            self.folders.truncate(above);
        }
        Ok(self.found)
    }

    /// Adds the images of one class, folder by folder, sorted, as Python's `sorted(os.walk(...))`.
    fn class(&mut self, class: PathBuf, kind: FileType, root: usize) -> Result<()> {
        let mut images: Vec<(PathBuf, Vec<OsString>)> = Vec::new();
        // No recursion: folders may be nested as deeply as paths can be long.
        let mut ahead = vec![(class, kind, root)];
        while let Some((path, kind, parent)) = ahead.pop() {
            let folder = self.enter(&path, Some(parent))?;
            if kind.is_symlink() {
                self.check_loop(folder)?;
            }
            let entries = self.entries(&path)?;
            let folders = entries.folders.into_iter();
            ahead.extend(folders.map(|(name, kind)| (path.join(name), kind, folder)));
            images.push((path, entries.images));
        }
        images.sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
        for (folder, mut names) in images {
            names.sort();
            for name in names {
                self.found
                    .names
                    .push(folder.join(name).as_os_str().as_bytes());
            }
        }
        Ok(())
    }

    /// Notes a folder as it is before it is listed: what changes later is seen by its times.
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
        self.found.watched.push(path.as_os_str().as_bytes());
        self.found.stamps.push(stamp);
    }

    /// A link must not lead to a folder that it lies in.
    fn check_loop(&self, folder: usize) -> Result<()> {
        let Some(link) = self.folders.get(folder) else {
            return Ok(());
        };
        let mut parent = link.parent;
        while let Some(above) = parent.and_then(|parent| self.folders.get(parent)) {
            ensure!(
                above.identity != link.identity,
                "the symbolic link {} leads back to {}, which it lies in, so the listing would have \
                 no end; remove that link",
                link.path.display(),
                above.path.display()
            );
            parent = above.parent;
        }
        Ok(())
    }

    /// Lists one folder.
    fn entries(&mut self, path: &Path) -> Result<Entries> {
        let whole = self.root.join(path);
        let mut entries = Entries::default();
        for entry in fs::read_dir(&whole).with_context(|| cannot_list(&whole))? {
            let entry = entry.with_context(|| cannot_list(&whole))?;
            let name = entry.file_name();
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
            } else if target.is_file() && is_image(Path::new(&name)) {
                entries.images.push(name);
            }
        }
        let (images, root) = (self.found.names.len(), self.root);
        self.slow
            .at(|| format!("listing {}: {images} images so far", root.display()));
        Ok(entries)
    }

    /// What a symbolic link leads to. An image must lead somewhere; of any other link that does not,
    /// or that leads to a file, it is noted that it may lead to a folder some day.
    fn follow(&mut self, folder: &Path, name: &OsStr) -> Result<Option<FileType>> {
        let path = folder.join(name);
        let link = self.root.join(&path);
        let (is_image, shown) = (is_image(&path), link.display());
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
                bail!("the symbolic link {shown} leads nowhere; mend it or remove it")
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot follow the symbolic link {shown}; remove it")),
        }
    }
}
