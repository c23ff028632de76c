//! Which source pixels an output pixel is made of along one axis, and how much of each.
//!
//! The filter is a triangle as wide as two output pixels (two source pixels where the picture is
//! enlarged), sampled at the centres of the source pixels in f64, made to sum to 1 and rounded to
//! 22 bits after the binary point: what Pillow's `Image.resize` does with 8-bit images, in its order
//! of operations, so that every coefficient is the same.

/// Bits after the binary point of a coefficient.
pub(super) const PRECISION: u32 = 22;
/// What a sum of products begins with, so that cutting off the fraction rounds it.
pub(super) const HALF: i32 = 1 << (PRECISION - 1);

/// How many output pixels are computed side by side.
const LANES: usize = 8;

/// The coefficients of one axis, output pixel by output pixel.
#[derive(Debug, Default)]
pub(super) struct Axis {
    /// For each output pixel its first source pixel and the number of those that count.
    spans: Vec<(u32, u32)>,
    /// `[output pixels, stride]`.
    coefficients: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// Those of `size` output pixels from `offset` on, of `source` pixels scaled to `scaled`.
    // Inlined for those who compile it for wider vectors.
    #[inline(always)]
    pub fn fill(&mut self, source: u32, scaled: u32, offset: u32, size: u32) {
        let scale = f64::from(source) / f64::from(scaled);
        let support = scale.max(1.0);
        let inverse = 1.0 / support;
        self.stride = (2.0 * support) as usize + 2;
        self.spans.clear();
        self.coefficients.resize(size as usize * self.stride, 0);
        for (step, block) in self
            .coefficients
            .chunks_mut(LANES * self.stride)
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
            for tap in 0..self.stride {
                let weights = weights(tap);
                for lane in 0..LANES {
                    sum[lane] += weights[lane];
                }
            }
            let mut count = [1; LANES];
            for tap in 0..self.stride {
                let weights = weights(tap);
                let mut coefficients = [0; LANES];
                for lane in 0..LANES {
                    let coefficient = weights[lane] / sum[lane] * f64::from(1 << PRECISION);
                    coefficients[lane] = cut_off(0.5 + coefficient);
                }
                for lane in 0..LANES {
                    if coefficients[lane] != 0 {
                        count[lane] = tap as u32 + 1;
                    }
                }
                let outputs = block.chunks_exact_mut(self.stride);
                for (output, coefficient) in outputs.zip(coefficients) {
                    output[tap] = coefficient;
                }
            }
            let spans = first.into_iter().map(|first| first as u32).zip(count);
            self.spans.extend(spans.take(block.len() / self.stride));
        }
    }

    /// How many output pixels there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// What an output pixel is made of: its first source pixel, and the coefficients of that and of
    /// those that follow, each from 0 to 2^22.
    #[inline]
    pub fn output(&self, index: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[index];
        let coefficients = &self.coefficients[index * self.stride..][..count as usize];
        (first as usize, coefficients)
    }

    /// Counts source pixels from the first one that is needed on. Returns its index before that, and
    /// how many there are to the last one that is needed.
    pub fn rebase(&mut self) -> (usize, usize) {
        let start = self.spans.iter().map(|span| span.0).min().unwrap_or(0);
        let mut width = 0;
        for (first, count) in &mut self.spans {
            *first -= start;
            width = width.max(*first + *count);
        }
        (start as usize, width as usize)
    }
}

/// The integer part of a number from 0 to 2^31, in a way that compilers make vectors of.
#[inline(always)]
fn cut_off(number: f64) -> i32 {
    // From 2^52 on the last bit counts ones, so the mantissa's low bits are the integer.
    (number.floor() + f64::from(1 << 26) * f64::from(1 << 26)).to_bits() as i32
}
