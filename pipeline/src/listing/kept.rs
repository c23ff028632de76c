//! Keeping what was listed for the next start.
//!
//! A kept file is a mark with a version, a checksum (xxh3, little-endian) of what follows, and the
//! content as postcard writes it. One that is damaged, or of another version, counts as none: what
//! it held can be found out again.

use std::fs::{self, Metadata};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use etcetera::BaseStrategy as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// With a new layout of the content comes a new number.
const MARK: &[u8; 16] = b"rsflow listing 1";

/// What tells that a file or folder is as it was. A change of what a folder holds changes its times;
/// that of the inode (`ctime`) can be set by the system alone.
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

    /// Whether it changed so shortly before that another change may have got the same time: some
    /// file systems count whole seconds.
    pub fn is_recent(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.changed.0 + 2 > now.as_secs() as i64
    }
}

/// The folder for what this program keeps, in the user's cache folder (`$XDG_CACHE_HOME` or
/// `~/.cache`), if there is a user.
pub fn cache_folder() -> Option<PathBuf> {
    let strategy = etcetera::base_strategy::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("rsflow"))
}

/// The kept file of a data set in the cache folder.
pub(super) fn file_for(cache: &Path, set: &Path) -> PathBuf {
    let key = xxh3_128(set.as_os_str().as_bytes());
    cache.join(format!("{key:032x}.rsflow-index"))
}

/// What is kept there, if it is and is sound.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    let content = decode(&bytes);
    if content.is_none() {
        tracing::warn!(file = %path.display(), "damaged, or of another version; it is rebuilt");
    }
    content
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (sum, content) = bytes.strip_prefix(MARK)?.split_first_chunk()?;
    let sound = u64::from_le_bytes(*sum) == xxh3_64(content);
    sound.then(|| postcard::from_bytes(content).ok())?
}

/// Keeps it there. Whoever looks sees the old file or the new one.
pub(super) fn save(path: &Path, content: &impl Serialize) -> Result<()> {
    let folder = path.parent().context("it is the path of no file")?;
    fs::create_dir_all(folder)?;
    let content = postcard::to_stdvec(content)?;
    // Others who read the same data may read this too.
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(MARK)?;
    file.write_all(&xxh3_64(&content).to_le_bytes())?;
    file.write_all(&content)?;
    // Not forced to the disk: what a power failure leaves of it fails its checksum.
    file.persist(path)?;
    Ok(())
}
