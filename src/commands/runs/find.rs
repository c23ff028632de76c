//! The run directories in a folder.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rsflow_base::run_files::{LOG, METRICS};
use rsflow_base::shown::Shown as _;

use crate::commands::usage::many;

/// How deep folders are searched: `runs/RECIPE/sweep/COMBINATION/SEED`, and some more.
const DEPTH: usize = 8;
/// Upper bound of searched folders, for one who names `/`.
const MOST_FOLDERS: usize = 20_000;

/// The run directories in a folder, itself perhaps, and what could not be searched, a sentence each.
pub fn run_dirs(folder: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let mut search = Search::default();
    search.look(folder, DEPTH);
    if search.too_deep > 0 {
        let folders = many(search.too_deep, "folder");
        search.notes.push(format!(
            "{folders} more than {DEPTH} levels deep: not searched; name a folder nearer to the runs"
        ));
    }
    if search.seen.len() >= MOST_FOLDERS {
        search.notes.push(format!(
            "the search has ended after {MOST_FOLDERS} folders; name a smaller folder"
        ));
    }
    (search.found, search.notes)
}

#[derive(Default)]
struct Search {
    found: Vec<PathBuf>,
    notes: Vec<String>,
    too_deep: u64,
    /// Device and inode: links may lead back.
    seen: HashSet<(u64, u64)>,
}

impl Search {
    fn look(&mut self, folder: &Path, depth: usize) {
        let Ok(metadata) = fs::metadata(folder) else {
            return;
        };
        let is_new =
            self.seen.len() < MOST_FOLDERS && self.seen.insert((metadata.dev(), metadata.ino()));
        if !is_new {
            return;
        }
        // Either may be missing from a run that was killed early, or of which a part was copied.
        if [LOG, METRICS]
            .iter()
            .any(|name| folder.join(name).is_file())
        {
            self.found.push(folder.to_owned());
            return;
        }
        if depth == 0 {
            self.too_deep += 1;
            return;
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries.flatten(),
            Err(error) => {
                let note = format!("cannot search {}: {error}", folder.shown());
                self.notes.push(note);
                return;
            }
        };
        let hidden = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b".")
        };
        for path in entries.map(|entry| entry.path()) {
            if path.is_dir() && !hidden(&path) {
                self.look(&path, depth - 1);
            }
        }
    }
}
