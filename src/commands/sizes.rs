//! Checks of the resolutions that `eval` and `predict` are asked for, and whose batch norms they run with.

use std::path::Path;

use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::{Metadata, NormsFrom};
use rsflow_model::nn::switchable::check_resolutions;

use super::usage::Usage;
use crate::cli::NormChoice;

/// Checks that a checkpoint's network can run at these sizes, and that it has the batch norms chosen
/// for some of them.
pub fn check(
    metadata: &Metadata,
    checkpoint: &Path,
    sizes: &[u32],
    chosen: &[(u32, NormChoice)],
) -> anyhow::Result<()> {
    let problems = check_resolutions(&metadata.network, sizes)?;
    if !problems.is_empty() {
        return Err(Usage(problems.join("; ")).into());
    }
    let norms = metadata.batch_norm_resolutions();
    for (size, choice) in chosen {
        let problem = match choice {
            _ if !sizes.contains(size) => format!("{size} is not one of the sizes {sizes:?}"),
            NormChoice::Of(norm) if !norms.contains(norm) => {
                format!("{} has batch norms of {norms:?}", checkpoint.shown())
            }
            NormChoice::Interpolated if metadata.norms_between(*size).is_none() => format!(
                "only a size between two of the resolutions {norms:?} that has no batch norms of its own gets \
                 interpolated ones"
            ),
            _ => continue,
        };
        return Err(Usage(format!("--batch-norm {size}={choice}: {problem}")).into());
    }
    Ok(())
}

/// Where the batch norms of a size come from, as [`check`] allowed it.
pub fn norms(metadata: &Metadata, size: u32, choice: Option<NormChoice>) -> NormsFrom {
    let usual = || metadata.norms_for(size);
    match choice {
        None => usual(),
        Some(NormChoice::Of(norm)) => NormsFrom::Resolution(norm),
        Some(NormChoice::Nearest) => NormsFrom::Resolution(metadata.batch_norm_for(size)),
        Some(NormChoice::Interpolated) => metadata.norms_between(size).unwrap_or_else(usual),
    }
}

/// A line that names the batch norms of a size that has none of its own; `None` if it has, or if
/// they were chosen.
pub fn tell_borrowed(
    metadata: &Metadata,
    size: u32,
    chosen: &[(u32, NormChoice)],
) -> Option<String> {
    let known = metadata.resolutions.contains(&size) || metadata.calibrated.contains(&size);
    if known || chosen.iter().any(|(of, _)| *of == size) {
        return None;
    }
    let using = match metadata.norms_for(size) {
        NormsFrom::Resolution(norm) => format!("the batch norms of {norm}"),
        NormsFrom::Between { below, above, .. } => {
            format!("batch norms interpolated between those of {below} and {above}")
        }
    };
    Some(format!(
        "{size} was not trained: using {using}; --batch-norm selects others"
    ))
}
