//! Bicubic as OpenCV's `INTER_CUBIC` makes it of 8-bit images: four pixels by four whatever the
//! scale, so a picture that is made smaller is not antialiased; the border repeated outwards.
//!
//! Coefficients are those of the cubic with A = -0.75, computed in f32 and rounded to 11 bits after
//! the binary point. Sums stay exact integers through both passes and are rounded once, half up.
//!
//! That is what OpenCV's own code defines. What `cv2.resize` gives differs from it by one level at
//! most. Its vector code makes the second pass in f32, which shows where a sum is a half or next to
//! one: in a few of a million levels, but in up to half a per cent where the scale is a number such as 4,
//! for then many sums are a half. Builds with Intel's IPP (the wheels for x86-64) leave the resize to
//! that library, whose coefficients are not rounded to 11 bits: 3 to 5 % of the levels of noise differ
//! from OpenCV's own code, and so from this.

use super::Rendition;
use super::rows::Rows;

/// Pixels along an axis that an output pixel is made of.
const TAPS: usize = 4;
/// The free number of the cubic: its slope one pixel away from the centre.
const A: f32 = -0.75;
/// Bits after the binary point of a coefficient.
const PRECISION: u32 = 11;
/// What makes cutting off the fraction of two passes round it.
const HALF: i32 = 1 << (2 * PRECISION - 1);

/// Scratch memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    x: Vec<Taps>,
    y: Vec<Taps>,
    /// Source rows scaled in width. The four that an output row needs are next to each other, so
    /// that each has its place by its index modulo 4.
    lines: [Line; TAPS],
}

/// What an output pixel is made of along one axis.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Next to each other, but for those that stand in for pixels beyond the border.
    pixels: [usize; TAPS],
    /// In units of 2^-11. They sum to nearly 2^11, and their magnitudes to less than 1.4 times that:
    /// the sums of two passes fit into 32 bits.
    coefficients: [i32; TAPS],
}

/// A source row scaled in width.
#[derive(Debug, Default)]
struct Line {
    /// Which it is.
    row: Option<usize>,
    /// `[size, 3]`, in units of 2^-11.
    sums: Vec<i32>,
}

/// Writes what `plan` describes into `out`. `source` is the part of the image that is scaled.
///
/// Only the rows and columns that the output needs are read.
// Inlined, like what it calls, for those who compile it for wider vectors.
#[inline(always)]
pub(super) fn render(source: Rows<'_>, plan: &Rendition, out: &mut [u8], scratch: &mut Scratch) {
    let Scratch { x, y, lines } = scratch;
    let part = plan.source;
    fill(x, part.width, plan.scaled.0, plan.window.0, plan.size);
    fill(y, part.height, plan.scaled.1, plan.window.1, plan.size);
    if plan.flip {
        x.reverse();
    }
    for line in &mut *lines {
        line.row = None;
        line.sums.resize(plan.size as usize * 3, 0);
    }
    for (taps, out) in y.iter().zip(out.chunks_exact_mut(plan.size as usize * 3)) {
        for row in taps.pixels {
            let line = &mut lines[row % TAPS];
            if line.row != Some(row) {
                line.row = Some(row);
                horizontal(source.row(row), x, &mut line.sums);
            }
        }
        let lines = taps.pixels.map(|row| &lines[row % TAPS].sums[..]);
        vertical(lines, taps.coefficients, out);
    }
}

/// The taps of `size` output pixels from `offset` on, of `source` pixels scaled to `scaled`.
#[inline(always)]
fn fill(axis: &mut Vec<Taps>, source: u32, scaled: u32, offset: u32, size: u32) {
    // Not source / scaled, which may differ in the last bit.
    let scale = 1.0 / (f64::from(scaled) / f64::from(source));
    let last = i64::from(source) - 1;
    axis.clear();
    axis.extend((0..size).map(|index| {
        let output = f64::from(offset) + f64::from(index);
        let position = ((output + 0.5) * scale - 0.5) as f32;
        let pixel = position.floor();
        Taps {
            pixels: [-1, 0, 1, 2].map(|tap| (pixel as i64 + tap).clamp(0, last) as usize),
            coefficients: coefficients(position - pixel),
        }
    }));
}

/// Those of a point that lies `x` pixels, from 0 to 1, behind the second of four.
#[inline(always)]
fn coefficients(x: f32) -> [i32; TAPS] {
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let (before, at, behind) = (far(x + 1.0), near(x), near(1.0 - x));
    let rest = 1.0 - before - at - behind;
    let one = (1 << PRECISION) as f32;
    [before, at, behind, rest].map(|weight| (weight * one).round_ties_even() as i32)
}

/// Scales a row in width.
#[inline(always)]
fn horizontal(row: &[u8], x: &[Taps], to: &mut [i32]) {
    let (pixels, _) = row.as_chunks::<3>();
    let (to, _) = to.as_chunks_mut::<3>();
    for (to, taps) in to.iter_mut().zip(x) {
        let mut sums = [0; 3];
        for (pixel, coefficient) in taps.pixels.into_iter().zip(taps.coefficients) {
            for (sum, level) in sums.iter_mut().zip(pixels[pixel]) {
                *sum += coefficient * i32::from(level);
            }
        }
        *to = sums;
    }
}

/// Makes an output row of four scaled ones.
#[inline(always)]
fn vertical(lines: [&[i32]; TAPS], coefficients: [i32; TAPS], to: &mut [u8]) {
    let lines = lines.map(|line| &line[..to.len()]);
    for (index, to) in to.iter_mut().enumerate() {
        let mut sum = HALF;
        for (line, coefficient) in lines.iter().zip(coefficients) {
            sum += coefficient * line[index];
        }
        *to = (sum >> (2 * PRECISION)).clamp(0, 255) as u8;
    }
}
