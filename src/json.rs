//! Figures for scripts: `--json FILE`, where `-` is stdout.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Whether the JSON goes to stdout, where nothing else then does.
pub fn is_stdout(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path == Path::new("-"))
}

/// Writes `value`: complete, or nothing is there.
pub fn write(value: &Value, path: &Path, out: &mut dyn Write) -> Result<()> {
    if is_stdout(Some(path)) {
        writeln!(out, "{value:#}")?;
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = File::create(&partial).and_then(|mut file| {
        writeln!(file, "{value:#}")?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    written.with_context(|| {
        let _ = std::fs::remove_file(&partial);
        format!("cannot write {}", path.display())
    })
}
