//! Which sizes are measured with which batch norms.

use super::Evaluate;
use crate::checkpoint::{Metadata, NormsFrom, Row};

/// A size with batch norms: a position of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    /// The position of its images in a batch.
    pub images: usize,
    pub size: u32,
    /// What the batch norms are called in the network.
    pub label: u32,
    pub norms: NormsFrom,
    /// Whether the ensemble is of it and others.
    pub in_ensemble: bool,
}

impl Cell {
    /// A row of the table that says whose batch norms these are.
    pub fn name(&self, row: &mut Row) {
        // Calibrated ones began as interpolated ones, and have a name of their own.
        if let NormsFrom::Between { below, above, .. } = self.norms
            && self.label == self.norms.label()
        {
            row.batch_norm = None;
            row.between = Some((below, above));
        }
    }
}

/// For each of `sizes` the batch norms that it runs with, or all that there are. `calibrated` ones get their
/// own, with the scales and shifts that they would run with.
pub(super) fn of(
    settings: &Evaluate,
    metadata: &Metadata,
    sizes: &[u32],
    calibrated: &[u32],
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (images, &size) in sizes.iter().enumerate() {
        let usual = usual(settings, metadata, size);
        let cell = |label, norms| Cell {
            images,
            size,
            label,
            norms,
            in_ensemble: !settings.matrix && metadata.resolutions.contains(&size),
        };
        if !settings.matrix {
            let label = match calibrated.contains(&size) {
                true => size,
                false => usual.label(),
            };
            cells.push(cell(label, usual));
            continue;
        }
        let known = metadata.batch_norm_resolutions().into_iter();
        let known = known.filter(|norm| !calibrated.contains(norm));
        cells.extend(known.map(|norm| cell(norm, NormsFrom::Resolution(norm))));
        for &of in calibrated {
            cells.push(cell(of, self::usual(settings, metadata, of)));
        }
        let between = metadata.norms_between(size);
        cells.extend(between.map(|norms| cell(norms.label(), norms)));
    }
    cells
}

/// The batch norms that a size runs with unless it is calibrated.
fn usual(settings: &Evaluate, metadata: &Metadata, size: u32) -> NormsFrom {
    if let Some((_, norm)) = settings.batch_norms.iter().find(|(of, _)| *of == size) {
        return NormsFrom::Resolution(*norm);
    }
    metadata.norms_for(size)
}
