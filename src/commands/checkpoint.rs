//! The checkpoint of a command line.

use std::path::Path;

use anyhow::Result;
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::{Checkpoint, Weights};

use crate::cli::Opening;

/// Opens it with the weights that were asked for, and checks all of it if that was; `tell` gets what was found.
pub fn open(path: &Path, by: &Opening, tell: impl Fn(&str)) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(path)?.with_weights(by.weights)?;
    if by.weights.is_none() && checkpoint.weights() == Weights::Average {
        tell("the weights are the average that its run kept; --weights trained takes the others");
    }
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
