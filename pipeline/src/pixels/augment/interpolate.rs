//! Affine transforms that mix neighbouring pixels, in f64 as Pillow's `ImagingGenericTransform` with
//! `bilinear_filter32RGB` or `bicubic_filter32RGB`. All three channels are computed together.

use super::affine::Source;

/// Red, green and blue.
type Lanes = [f64; 3];

/// Mixes 2x2 pixels. Those outside the image are repeated from its edge.
pub(super) fn bilinear(source: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    transform(source, matrix, fill, to, |x, y, dx, dy| {
        let upper = mixed_row(source, x, y, dx);
        let lower = mixed_row(source, x, y + 1, dx);
        let mut mixed = [0.0; 3];
        for lane in 0..3 {
            mixed[lane] = upper[lane] + (lower[lane] - upper[lane]) * dy;
        }
        mixed
    });
}

/// Mixes two pixels of a row.
#[inline(always)]
fn mixed_row(source: Source<'_>, x: i64, y: i64, at: f64) -> Lanes {
    let mut taps = [[0; 3]; 2];
    let [a, b] = pixels(source, x, y, &mut taps);
    let mut mixed = [0.0; 3];
    for lane in 0..3 {
        let (a, b) = (i32::from(a[lane]), i32::from(b[lane]));
        mixed[lane] = f64::from(a) + f64::from(b - a) * at;
    }
    mixed
}

/// Mixes 4x4 pixels by cubic convolution with a = -1, likewise.
pub(super) fn bicubic(source: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    transform(source, matrix, fill, to, |x, y, dx, dy| {
        let r1 = cubic_row(source, x - 1, y - 1, dx);
        let r2 = cubic_row(source, x - 1, y, dx);
        let r3 = cubic_row(source, x - 1, y + 1, dx);
        let r4 = cubic_row(source, x - 1, y + 2, dx);
        let mut mixed = [0.0; 3];
        for lane in 0..3 {
            let (v1, v2, v3, v4) = (r1[lane], r2[lane], r3[lane], r4[lane]);
            let p2 = -v1 + v3;
            let p3 = 2.0 * (v1 - v2) + v3 - v4;
            let p4 = -v1 + v2 - v3 + v4;
            mixed[lane] = v2 + dy * (p2 + dy * (p3 + dy * p4));
        }
        mixed
    });
}

/// Mixes four pixels of a row.
#[inline(always)]
fn cubic_row(source: Source<'_>, x: i64, y: i64, at: f64) -> Lanes {
    let mut taps = [[0; 3]; 4];
    let [v1, v2, v3, v4] = pixels(source, x, y, &mut taps);
    let mut mixed = [0.0; 3];
    for lane in 0..3 {
        let (v1, v2) = (i32::from(v1[lane]), i32::from(v2[lane]));
        let (v3, v4) = (i32::from(v3[lane]), i32::from(v4[lane]));
        // These are exact, in integers as in f64.
        let p2 = f64::from(v3 - v1);
        let p3 = f64::from(2 * (v1 - v2) + v3 - v4);
        let p4 = f64::from(v2 - v1 - v3 + v4);
        mixed[lane] = f64::from(v2) + at * (p2 + at * (p3 + at * p4));
    }
    mixed
}

/// `N` pixels of a row from `x` on. Outside the image they are those at its edge, copied to `taps`.
#[inline(always)]
fn pixels<'a, const N: usize>(
    source: Source<'a>,
    x: i64,
    y: i64,
    taps: &'a mut [[u8; 3]; N],
) -> &'a [[u8; 3]; N] {
    let row = source.row(clip(y, source.height));
    if let Some(inside) = row.get(x as usize..)
        && let Some(inside) = inside.first_chunk()
    {
        return inside;
    }
    for (tap, pixel) in taps.iter_mut().enumerate() {
        *pixel = row[clip(x + tap as i64, source.width)];
    }
    taps
}

/// Computes each pixel by `filter`, which gets the pixel to the upper left of a point (perhaps -1), and
/// the point's distance to that pixel's centre.
#[inline(always)]
fn transform(
    source: Source<'_>,
    &[a, b, c, d, e, f]: &[f64; 6],
    fill: [u8; 3],
    to: &mut [[u8; 3]],
    filter: impl Fn(i64, i64, f64, f64) -> Lanes,
) {
    let (width, height) = (source.width as f64, source.height as f64);
    for (row, to) in to.chunks_exact_mut(source.width).enumerate() {
        let y_out = row as f64 + 0.5;
        for (column, to) in to.iter_mut().enumerate() {
            let x_out = column as f64 + 0.5;
            let x = a * x_out + b * y_out + c;
            let y = d * x_out + e * y_out + f;
            *to = if x < 0.0 || x >= width || y < 0.0 || y >= height {
                fill
            } else {
                let (x, y) = (x - 0.5, y - 0.5);
                let (left, top) = (floor(x), floor(y));
                let [r, g, b] = filter(left, top, x - left as f64, y - top as f64);
                // Clips and truncates.
                [r as u8, g as u8, b as u8]
            };
        }
    }
}

/// Rounds a number of at least -1 down.
#[inline(always)]
fn floor(number: f64) -> i64 {
    if number < 0.0 { -1 } else { number as i64 }
}

/// The nearest of `0..length`.
#[inline(always)]
fn clip(index: i64, length: usize) -> usize {
    index.clamp(0, length as i64 - 1) as usize
}
