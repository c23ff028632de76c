//! Whose batch norms images of a size run with.

use super::Metadata;
use crate::nn::switchable::BatchNorms;

/// Where the batch norms of a size come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormsFrom {
    /// Those of this resolution.
    Resolution(u32),
    /// Scales, shifts and running statistics, each interpolated between those of the next resolution below the
    /// size and the next one above it, in proportion to the distances.
    Between { below: u32, size: u32, above: u32 },
}

/// Labels of interpolated batch norms lie above all resolutions.
const INTERPOLATED: u32 = 1 << 16;

impl From<u32> for NormsFrom {
    fn from(resolution: u32) -> Self {
        NormsFrom::Resolution(resolution)
    }
}

impl NormsFrom {
    /// What they are called in a network that has them beside those of resolutions.
    pub fn label(self) -> u32 {
        match self {
            NormsFrom::Resolution(resolution) => resolution,
            NormsFrom::Between { size, .. } => INTERPOLATED + size,
        }
    }

    /// The one, or the lower one.
    pub(super) fn first(self) -> u32 {
        match self {
            NormsFrom::Resolution(resolution) => resolution,
            NormsFrom::Between { below, .. } => below,
        }
    }
}

impl Metadata {
    /// The batch norms that serve images of this size best: its own if it has some, else interpolated ones, else
    /// those of the nearest resolution that has some.
    pub fn norms_for(&self, size: u32) -> NormsFrom {
        let nearest = || NormsFrom::Resolution(self.batch_norm_for(size));
        self.norms_between(size).unwrap_or_else(nearest)
    }

    /// Batch norms interpolated for this size; `None` if it has its own, does not lie between two
    /// resolutions that have some, or all resolutions share theirs.
    pub fn norms_between(&self, size: u32) -> Option<NormsFrom> {
        let known = self.batch_norm_resolutions();
        let has_own = known.contains(&size) || self.resolutions.contains(&size);
        if has_own || self.batch_norms == BatchNorms::Shared {
            return None;
        }
        let below = known.iter().copied().filter(|norm| *norm < size).max()?;
        let above = known.iter().copied().filter(|norm| *norm > size).min()?;
        Some(NormsFrom::Between { below, size, above })
    }

    /// The resolution whose batch norms serve images of this size best: itself if it has some, else the nearest
    /// that has (of two, the smaller).
    pub fn batch_norm_for(&self, size: u32) -> u32 {
        let trained = self.resolutions.iter().position(|&r| r == size);
        if let Some(norm) =
            trained.and_then(|at| self.batch_norms.of(&self.resolutions).get(at).copied())
        {
            return norm;
        }
        let norms = self.batch_norm_resolutions().into_iter();
        let nearest = norms.min_by_key(|&norm| (norm.abs_diff(size), norm));
        nearest.unwrap_or(size)
    }
}
