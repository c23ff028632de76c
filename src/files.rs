//! Output files of the command, written whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::run_files::{BEST, CHECKPOINTS, LAST, best_checkpoint};
use rsflow_base::shown::Shown as _;
use rsflow_base::whole_file;
use serde::Serialize;

use crate::commands::usage::Usage;

/// Replaces a file atomically: `path` holds the old or the new content at any time. A link is
/// followed; a pipe or device is written to directly.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Ok(File::options().write(true).open(path)?.write_all(content)?);
    }
    whole_file::write(path, |file| Ok(file.write_all(content)?))
}

/// Refuses an output early, so that no results are lost at the end: what cannot be written there, a file
/// that exists, unless `force`, and a file that the command reads. `option` is named in the error.
pub fn check_output(path: &Path, option: &str, force: bool, inputs: &[&Path]) -> Result<()> {
    if is_stdout(Some(path)) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    };
    let cannot = |reason: &str| {
        let path = path.shown();
        bail!("cannot write {path}: {reason}; {option} names another file")
    };
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => cannot("it is a folder"),
        // A pipe or a device is written to.
        Ok(there) if !there.is_file() => Ok(()),
        Ok(there) => {
            let is_same = |input: &&&Path| {
                let input = fs::metadata(input);
                input.is_ok_and(|input| (input.dev(), input.ino()) == (there.dev(), there.ino()))
            };
            if inputs.iter().any(|input| is_same(&input)) {
                return cannot("this command reads it");
            }
            ensure!(
                force,
                Usage(format!(
                    "{} is there already; --force replaces it",
                    path.shown()
                ))
            );
            Ok(())
        }
        Err(_) if !folder.is_dir() => cannot("its folder does not exist"),
        Err(_) => Ok(()),
    }
}

/// The checkpoint that a path names, for every command that reads one: a file, or of a run directory (or its folder
/// of checkpoints) the best one, else the last. `tell` gets which one it is.
pub fn checkpoint_of(path: &Path, tell: impl Fn(&str)) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = best_checkpoint(path).with_context(|| {
        Usage(format!(
            "{} is a folder without {CHECKPOINTS}/{BEST} or {CHECKPOINTS}/{LAST}; name a \
             checkpoint or a run directory",
            path.shown()
        ))
    })?;
    tell(&format!("checkpoint: {}", found.shown()));
    Ok(found)
}

/// Whether the JSON goes to stdout; nothing else is written there then.
pub fn is_stdout(json: Option<&Path>) -> bool {
    json == Some(Path::new("-"))
}

/// Writes `value` for `--json FILE`; `-` is stdout.
pub fn write_json(path: &Path, value: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    if is_stdout(Some(path)) {
        return Ok(out.write_all(text.as_bytes())?);
    }
    replace(path, text.as_bytes())
        .with_context(|| format!("cannot write {}; --json names another file", path.shown()))
}
