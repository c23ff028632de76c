//! Affine transforms that mix neighbouring pixels, in f64 as Pillow's `ImagingGenericTransform` with
//! `bilinear_filter32RGB` or `bicubic_filter32RGB`. All three channels are computed together.

use std::ops::Range;

use super::source::Source;
use crate::pixels::resize::vectorized;

/// Points that are computed together, in vectors of one channel.
const POINTS: usize = 16;

/// For each point a pixel, and the first byte of the next one.
type Taps = [u32; POINTS];

/// What is computed of pixels around a point.
trait Filter {
    /// Pixels in each direction: 2 or 4.
    const TAPS: usize;

    /// One channel of points, in f64 before it is clipped. `level(row, column, point)` is its level at the
    /// pixels around a point, from the upper left one on. `dx` and `dy`, from 0 to 1, are distances from the
    /// centre of the pixel to the upper left of the point.
    fn mix(level: impl Fn(usize, usize) -> i32, dx: f64, dy: f64) -> f64;
}

struct Bilinear;
struct Bicubic;

/// Mixes 2x2 pixels. Those outside the image are repeated from its edge.
pub(super) fn bilinear(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    #[inline(always)]
    fn all(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
        transform::<Bilinear>(from, matrix, fill, to);
    }
    vectorized!(all(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]));
}

/// Mixes 4x4 pixels by cubic convolution with a = -1, likewise.
pub(super) fn bicubic(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    #[inline(always)]
    fn all(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
        transform::<Bicubic>(from, matrix, fill, to);
    }
    vectorized!(all(from: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]));
}

impl Filter for Bilinear {
    const TAPS: usize = 2;

    #[inline(always)]
    fn mix(level: impl Fn(usize, usize) -> i32, dx: f64, dy: f64) -> f64 {
        let upper = linear(level(0, 0), level(0, 1), dx);
        let lower = linear(level(1, 0), level(1, 1), dx);
        upper + (lower - upper) * dy
    }
}

/// Mixes two levels of a row.
#[inline(always)]
fn linear(a: i32, b: i32, at: f64) -> f64 {
    f64::from(a) + f64::from(b - a) * at
}

impl Filter for Bicubic {
    const TAPS: usize = 4;

    #[inline(always)]
    fn mix(level: impl Fn(usize, usize) -> i32, dx: f64, dy: f64) -> f64 {
        let v1 = cubic([level(0, 0), level(0, 1), level(0, 2), level(0, 3)], dx);
        let v2 = cubic([level(1, 0), level(1, 1), level(1, 2), level(1, 3)], dx);
        let v3 = cubic([level(2, 0), level(2, 1), level(2, 2), level(2, 3)], dx);
        let v4 = cubic([level(3, 0), level(3, 1), level(3, 2), level(3, 3)], dx);
        let p2 = -v1 + v3;
        let p3 = 2.0 * (v1 - v2) + v3 - v4;
        let p4 = -v1 + v2 - v3 + v4;
        v2 + dy * (p2 + dy * (p3 + dy * p4))
    }
}

/// Mixes four levels of a row.
#[inline(always)]
fn cubic([v1, v2, v3, v4]: [i32; 4], at: f64) -> f64 {
    // These are exact, in integers as in f64.
    let p2 = f64::from(v3 - v1);
    let p3 = f64::from(2 * (v1 - v2) + v3 - v4);
    let p4 = f64::from(v2 - v1 - v3 + v4);
    f64::from(v2) + at * (p2 + at * (p3 + at * p4))
}

/// Computes each pixel by a filter.
#[inline(always)]
fn transform<F: Filter>(
    from: Source<'_>,
    &[a, b, c, d, e, f]: &[f64; 6],
    fill: [u8; 3],
    to: &mut [[u8; 3]],
) {
    let (width, height) = (from.width as f64, from.height as f64);
    // Taps to the left of a point's upper left pixel, and from there to the right.
    let (before, after) = (F::TAPS / 2 - 1, F::TAPS / 2);
    for (row, to) in to.chunks_exact_mut(from.width).enumerate() {
        let y_out = row as f64 + 0.5;
        let x_at = |column: usize| a * (f64::from(column as u32) + 0.5) + b * y_out + c;
        let y_at = |column: usize| d * (f64::from(column as u32) + 0.5) + e * y_out + f;
        let inside = intersection(
            span(x_at, a, 0.0, width, 0..from.width),
            span(y_at, d, 0.0, height, 0..from.width),
        );
        // Where all taps are inside the image, and the byte after them.
        let (left, right) = (before as f64 + 0.5, width - after as f64 - 0.5);
        let (top, bottom) = (before as f64 + 0.5, height - after as f64 + 0.5);
        let core = intersection(
            span(x_at, a, left, right, inside.clone()),
            span(y_at, d, top, bottom, inside.clone()),
        );
        to[..inside.start].fill(fill);
        to[inside.end..].fill(fill);
        let edges = (inside.start..core.start).chain(core.end..inside.end);
        for column in edges {
            to[column] = at_edge::<F>(from, x_at(column), y_at(column));
        }
        let last = core.end.saturating_sub(1);
        for (block, to) in to[core.clone()].chunks_mut(POINTS).enumerate() {
            let mut first = [(0, 0); POINTS];
            let (mut dx, mut dy) = ([0.0; POINTS], [0.0; POINTS]);
            for point in 0..POINTS {
                // The last block repeats its last point.
                let column = (core.start + block * POINTS + point).min(last);
                let (x, y) = (x_at(column) - 0.5, y_at(column) - 0.5);
                let (left, top) = (truncate(x), truncate(y));
                dx[point] = x - f64::from(left);
                dy[point] = y - f64::from(top);
                first[point] = (left, top);
            }
            let mut taps = [[[0; POINTS]; 4]; 4];
            for (point, (left, top)) in first.into_iter().enumerate() {
                let first = (top as usize - before) * from.stride + left as usize - before;
                for (row, taps) in taps[..F::TAPS].iter_mut().enumerate() {
                    let bytes = &from.pixels[first + row * from.stride..][..F::TAPS + 1];
                    for (column, taps) in taps[..F::TAPS].iter_mut().enumerate() {
                        let [r, g, b] = bytes[column];
                        taps[point] = u32::from_le_bytes([r, g, b, bytes[column + 1][0]]);
                    }
                }
            }
            let channels = [
                channel::<F, 0>(&taps, &dx, &dy),
                channel::<F, 8>(&taps, &dx, &dy),
                channel::<F, 16>(&taps, &dx, &dy),
            ];
            for (point, to) in to.iter_mut().enumerate() {
                *to = channels.map(|channel| channel[point]);
            }
        }
    }
}

