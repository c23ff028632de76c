//! Affine transforms that mix neighbouring pixels, in f64 as Pillow's `ImagingGenericTransform` with
//! `bilinear_filter32RGB` or `bicubic_filter32RGB`. All three channels are computed together.

use super::affine::Source;

/// Three channels, and a fourth lane so that the compiler uses whole vectors.
type Lanes = [f64; 4];

/// Mixes 2x2 pixels.
pub(super) fn bilinear(source: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    transform(source, matrix, fill, to, |x, y, dx, dy| {
        let columns = [0, 1].map(|tap| clip(x + tap, source.width));
        let row = |y: usize| {
            let row = source.row(y);
            let [a, b] = columns.map(|column| lanes(row[column]));
            mix(a, b, dx)
        };
        let upper = row(clip(y, source.height));
        // Pillow repeats the result of the row above, which is the same as repeating the row.
        let lower = match inside(y + 1, source.height) {
            Some(y) => row(y),
            None => upper,
        };
        mix(upper, lower, dy)
    });
}

/// Mixes 4x4 pixels.
pub(super) fn bicubic(source: Source<'_>, matrix: &[f64; 6], fill: [u8; 3], to: &mut [[u8; 3]]) {
    transform(source, matrix, fill, to, |x, y, dx, dy| {
        let columns = [-1, 0, 1, 2].map(|tap| clip(x + tap, source.width));
        let row = |y: usize| {
            let row = source.row(y);
            cubic(columns.map(|column| lanes(row[column])), dx)
        };
        let mut rows = [row(clip(y - 1, source.height)); 4];
        for tap in 1..4 {
            rows[tap] = match inside(y - 1 + tap as i64, source.height) {
                Some(y) => row(y),
                None => rows[tap - 1],
            };
        }
        cubic(rows, dy)
    });
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
                let [r, g, b, _] = filter(left, top, x - left as f64, y - top as f64);
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

#[inline(always)]
fn lanes([r, g, b]: [u8; 3]) -> Lanes {
    [f64::from(r), f64::from(g), f64::from(b), 0.0]
}

/// The nearest of `0..length`.
#[inline(always)]
fn clip(index: i64, length: usize) -> usize {
    index.clamp(0, length as i64 - 1) as usize
}

#[inline(always)]
fn inside(index: i64, length: usize) -> Option<usize> {
    (0..length as i64)
        .contains(&index)
        .then_some(index as usize)
}

#[inline(always)]
fn mix(a: Lanes, b: Lanes, at: f64) -> Lanes {
    std::array::from_fn(|lane| a[lane] + (b[lane] - a[lane]) * at)
}

/// Cubic convolution with a = -1, at a distance from 0 to 1 after the second of four.
#[inline(always)]
fn cubic([v1, v2, v3, v4]: [Lanes; 4], at: f64) -> Lanes {
    std::array::from_fn(|lane| {
        let (v1, v2, v3, v4) = (v1[lane], v2[lane], v3[lane], v4[lane]);
        let p2 = -v1 + v3;
        let p3 = 2.0 * (v1 - v2) + v3 - v4;
        let p4 = -v1 + v2 - v3 + v4;
        v2 + at * (p2 + at * (p3 + at * p4))
    })
}
