//! Output files of the command, written whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use rsflow_base::whole_file;
use serde::Serialize;

/// Replaces a file atomically: `path` holds the old or the new content at any time. A link is
/// followed; a pipe or device is written to directly.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Ok(File::options().write(true).open(path)?.write_all(content)?);
    }
    whole_file::write(path, |file| Ok(file.write_all(content)?))
}

/// Checks early that a file can be written there later. `option` is named in the error.
pub fn check_place(path: &Path, option: &str) -> Result<()> {
    if is_stdout(Some(path)) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    };
    let reason = if path.is_dir() {
        "it is a folder"
    } else if !folder.is_dir() {
        "its folder does not exist"
    } else {
        return Ok(());
    };
    anyhow::bail!(
        "cannot write {}: {reason}; {option} names another file",
        path.display()
    )
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
        .with_context(|| format!("cannot write {}; --json names another file", path.display()))
}
