//! Index files: cached listings for the next start.
//!
//! An index file is a magic number with a version, a checksum (xxh3, little-endian) of the content, and
//! the content as postcard. A file that is damaged or of another version is ignored and rebuilt.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use rsflow_base::shown::Shown as _;
use rsflow_base::{input_file, whole_file};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Magic number and version. A new layout of the content needs a new version.
const MAGIC: &[u8; 16] = b"rsflow listing 2";

/// Upper bound of an index file; that of ImageNet's training images has 60 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Identifies the state of a file or folder. Adding, removing or renaming an entry of a folder changes
/// the folder's times; users cannot set `ctime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change was so recent that another one may get the same timestamp: some file
    /// systems store whole seconds.
    pub fn is_recent(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.changed.0 + 2 > now.as_secs() as i64
    }
}

/// The path of a data set's index file in the cache folder.
pub(super) fn path_for(cache: &Path, set: &Path) -> PathBuf {
    let key = xxh3_128(set.as_os_str().as_bytes());
    cache.join(format!("{key:032x}.rsflow-index"))
}

/// Loads an index file; `None` if there is none or it is invalid.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = input_file::read(path, MAX_BYTES).ok()?;
    let content = decode(&bytes);
    if content.is_none() {
        tracing::warn!(file = %path.shown(), "index file is damaged or of another version, rebuilding");
    }
    content
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (sum, content) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    let sound = u64::from_le_bytes(*sum) == xxh3_64(content);
    sound.then(|| postcard::from_bytes(content).ok())?
}

/// Saves an index file atomically: a concurrent reader sees the old file or the new one.
pub(super) fn save(path: &Path, content: &impl Serialize) -> Result<()> {
    let folder = path.parent().context("the path has no parent folder")?;
    fs::create_dir_all(folder)?;
    let content = postcard::to_stdvec(content)?;
    let sum = xxh3_64(&content).to_le_bytes();
    let file = [&MAGIC[..], &sum, &content].concat();
    // A file that a power failure left incomplete fails its checksum.
    Ok(whole_file::write_cache(path, &file)?)
}
