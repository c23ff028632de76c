//! The filter weights of the bilinear resize along one axis.
//!
//! The filter is a triangle with a support of one output pixel on each side (one source pixel when
//! upscaling), sampled at the centres of the source pixels in f64, normalized to a sum of 1 and rounded
//! to 22 fraction bits. This is Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, in its order of
//! operations, so that every weight is identical.

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
}

impl AxisWeights {
    /// Allocates the memory for [`AxisWeights::compute`], which grows with the source's side.
    pub fn reserve(&mut self, source: u32, scaled: u32, size: u32) -> Result<(), OutOfMemory> {
        let length = size as usize * max_taps(source, scaled);
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

    /// Number of output pixels.
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// The first source pixel of an output pixel, and the weights of that and of the following source
    /// pixels, each from 0 to 2^22.
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

/// A bound on the source pixels of an output pixel.
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
