//! The filter weights of an antialiased resize along one axis.
//!
//! Bilinear's filter is a triangle with a support of one output pixel on each side (one source pixel when
//! upscaling), sampled at the centres of the source pixels in f64, normalized to a sum of 1 and rounded
//! to 22 fraction bits; the other filters likewise. This is Pillow's `precompute_coeffs` and
//! `normalize_coeffs_8bpc`, in its order of operations, so that every weight is identical.

use std::f64::consts::PI;

use crate::pixels::OutOfMemory;

/// Fraction bits of a weight.
pub(super) const PRECISION_BITS: u32 = 22;
/// One half: added to a sum of products, makes the right shift round.
pub(super) const ROUNDING: i32 = 1 << (PRECISION_BITS - 1);

/// Number of output pixels whose weights are computed together, for the compiler to vectorize.
const LANES: usize = 8;

/// The weights of the output pixels along one axis.
#[derive(Debug, Default)]
pub(super) struct AxisWeights {
    /// For each output pixel, its first source pixel and its number of taps.
    bounds: Vec<(u32, u32)>,
    /// `[output pixels, max_taps]`, with [`PRECISION_BITS`] fraction bits.
    fixed_weights: Vec<i32>,
    max_taps: usize,
    is_signed: bool,
    /// The weights of one output pixel of a filter other than bilinear.
    taps: Vec<f64>,
}

impl AxisWeights {
    /// Allocates the memory for [`AxisWeights::compute`], which grows with the source's side; for a filter
    /// other than bilinear that for [`AxisWeights::compute_shape`].
    pub fn reserve(
        &mut self,
        source: u32,
        scaled: u32,
        size: u32,
        shape: Option<Shape>,
    ) -> Result<(), OutOfMemory> {
        let taps = shape.map_or(max_taps(source, scaled), |shape| {
            shape.max_taps(source, scaled)
        });
        let length = size as usize * taps;
        let more = length.saturating_sub(self.fixed_weights.len());
        let reserved = self.fixed_weights.try_reserve(more);
        reserved.map_err(|_| OutOfMemory {
            bytes: length * size_of::<i32>(),
        })
    }

    /// Computes the weights of the output pixels `offset..offset + size` for a resize of `source`
    /// pixels to `scaled`.
    // Inlined into callers that are compiled for wider vectors.
    #[inline(always)]
    pub fn compute(&mut self, source: u32, scaled: u32, offset: u32, size: u32) {
        let scale = f64::from(source) / f64::from(scaled);
        let support = scale.max(1.0);
        let inverse = 1.0 / support;
        self.max_taps = max_taps(source, scaled);
        self.is_signed = false;
        self.bounds.clear();
        self.fixed_weights.resize(size as usize * self.max_taps, 0);
        for (step, block) in self
            .fixed_weights
            .chunks_mut(LANES * self.max_taps)
            .enumerate()
        {
            let mut center = [0.0; LANES];
            let mut first = [0.0; LANES];
            let mut end = [0.0; LANES];
            for lane in 0..LANES {
                let output = f64::from(offset) + (step * LANES + lane) as f64;
                center[lane] = (output + 0.5) * scale;
                first[lane] = (center[lane] - support + 0.5).trunc().max(0.0);
                end[lane] = (center[lane] + support + 0.5)
                    .trunc()
                    .min(f64::from(source));
            }
            let weights = |tap: usize| {
                let mut weights = [0.0; LANES];
                for lane in 0..LANES {
                    let pixel = first[lane] + tap as f64;
                    let distance = (pixel - center[lane] + 0.5) * inverse;
                    let weight = f64::max(1.0 - distance.abs(), 0.0);
                    weights[lane] = if pixel < end[lane] { weight } else { 0.0 };
                }
                weights
            };
            let mut sum = [0.0; LANES];
            for tap in 0..self.max_taps {
                let weights = weights(tap);
                for lane in 0..LANES {
                    sum[lane] += weights[lane];
                }
            }
            let mut count = [1; LANES];
            for tap in 0..self.max_taps {
                let weights = weights(tap);
                let mut fixed = [0; LANES];
                for lane in 0..LANES {
                    let weight = weights[lane] / sum[lane] * f64::from(1 << PRECISION_BITS);
                    fixed[lane] = truncate(0.5 + weight);
                }
                for lane in 0..LANES {
                    if fixed[lane] != 0 {
                        count[lane] = tap as u32 + 1;
                    }
                }
                let outputs = block.chunks_exact_mut(self.max_taps);
                for (output, weight) in outputs.zip(fixed) {
                    output[tap] = weight;
                }
            }
            let bounds = first.into_iter().map(|first| first as u32).zip(count);
            self.bounds.extend(bounds.take(block.len() / self.max_taps));
        }
    }

