//! Pillow's `ImageEnhance`: mixes of an image with a degenerate one, by `Image.blend`, in f32.

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
pub(super) fn brightness(bytes: &mut [u8], factor: f32) {
    blend_with(0, bytes, factor);
}

/// Mixes with the mean level of grey, rounded half up.
pub(super) fn contrast(bytes: &mut [u8], factor: f32) {
    let (pixels, _) = bytes.as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    blend_with(mean, bytes, factor);
}

/// Mixes with one level.
fn blend_with(degenerate: u8, bytes: &mut [u8], factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|level| blend(degenerate, level as u8, factor));
    for level in bytes {
        *level = table[usize::from(*level)];
    }
}

/// Mixes with the image in grey.
pub(super) fn colour(bytes: &mut [u8], factor: f32) {
    for block in bytes.chunks_mut(BLOCK) {
        let mut greys = [[0; 3]; BLOCK / 3];
        for (greys, pixel) in greys.iter_mut().zip(block.as_chunks::<3>().0) {
            *greys = [grey(*pixel); 3];
        }
        for (level, grey) in block.iter_mut().zip(greys.as_flattened()) {
            *level = blend(*grey, *level, factor);
        }
    }
}

/// Mixes with the image smoothed by Pillow's `SMOOTH`: 3x3 pixels, of which the centre counts five times
/// and the others once. Pixels at the edges stay.
pub(super) fn sharpness(from: &[u8], (width, height): (usize, usize), factor: f32, to: &mut [u8]) {
    if width < 3 || height < 3 {
        to.copy_from_slice(from);
        return;
    }
    let width = width * 3;
    let row = |y: usize| &from[y * width..][..width];
    for (y, to) in to.chunks_exact_mut(width).enumerate() {
        let middle = row(y);
        if y == 0 || y == height - 1 {
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
