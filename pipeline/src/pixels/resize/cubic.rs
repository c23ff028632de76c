//! Bicubic resize as OpenCV's `INTER_CUBIC` for 8-bit images: 4x4 taps at any scale, so downscaling does
//! not antialias; border pixels are replicated.
//!
//! Weights are those of cubic convolution with A = -0.75, computed in f32 and rounded to 11 fraction
//! bits. Sums are exact integers through both passes and are rounded once, half up.
//!
//! That is what OpenCV's scalar code defines. The result of `cv2.resize` differs from it by at most 1.
//! OpenCV's vector code computes the second pass in f32, which matters where a sum is at or near a half:
//! for a few values in a million, but for up to 0.5 % at a scale such as 4, where many sums are exactly
//! a half. Builds with Intel's IPP (the wheels for x86-64) use that library's resize, whose weights are
//! not rounded to 11 bits: for noise, 3 to 5 % of the values differ from OpenCV's own code, and so from
//! this.

use super::ResizePlan;
use super::rows::Rows;

/// Number of taps along an axis.
const TAPS: usize = 4;
/// The free parameter of cubic convolution: the slope one pixel away from the centre.
const A: f32 = -0.75;
/// Fraction bits of a weight.
const PRECISION_BITS: u32 = 11;
/// One half with the fraction bits of both passes.
const ROUNDING: i32 = 1 << (2 * PRECISION_BITS - 1);

/// Scratch memory, reused between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    x: Vec<Taps>,
    y: Vec<Taps>,
    /// Cache of source rows scaled in width, by their index modulo 4: the rows that an output row needs
    /// are consecutive, so no two of them share an entry.
    scaled_rows: [ScaledRow; TAPS],
}

/// The taps of an output pixel along one axis.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Source indices, consecutive except where they are clamped at the border.
    indices: [usize; TAPS],
    /// In units of 2^-11. They sum to nearly 2^11 and their magnitudes to less than 1.4 * 2^11, so the
    /// sums of two passes are below 255 * 1.4^2 * 2^22 < 2^31.
    weights: [i32; TAPS],
}

/// A source row scaled in width.
#[derive(Debug, Default)]
struct ScaledRow {
    /// Its index in the source.
    row: Option<usize>,
    /// `[size, 3]`, in units of 2^-11.
    sums: Vec<i32>,
}

/// Resizes `source`, the part of the image that `plan` selects, into `out`. Reads only the rows and
/// columns that the output needs.
// Inlined, like the functions it calls, into callers that are compiled for wider vectors.
#[inline(always)]
pub(super) fn resize(source: Rows<'_>, plan: &ResizePlan, out: &mut [u8], scratch: &mut Scratch) {
    let Scratch { x, y, scaled_rows } = scratch;
    let part = plan.source;
    compute_taps(x, part.width, plan.scaled.0, plan.window.0, plan.size);
    compute_taps(y, part.height, plan.scaled.1, plan.window.1, plan.size);
    if plan.flip {
        x.reverse();
    }
    for scaled in &mut *scaled_rows {
        scaled.row = None;
        scaled.sums.resize(plan.size as usize * 3, 0);
    }
    for (taps, out) in y.iter().zip(out.chunks_exact_mut(plan.size as usize * 3)) {
        for row in taps.indices {
            let scaled = &mut scaled_rows[row % TAPS];
            if scaled.row != Some(row) {
                scaled.row = Some(row);
                horizontal(source.row(row), x, &mut scaled.sums);
            }
        }
        let scaled_rows = taps.indices.map(|row| &scaled_rows[row % TAPS].sums[..]);
        vertical(scaled_rows, taps.weights, out);
    }
}

/// Computes the taps of the output pixels `offset..offset + size` for a resize of `source` pixels to
/// `scaled`.
#[inline(always)]
fn compute_taps(axis: &mut Vec<Taps>, source: u32, scaled: u32, offset: u32, size: u32) {
    // As OpenCV computes it; source / scaled may differ in the last bit.
    let scale = 1.0 / (f64::from(scaled) / f64::from(source));
    let last = i64::from(source) - 1;
    axis.clear();
    axis.extend((0..size).map(|index| {
        let output = f64::from(offset) + f64::from(index);
        let position = ((output + 0.5) * scale - 0.5) as f32;
        let pixel = position.floor();
        Taps {
            indices: [-1, 0, 1, 2].map(|tap| (pixel as i64 + tap).clamp(0, last) as usize),
            weights: weights(position - pixel),
        }
    }));
}

/// Fixed-point cubic-convolution weights for a sample at fraction `x`, in [0, 1), after tap 1.
#[inline(always)]
fn weights(x: f32) -> [i32; TAPS] {
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let (before, at, behind) = (far(x + 1.0), near(x), near(1.0 - x));
    let rest = 1.0 - before - at - behind;
    let one = (1 << PRECISION_BITS) as f32;
    [before, at, behind, rest].map(|weight| (weight * one).round_ties_even() as i32)
}

/// Resizes a row in width.
#[inline(always)]
fn horizontal(row: &[u8], x: &[Taps], to: &mut [i32]) {
    let (pixels, _) = row.as_chunks::<3>();
    let (to, _) = to.as_chunks_mut::<3>();
    for (to, taps) in to.iter_mut().zip(x) {
        let mut sums = [0; 3];
        for (pixel, weight) in taps.indices.into_iter().zip(taps.weights) {
            for (sum, level) in sums.iter_mut().zip(pixels[pixel]) {
                *sum += weight * i32::from(level);
            }
        }
        *to = sums;
    }
}

/// Computes an output row from four rows scaled in width.
#[inline(always)]
fn vertical(scaled_rows: [&[i32]; TAPS], weights: [i32; TAPS], to: &mut [u8]) {
    let scaled_rows = scaled_rows.map(|scaled| &scaled[..to.len()]);
    for (index, to) in to.iter_mut().enumerate() {
        let mut sum = ROUNDING;
        for (scaled, weight) in scaled_rows.iter().zip(weights) {
            sum += weight * scaled[index];
        }
        *to = (sum >> (2 * PRECISION_BITS)).clamp(0, 255) as u8;
    }
}
