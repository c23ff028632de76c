//! Affine transforms as Pillow's `Image.transform(size, AFFINE, matrix)` computes them.

use std::ops::Range;

use super::interpolate;
use super::source::Source;

/// How a point between pixels gets its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Pillow's `NEAREST`: the pixel that the point lies in.
    Nearest,
    /// Pillow's `BILINEAR`, of 2x2 pixels, without antialiasing.
    Bilinear,
    /// Pillow's `BICUBIC` of `transform` (a = -1), of 4x4 pixels, without antialiasing.
    Bicubic,
}

/// A transform of coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// `[a, b, c, d, e, f]`: the output at `(x, y)` is the input at `(ax + by + c, dx + ey + f)`, where
    /// the centre of the first pixel is (0.5, 0.5).
    pub matrix: [f64; 6],
    pub sampling: Sampling,
    /// The colour of what lies outside the image.
    pub fill: [u8; 3],
}

impl Affine {
    /// Black outside, nearest neighbour.
    fn nearest(matrix: [f64; 6]) -> Self {
        Self {
            matrix,
            sampling: Sampling::Nearest,
            fill: [0; 3],
        }
    }

    /// torchvision's `affine` on Pillow images with an angle of 0 and a scale of 1: first a shear around
    /// the upper left corner, where one pixel further along the other axis shifts by `x` and `y` pixels,
    /// then a shift by whole pixels.
    ///
    /// The factors of a shear go through degrees and back, as in torchvision.
    #[must_use]
    pub fn shear(x: f64, y: f64) -> Self {
        let angle = |factor: f64| factor.atan().to_degrees().to_radians();
        let (x, y) = (angle(x), angle(y));
        // torchvision's inverse matrix of a shear in y and then in x, in its order of operations.
        let cos = (-y).cos() / y.cos();
        let sin = (-y).sin() / y.cos();
        let b = -(-y).cos() * x.tan() / y.cos();
        let d = -(-y).sin() * x.tan() / y.cos() + 1.0;
        Self::nearest([d, -b, 0.0, -sin, cos, 0.0])
    }

    /// A shift by whole pixels, to the right and down.
    #[must_use]
    pub fn translate(x: i32, y: i32) -> Self {
        Self::nearest([1.0, 0.0, -f64::from(x), 0.0, 1.0, -f64::from(y)])
    }

