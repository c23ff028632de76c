//! Changes of each level that depend on the whole image: Pillow's `ImageOps.autocontrast` and
//! `ImageOps.equalize`, which work on each channel alone.

use super::source::Source;
use super::tables::{Table, map};
use crate::pixels::resize::vectorized;

type Histogram = [u32; 256];

/// Stretches each channel, so that its darkest level becomes 0 and its brightest 255.
pub(super) fn auto_contrast(from: Source<'_>, to: &mut [u8]) {
    let (darkest, brightest) = vectorized!(extremes(from: Source<'_>) -> ([u8; 3], [u8; 3]));
    let tables = std::array::from_fn(|channel| {
        let (darkest, brightest) = (darkest[channel], brightest[channel]);
        if brightest <= darkest {
            return unchanged();
        }
        let scale = 255.0 / f64::from(brightest - darkest);
        let offset = -f64::from(darkest) * scale;
        // Truncates and clips.
        table(|level| (level as f64 * scale + offset) as u8)
    });
    map(from, &tables, to);
}

/// Makes each channel's levels as evenly used as a table can.
pub(super) fn equalize(from: Source<'_>, to: &mut [u8]) {
    let tables = histograms(from).map(|histogram| {
        let pixels: u32 = histogram.iter().sum();
        let brightest = histogram.iter().rfind(|&&count| count > 0);
        // All pixels but the brightest are spread over 255 steps.
        let step = (pixels - brightest.copied().unwrap_or(0)) / 255;
        if step == 0 {
            return unchanged();
        }
        let mut below = step / 2;
        table(|level| {
            let equalized = (below / step).min(255) as u8;
            below += histogram[level];
            equalized
        })
    });
    map(from, &tables, to);
}

/// The darkest and the brightest level of red, green and blue.
#[inline(always)]
fn extremes(from: Source<'_>) -> ([u8; 3], [u8; 3]) {
    // Whole vectors of 16 pixels, so that a byte's channel is always the same.
    let mut darkest = [[255; 3]; 16];
    let mut brightest = [[0; 3]; 16];
    let mut add = |pixels: &[[u8; 3]]| {
        let darkest = darkest.as_flattened_mut().iter_mut();
        let brightest = brightest.as_flattened_mut().iter_mut();
        let extremes = darkest.zip(brightest);
        for (level, (darkest, brightest)) in pixels.as_flattened().iter().zip(extremes) {
            *darkest = (*darkest).min(*level);
            *brightest = (*brightest).max(*level);
        }
    };
    for row in from.rows() {
        let (blocks, rest) = row.as_chunks::<16>();
        blocks.iter().for_each(|block| add(block));
        add(rest);
    }
    (fold(&darkest, u8::min), fold(&brightest, u8::max))
}

/// All pixels taken together, channel by channel.
fn fold(pixels: &[[u8; 3]; 16], join: impl Fn(u8, u8) -> u8) -> [u8; 3] {
    let all = pixels.iter().copied();
    let joined = all.reduce(|a, b| std::array::from_fn(|channel| join(a[channel], b[channel])));
    joined.unwrap_or_default()
}

fn table(level: impl FnMut(usize) -> u8) -> Table {
    std::array::from_fn(level)
}

fn unchanged() -> Table {
    table(|level| level as u8)
}

/// How often each level occurs in red, green and blue.
fn histograms(from: Source<'_>) -> [Histogram; 3] {
    // Four of each, because neighbours are often equal and an addition waits for the one before.
    let mut parts = [[[0; 256]; 3]; 4];
    for row in from.rows() {
        let (blocks, rest) = row.as_chunks::<4>();
        for block in blocks {
            for (part, [r, g, b]) in parts.iter_mut().zip(block) {
                part[0][usize::from(*r)] += 1;
                part[1][usize::from(*g)] += 1;
                part[2][usize::from(*b)] += 1;
            }
        }
        for [r, g, b] in rest {
            parts[0][0][usize::from(*r)] += 1;
            parts[0][1][usize::from(*g)] += 1;
            parts[0][2][usize::from(*b)] += 1;
        }
    }
    let [mut sums, others @ ..] = parts;
    for other in &others {
        let other = other.as_flattened();
        for (sum, count) in sums.as_flattened_mut().iter_mut().zip(other) {
            *sum += count;
        }
    }
    sums
}
