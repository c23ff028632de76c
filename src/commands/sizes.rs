//! Checks of the resolutions that `eval` and `predict` are asked for.

use std::path::Path;

use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::Metadata;
use rsflow_model::nn::switchable::check_resolutions;

use super::usage::Usage;

/// Checks that a checkpoint's network can run at these sizes, and that it has the batch norms named
/// for some of them (pairs of a size and a resolution).
pub fn check(
    metadata: &Metadata,
    checkpoint: &Path,
    sizes: &[u32],
    named: &[(u32, u32)],
) -> anyhow::Result<()> {
    let problems = check_resolutions(&metadata.network, sizes)?;
    if !problems.is_empty() {
        return Err(Usage(problems.join("; ")).into());
    }
    let norms = metadata.batch_norm_resolutions();
    for (size, norm) in named {
        let problem = if !sizes.contains(size) {
            format!("{size} is not one of the sizes {sizes:?}")
        } else if !norms.contains(norm) {
            format!("{} has batch norms of {norms:?}", checkpoint.shown())
        } else {
            continue;
        };
        return Err(Usage(format!("--batch-norm {size}={norm}: {problem}")).into());
    }
    Ok(())
}

/// A line that names the batch norms of a size that has none of its own; `None` if it has, or if
/// `named` names them.
pub fn tell_borrowed(metadata: &Metadata, size: u32, named: &[(u32, u32)]) -> Option<String> {
    let known = metadata.resolutions.contains(&size) || metadata.calibrated.contains(&size);
    if known || named.iter().any(|(of, _)| *of == size) {
        return None;
    }
    Some(format!(
        "{size} was not trained: using the batch norms of {}; --batch-norm selects others",
        metadata.batch_norm_for(size)
    ))
}