    /// Pillow's `rotate`: counterclockwise around the centre, in degrees.
    #[must_use]
    pub fn rotate(degrees: f64, width: u32, height: u32) -> Self {
        let angle = -degrees.rem_euclid(360.0).to_radians();
        let (sin, cos) = (decimals(angle.sin()), decimals(angle.cos()));
        let minus_sin = decimals(-angle.sin());
        let (x, y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
        let c = cos * -x + sin * -y + 0.0 + x;
        let f = minus_sin * -x + cos * -y + 0.0 + y;
        Self::nearest([cos, sin, c, minus_sin, cos, f])
    }

    /// Transforms `from` to `to`, `[height, width, 3]`.
    pub(super) fn apply(&self, source: Source<'_>, to: &mut [u8]) {
        let (to, _) = to.as_chunks_mut::<3>();
        match self.sampling {
            Sampling::Nearest => self.apply_nearest(source, to),
            Sampling::Bilinear => interpolate::bilinear(source, &self.matrix, self.fill, to),
            Sampling::Bicubic => interpolate::bicubic(source, &self.matrix, self.fill, to),
        }
    }

    /// Pillow has several ways, which differ in rounding.
    fn apply_nearest(&self, source: Source<'_>, to: &mut [[u8; 3]]) {
        let [a, b, c, d, e, f] = self.matrix;
        let (width, height) = (source.width as f64, source.height as f64);
        let fits = |x: f64, y: f64| {
            (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0
        };
        let is_shift = (a, b, d, e) == (1.0, 0.0, 0.0, 1.0) && c.fract() == 0.0 && f.fract() == 0.0;
        if is_shift {
            self.shift(source, to);
        } else if b == 0.0 && d == 0.0 {
            // Pillow's `ImagingScaleAffine`, which adds up in the same way.
            self.float(source, to);
        } else if fits(0.0, 0.0) && fits(width, height) && fits(0.0, height) && fits(width, 0.0) {
            fixed(self, source, to);
        } else {
            self.float(source, to);
        }
    }

    /// Writes the colour of what lies outside.
    fn paint(&self, to: &mut [[u8; 3]]) {
        match self.fill {
            [r, g, b] if r == g && g == b => to.as_flattened_mut().fill(r),
            fill => to.fill(fill),
        }
    }

    /// A shift by whole pixels, with a copy for each row.
    fn shift(&self, source: Source<'_>, to: &mut [[u8; 3]]) {
        let [_, _, left, _, _, top] = self.matrix;
        let (left, top) = (left as i64, top as i64);
        let (width, height) = (source.width as i64, source.height as i64);
        let from = (-left).clamp(0, width);
        let inside = from as usize..(width - left).clamp(from, width) as usize;
        for (y, to) in (top..).zip(to.chunks_exact_mut(source.width)) {
            if (0..height).contains(&y) && !inside.is_empty() {
                self.paint(&mut to[..inside.start]);
                self.paint(&mut to[inside.end..]);
                let to = &mut to[inside.clone()];
                let first = (from + left) as usize;
                to.copy_from_slice(&source.row(y as usize)[first..][..to.len()]);
            } else {
                self.paint(to);
            }
        }
    }

    /// For coordinates beyond 2^15: the end of Pillow's `ImagingTransformAffine`. Sums are accumulated,
    /// because their rounding errors are.
    fn float(&self, source: Source<'_>, to: &mut [[u8; 3]]) {
        let [a, b, c, d, e, f] = self.matrix;
        let mut first_x = c + b * 0.5 + a * 0.5;
        let mut first_y = f + e * 0.5 + d * 0.5;
        for to in to.chunks_exact_mut(source.width) {
            let (mut x, mut y) = (first_x, first_y);
            for to in to {
                let place = within(x, source.width).zip(within(y, source.height));
                *to = place.map_or(self.fill, |(x, y)| source.row(y)[x]);
                x += a;
                y += d;
            }
            first_x += b;
            first_y += e;
        }
    }
}

/// With 16 fraction bits: Pillow's `affine_fixed`.
fn fixed(affine: &Affine, source: Source<'_>, to: &mut [[u8; 3]]) {
    let [a, b, c, d, e, f] = affine.matrix;
    let fix = |number: f64| (number * 65536.0 + 0.5).floor() as i64;
    let (step_x, step_y) = (fix(a), fix(d));
    let (row_x, row_y) = (fix(b), fix(e));
    let mut first_x = fix(c + a * 0.5 + b * 0.5);
    let mut first_y = fix(f + d * 0.5 + e * 0.5);
    let width = source.width;
    let limits = ((width as i64) << 16, (source.height as i64) << 16);
    for to in to.chunks_exact_mut(width) {
        let inside = span(first_x, step_x, limits.0, width);
        let rows = span(first_y, step_y, limits.1, width);
        let start = inside.start.max(rows.start);
        let inside = start..inside.end.min(rows.end).max(start);
        affine.paint(&mut to[..inside.start]);
        affine.paint(&mut to[inside.end..]);
        let mut x = first_x + start as i64 * step_x;
        let mut y = first_y + start as i64 * step_y;
        let to = &mut to[inside];
        if step_x == 1 << 16 && step_y.abs() < 1 << 11 {
            // Neighbours stay neighbours as long as the row is the same.
            let mut rest = to;
            while !rest.is_empty() {
                let length = run(y, step_y, rest.len());
                let (run, after) = rest.split_at_mut(length);
                let row = source.row((y >> 16) as usize);
                run.copy_from_slice(&row[(x >> 16) as usize..][..length]);
                x += length as i64 * step_x;
                y += length as i64 * step_y;
                rest = after;
            }
        } else {
            for to in to {
                *to = source.pixels[(y >> 16) as usize * source.stride + (x >> 16) as usize];
                x += step_x;
                y += step_y;
            }
        }
        first_x += row_x;
        first_y += row_y;
    }
}

/// The pixel that a coordinate lies in, if it is one of `length`.
fn within(coordinate: f64, length: usize) -> Option<usize> {
    let inside = coordinate >= 0.0 && coordinate < length as f64;
    inside.then_some(coordinate as usize)
}

/// How many points from `start` on, at most `most`, have the same integer part in 16.16 fixed point.
fn run(start: i64, step: i64, most: usize) -> usize {
    let fraction = start & 0xffff;
    let length = match step {
        0 => return most,
        1.. => (0xffff - fraction) / step + 1,
        _ => fraction / -step + 1,
    };
    most.min(length as usize)
}

/// The `x` of `0..width` for which `start + x * step` is in `0..limit`.
fn span(start: i64, step: i64, limit: i64, width: usize) -> Range<usize> {
    // Divisions that round down: `divide(a, b)` is the largest n with `n * b <= a`, for a positive `b`.
    let divide = i64::div_euclid;
    let (from, to) = match step {
        0 if (0..limit).contains(&start) => (0, width as i64),
        0 => (0, 0),
        1.. => (-divide(start, step), -divide(start - limit, step)),
        _ => (divide(start - limit, -step) + 1, divide(start, -step) + 1),
    };
    let clamped = |x: i64| x.clamp(0, width as i64) as usize;
    clamped(from)..clamped(to)
}

/// Rounded to 15 decimals, as Python's `round(number, 15)`: both round the exact binary value.
fn decimals(number: f64) -> f64 {
    format!("{number:.15}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_where_the_line_is_inside() {
        for start in -40..40_i64 {
            for step in -7..8_i64 {
                for limit in [1, 5, 16] {
                    let inside = |x: &usize| (0..limit).contains(&(start + *x as i64 * step));
                    let expected: Vec<usize> = (0..9).filter(inside).collect();
                    let found: Vec<usize> = span(start, step, limit, 9).collect();
                    assert_eq!(found, expected, "{start} {step} {limit}");
                }
            }
        }
    }
}