/// Red, green or blue of points: the byte of the taps that begins at bit `SHIFT`.
#[inline(always)]
fn channel<F: Filter, const SHIFT: u32>(
    taps: &[[Taps; 4]; 4],
    dx: &[f64; POINTS],
    dy: &[f64; POINTS],
) -> [u8; POINTS] {
    let mut mixed = [0; POINTS];
    for point in 0..POINTS {
        let level = |row: usize, column: usize| (taps[row][column][point] >> SHIFT & 255) as i32;
        mixed[point] = clipped(F::mix(level, dx[point], dy[point]));
    }
    mixed
}

/// Clips and truncates.
#[inline(always)]
fn clipped(level: f64) -> u8 {
    let level = if level > 0.0 { level } else { 0.0 };
    truncate(if level < 255.0 { level } else { 255.0 }) as u8
}

/// Rounds a number from 0 to 2^31 down.
///
/// A cast does the same, but not in vectors. At 2^52 the unit in the last place is 1, so the sum is rounded to
/// an integer, which is one too large where it was rounded up.
#[inline(always)]
fn truncate(number: f64) -> i32 {
    const UNIT: f64 = (1_u64 << 52) as f64;
    let rounded = number + UNIT;
    let is_above = rounded - UNIT > number;
    (rounded.to_bits() as i32).wrapping_sub(i32::from(is_above))
}

/// The pixel at a point, with taps that may be outside the image.
#[inline(never)]
fn at_edge<F: Filter>(from: Source<'_>, x: f64, y: f64) -> [u8; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let before = F::TAPS as i64 / 2 - 1;
    let clip = |index: i64, length: usize| index.clamp(0, length as i64 - 1) as usize;
    let mut taps = [[[0; 3]; 4]; 4];
    for (taps, y) in taps[..F::TAPS].iter_mut().zip(top as i64 - before..) {
        let row = from.row(clip(y, from.height));
        for (tap, x) in taps[..F::TAPS].iter_mut().zip(left as i64 - before..) {
            *tap = row[clip(x, from.width)];
        }
    }
    let (dx, dy) = (x - left, y - top);
    let channel = |channel: usize| {
        let level = |row: usize, column: usize| i32::from(taps[row][column][channel]);
        clipped(F::mix(level, dx, dy))
    };
    [channel(0), channel(1), channel(2)]
}

/// The part of `columns` where a coordinate is in `start..end`. `step` is its difference from one column to
/// the next; rounding keeps the order.
#[inline(always)]
fn span(
    at: impl Fn(usize) -> f64,
    step: f64,
    start: f64,
    end: f64,
    columns: Range<usize>,
) -> Range<usize> {
    let first = |is_before: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (columns.start, columns.end);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(at(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    };
    if step >= 0.0 {
        first(&|at| at < start)..first(&|at| at < end)
    } else {
        first(&|at| at >= end)..first(&|at| at >= start)
    }
}

#[inline(always)]
fn intersection(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncating_is_what_a_cast_does() {
        for whole in (0..300_000).chain(i32::MAX - 1000..i32::MAX) {
            let whole = f64::from(whole);
            for number in [
                whole,
                whole.next_up(),
                whole + 0.5,
                (whole + 1.0).next_down(),
            ] {
                assert_eq!(truncate(number), number as i32, "{number}");
            }
        }
    }

    #[test]
    fn a_span_is_where_a_coordinate_is_in_a_range() {
        for step in [-1.7, -0.3, 0.0, 0.4, 1.0, 2.5] {
            for start in -8..8 {
                let at = |column: usize| step * column as f64 + f64::from(start);
                let expected = (0..9).filter(|&column| (0.0..4.0).contains(&at(column)));
                let found = span(at, step, 0.0, 4.0, 0..9);
                assert!(found.clone().eq(expected), "{step} {start}: {found:?}");
            }
        }
    }
}
