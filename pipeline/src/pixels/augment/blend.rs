//! Pillow's `ImageEnhance`: mixes of an image with a degenerate one, by `Image.blend`, in f32.

use super::source::Source;
use super::tables;
use crate::pixels::resize::vectorized;

/// Pillow's `ImagingBlend` for one level: the sum is truncated, and clipped where `factor` is not from 0
/// to 1. Between 0 and 1 there is nothing to clip.
#[inline(always)]
fn blend(degenerate: u8, level: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(degenerate), f32::from(level));
    let sum = from + factor * (to - from);
    let sum = if sum > 0.0 { sum } else { 0.0 };
    let sum = if sum < 255.0 { sum } else { 255.0 };
    // A cast does the same, but not in vectors. At 2^23 the unit in the last place is 1, so the sum is
    // rounded to an integer, which is one too large where it was rounded up.
    let rounded = sum + 8_388_608.0;
    let is_above = rounded - 8_388_608.0 > sum;
    (rounded.to_bits() - u32::from(is_above)) as u8
}

/// The level of grey in Pillow's mode L: ITU-R 601-2 with 16 fraction bits.
#[inline(always)]
fn grey([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Mixes with black.
pub(super) fn brightness(from: Source<'_>, factor: f32, to: &mut [u8]) {
    blend_with(0, from, factor, to);
}

/// Mixes with the mean level of grey, rounded half up.
pub(super) fn contrast(from: Source<'_>, factor: f32, to: &mut [u8]) {
    let sum = vectorized!(sum_of_grey(from: Source<'_>) -> u64);
    let mean = (sum as f64 / (from.width * from.height) as f64 + 0.5) as u8;
    blend_with(mean, from, factor, to);
}

#[inline(always)]
fn sum_of_grey(from: Source<'_>) -> u64 {
    let sum = |row: &[[u8; 3]]| row.iter().map(|&pixel| u32::from(grey(pixel))).sum::<u32>();
    from.rows().map(|row| u64::from(sum(row))).sum()
}

/// Mixes with one level.
fn blend_with(degenerate: u8, from: Source<'_>, factor: f32, to: &mut [u8]) {
    let table: [u8; 256] = std::array::from_fn(|level| blend(degenerate, level as u8, factor));
    tables::map(from, &[table; 3], to);
}

/// Mixes with the image in grey.
pub(super) fn colour(from: Source<'_>, factor: f32, to: &mut [u8]) {
    vectorized!(colour_all(from: Source<'_>, factor: f32, to: &mut [u8]));
}

#[inline(always)]
fn colour_all(from: Source<'_>, factor: f32, to: &mut [u8]) {
    for (from, to) in from.rows().zip(to.chunks_exact_mut(from.width * 3)) {
        for (from, to) in from.chunks(BLOCK / 3).zip(to.chunks_mut(BLOCK)) {
            let levels = from.as_flattened();
            let mut greys = [0; BLOCK];
            grey_bytes(levels, &mut greys);
            for ((level, grey), to) in levels.iter().zip(&greys).zip(to) {
                *to = blend(*grey, *level, factor);
            }
        }
    }
}

/// [`grey`] of the pixel of each byte. Bytes stay in their lanes of vectors: neighbours are added instead.
#[inline(always)]
fn grey_bytes(levels: &[u8], greys: &mut [u8; BLOCK]) {
    const WEIGHTS: [u32; BLOCK] = repeated([19595, 38470, 7471]);
    const IS_RED: [u8; BLOCK] = repeated([255, 0, 0]);
    const IS_GREEN: [u8; BLOCK] = repeated([0, 255, 0]);
    let mut products = [0; BLOCK + 2];
    for ((product, level), weight) in products.iter_mut().zip(levels).zip(&WEIGHTS) {
        *product = u32::from(*level) * weight;
    }
    // Of three bytes from each one on; those from red on are a pixel.
    let mut sums = [0; BLOCK + 2];
    let later = products.iter().zip(&products[1..]).zip(&products[2..]);
    for (sum, ((a, b), c)) in sums[2..].iter_mut().zip(later) {
        *sum = ((a + b + c + 0x8000) >> 16) as u8;
    }
    for at in 0..BLOCK {
        let (is_red, is_green) = (IS_RED[at], IS_GREEN[at]);
        let is_blue = !(is_red | is_green);
        greys[at] = sums[at + 2] & is_red | sums[at + 1] & is_green | sums[at] & is_blue;
    }
}

/// Three values, again and again.
const fn repeated<T: Copy>(values: [T; 3]) -> [T; BLOCK] {
    let mut all = [values[0]; BLOCK];
    let mut at = 0;
    while at < BLOCK {
        all[at] = values[at % 3];
        at += 1;
    }
    all
}

/// Mixes with the image smoothed by Pillow's `SMOOTH`: 3x3 pixels, of which the centre counts five times
/// and the others once. Pixels at the edges stay.
pub(super) fn sharpness(from: Source<'_>, factor: f32, to: &mut [u8]) {
    if from.width < 3 || from.height < 3 {
        return from.copy(to);
    }
    vectorized!(sharpen_all(from: Source<'_>, factor: f32, to: &mut [u8]));
}

#[inline(always)]
fn sharpen_all(from: Source<'_>, factor: f32, to: &mut [u8]) {
    let width = from.width * 3;
    let row = |y: usize| from.row(y).as_flattened();
    for (y, to) in to.chunks_exact_mut(width).enumerate() {
        let middle = row(y);
        if y == 0 || y == from.height - 1 {
            to.copy_from_slice(middle);
            continue;
        }
        to[..3].copy_from_slice(&middle[..3]);
        to[width - 3..].copy_from_slice(&middle[width - 3..]);
        let rows = [row(y - 1), middle, row(y + 1)];
        for (block, to) in to[3..width - 3].chunks_mut(BLOCK).enumerate() {
            let rows = rows.map(|row| &row[block * BLOCK..][..to.len() + 6]);
            sharpen(rows, factor, to);
        }
    }
}

/// Bytes that are computed together: whole pixels, and whole vectors.
const BLOCK: usize = 768;

/// The middle one of three rows, which start one pixel before `to` and end one after it.
#[inline(always)]
fn sharpen([upper, middle, lower]: [&[u8]; 3], factor: f32, to: &mut [u8]) {
    let mut sums = [0; BLOCK + 6];
    for (((sum, upper), middle), lower) in sums.iter_mut().zip(upper).zip(middle).zip(lower) {
        *sum = u16::from(*upper) + u16::from(*middle) + u16::from(*lower);
    }
    let neighbours = sums.iter().zip(&sums[3..]).zip(&sums[6..]);
    for ((to, level), ((left, centre), right)) in to.iter_mut().zip(&middle[3..]).zip(neighbours) {
        let sum = left + centre + right + 4 * u16::from(*level);
        *to = blend(thirteenth(sum), *level, factor);
    }
}

/// A thirteenth, rounded half up, of a number of at most 13 * 255.
///
/// Pillow computes it in f32. A thirteenth of an integer is at least 1/26 away from where rounding
/// changes, so its rounding errors do not matter.
#[inline(always)]
fn thirteenth(number: u16) -> u8 {
    // 5042 / 2^16 is 1/13 and 1.2e-5 more, which is too little to matter up to 6553.
    ((u32::from(number + 6) * 5042) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thirteenth_is_rounded_half_up() {
        for number in 0..=13 * 255_u16 {
            let expected = (f64::from(number) / 13.0 + 0.5).floor();
            assert_eq!(f64::from(thirteenth(number)), expected, "{number}");
        }
    }
}
