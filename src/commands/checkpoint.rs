//! The checkpoint of a command line.

use std::path::Path;

use anyhow::Result;
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::Checkpoint;

use crate::cli::Verify;

/// Opens it, and checks all of it if that was asked for; `tell` gets what was found.
pub fn open(path: &Path, by: &Verify, tell: impl FnOnce(&str)) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(path)?;
    if by.verify {
        checkpoint.verify()?;
        let (path, tensors) = (path.shown(), checkpoint.names().len());
        tell(&match checkpoint.has_sums() {
            true => format!("{path} is sound: {tensors} tensors have their checksums"),
            false => format!(
                "{path} has no checksums, an earlier version wrote it; shapes and values of its \
                 {tensors} tensors are sound"
            ),
        });
    }
    Ok(checkpoint)
}
