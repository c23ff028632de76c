//! The two passes of an antialiased resize without vector instructions: for any processor, and for rows
//! shorter than a vector.

use super::coefficients::{AxisWeights, PRECISION_BITS, ROUNDING};
use super::rows::Rows;

/// Resizes rows in width, mirrored if `flip`.
pub(super) fn horizontal(from: Rows<'_>, x: &AxisWeights, flip: bool, to: &mut [u8]) {
    for (row, to) in to.chunks_exact_mut(x.len() * 3).enumerate() {
        let (pixels, _) = from.row(row).as_chunks::<3>();
        let (out, _) = to.as_chunks_mut::<3>();
        for (index, out) in out.iter_mut().enumerate() {
            let (first, weights) = x.weights(if flip { x.len() - 1 - index } else { index });
            let mut sums = [ROUNDING; 3];
            for (pixel, weight) in pixels[first..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(weight * i32::from(value));
                }
            }
            *out = sums.map(round);
        }
    }
}

/// Computes one output row from the rows `first..first + weights.len()`.
pub(super) fn vertical(from: Rows<'_>, first: usize, weights: &[i32], to: &mut [u8]) {
    // A few columns at a time, so that their sums stay in registers.
    const COLUMNS: usize = 32;
    for (step, to) in to.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [ROUNDING; COLUMNS];
        for (index, weight) in weights.iter().enumerate() {
            let values = &from.row(first + index)[step * COLUMNS..][..to.len()];
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum = sum.wrapping_add(weight * i32::from(value));
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = round(sum);
        }
    }
}

/// Converts a sum, which includes [`ROUNDING`], to 8 bits.
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