    /// [`AxisWeights::compute`] for a filter other than bilinear.
    pub fn compute_shape(
        &mut self,
        shape: Shape,
        source: u32,
        scaled: u32,
        offset: u32,
        size: u32,
    ) {
        let scale = f64::from(source) / f64::from(scaled);
        let stretch = scale.max(1.0);
        let support = shape.support() * stretch;
        let inverse = 1.0 / stretch;
        self.max_taps = shape.max_taps(source, scaled);
        self.is_signed = shape != Shape::Box;
        self.bounds.clear();
        self.fixed_weights.clear();
        self.fixed_weights.resize(size as usize * self.max_taps, 0);
        let outputs = self.fixed_weights.chunks_exact_mut(self.max_taps);
        for (output, fixed) in (offset..).zip(outputs) {
            let center = (f64::from(output) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(source);
            self.taps.clear();
            self.taps.extend((first..end).map(|pixel| {
                let distance = f64::from(pixel) - center + 0.5;
                shape.weight(distance * inverse)
            }));
            let sum: f64 = self.taps.iter().sum();
            let mut count = 1;
            for (tap, (fixed, weight)) in fixed.iter_mut().zip(&self.taps).enumerate() {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1 << PRECISION_BITS);
                // Half away from zero.
                *fixed = (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32;
                if *fixed != 0 {
                    count = tap as u32 + 1;
                }
            }
            self.bounds.push((first, count));
        }
    }

    /// Whether there may be negative weights.
    pub fn is_signed(&self) -> bool {
        self.is_signed
    }

    /// Number of output pixels.
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// The first source pixel of an output pixel, and the weights of that and of the following source
    /// pixels. Those of bilinear and box are from 0 to 2^22, others also negative; see [`MAX_WEIGHT`].
    #[inline]
    pub fn weights(&self, index: usize) -> (usize, &[i32]) {
        let (first, count) = self.bounds[index];
        let fixed = &self.fixed_weights[index * self.max_taps..][..count as usize];
        (first as usize, fixed)
    }

    /// Renumbers source pixels, starting at the first one with a weight. Returns its previous index and
    /// the number of source pixels up to the last one with a weight.
    pub fn rebase(&mut self) -> (usize, usize) {
        let start = self.bounds.iter().map(|bound| bound.0).min().unwrap_or(0);
        let mut width = 0;
        for (first, count) in &mut self.bounds {
            *first -= start;
            width = width.max(*first + *count);
        }
        (start as usize, width as usize)
    }
}

/// A filter other than bilinear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Box,
    Bicubic,
    Lanczos,
}

impl Shape {
    /// How far from its centre the filter is not 0, in output pixels.
    fn support(self) -> f64 {
        match self {
            Shape::Box => 0.5,
            Shape::Bicubic => 2.0,
            Shape::Lanczos => 3.0,
        }
    }

    /// Pillow's `box_filter`, `bicubic_filter` (a = -0.5) and `lanczos_filter` (a = 3).
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Shape::Box if x > -0.5 && x <= 0.5 => 1.0,
            Shape::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Shape::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
            }
            Shape::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }

    /// A bound on the source pixels of an output pixel.
    fn max_taps(self, source: u32, scaled: u32) -> usize {
        let scale = f64::from(source) / f64::from(scaled);
        (self.support() * scale.max(1.0)).ceil() as usize * 2 + 1
    }
}

fn sinc(x: f64) -> f64 {
    let angle = x * PI;
    if x == 0.0 { 1.0 } else { angle.sin() / angle }
}

/// A bound on the absolute value of all weights: at the edges of an image, where a filter is cut off,
/// they are a little larger than 1.
#[cfg(test)]
pub(super) const MAX_WEIGHT: i32 = 3 << (PRECISION_BITS - 1);

/// A bound on the source pixels of an output pixel of bilinear.
#[inline(always)]
fn max_taps(source: u32, scaled: u32) -> usize {
    let scale = f64::from(source) / f64::from(scaled);
    (2.0 * scale.max(1.0)) as usize + 2
}

/// The integer part of a number from 0 to 2^31, in a form that compilers vectorize.
#[inline(always)]
fn truncate(number: f64) -> i32 {
    // At 2^52 the unit in the last place is 1, so the low bits of the mantissa are the integer.
    (number.floor() + f64::from(1 << 26) * f64::from(1 << 26)).to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All processors' code relies on it.
    #[test]
    fn weights_are_bounded_and_add_up() {
        let mut axis = AxisWeights::default();
        let sides = (1..40).chain([64, 97, 224, 1000]);
        let sides: Vec<u32> = sides.collect();
        for shape in [Shape::Box, Shape::Bicubic, Shape::Lanczos] {
            for &source in &sides {
                for &scaled in &sides {
                    axis.compute_shape(shape, source, scaled, 0, scaled);
                    for output in 0..scaled as usize {
                        let (first, weights) = axis.weights(output);
                        let place = format!("{shape:?} {source} {scaled} {output}");
                        assert!(first + weights.len() <= source as usize, "{place}");
                        assert!(
                            weights.iter().all(|weight| weight.abs() <= MAX_WEIGHT),
                            "{place}"
                        );
                        let sum: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
                        let error = (sum - (1 << PRECISION_BITS)).unsigned_abs() as usize;
                        assert!(error <= weights.len(), "{place}: {sum}");
                        // No sum of products leaves 32 bits.
                        let all: i64 = weights.iter().map(|weight| i64::from(weight.abs())).sum();
                        assert!(all < 2 << PRECISION_BITS, "{place}: {all}");
                    }
                }
            }
        }
    }
}
