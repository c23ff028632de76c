//! Files that the command writes: whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Replaces a file: what is at `path` is the old or the new content at any time. A link is
/// followed; what is no plain file (a pipe, a device) is written to as it is.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return File::options().write(true).open(path)?.write_all(content);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Whether the JSON goes to stdout, where nothing else then does.
pub fn is_stdout(json: Option<&Path>) -> bool {
    json == Some(Path::new("-"))
}

/// Writes what `--json FILE` asks for; `-` is stdout.
pub fn write_json(path: &Path, value: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    if is_stdout(Some(path)) {
        return Ok(out.write_all(text.as_bytes())?);
    }
    replace(path, text.as_bytes())
        .with_context(|| format!("cannot write {}; --json names another file", path.display()))
}
