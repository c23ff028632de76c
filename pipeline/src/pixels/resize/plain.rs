//! The two passes for every processor, and for the shortest rows.

use super::coefficients::{Axis, HALF, PRECISION};
use super::rows::Rows;

/// Scales rows in width, mirrored if `flip`.
pub(super) fn horizontal(from: Rows<'_>, x: &Axis, flip: bool, to: &mut [u8]) {
    for (row, to) in to.chunks_exact_mut(x.len() * 3).enumerate() {
        let (pixels, _) = from.row(row).as_chunks::<3>();
        let (out, _) = to.as_chunks_mut::<3>();
        for (index, out) in out.iter_mut().enumerate() {
            let (first, coefficients) = x.output(if flip { x.len() - 1 - index } else { index });
            let mut sums = [HALF; 3];
            for (pixel, coefficient) in pixels[first..].iter().zip(coefficients) {
                for (sum, &level) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(coefficient * i32::from(level));
                }
            }
            *out = sums.map(level);
        }
    }
}

/// Makes one row of the rows from `first` on.
pub(super) fn vertical(from: Rows<'_>, first: usize, coefficients: &[i32], to: &mut [u8]) {
    // A few columns at a time, for their sums to stay in registers.
    const COLUMNS: usize = 32;
    for (step, to) in to.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [HALF; COLUMNS];
        for (index, coefficient) in coefficients.iter().enumerate() {
            let levels = &from.row(first + index)[step * COLUMNS..][..to.len()];
            for (sum, &level) in sums.iter_mut().zip(levels) {
                *sum = sum.wrapping_add(coefficient * i32::from(level));
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = level(sum);
        }
    }
}

/// A complete sum as a level.
fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
