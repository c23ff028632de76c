//! The two passes of an antialiased resize with AVX2.
//!
//! A weight has 22 bits, more than the factors of `madd` (signed 16 bits). It is split into an upper and
//! a lower part, whose sums are combined at the end. `madd` adds two products in each 32-bit lane: of two
//! rows of a column, or of two pixels of a row.

use std::arch::x86_64::*;

use super::coefficients::{AxisWeights, PRECISION_BITS, ROUNDING};
use super::rows::Rows;
use super::{ResizePlan, cubic};

/// Bytes in a vector. Shorter rows go through [`super::plain`].
pub(super) const VECTOR_BYTES: usize = 32;
/// Number of rows that the horizontal pass processes together. Fewer go through [`super::plain`].
pub(super) const ROWS: usize = 4;
/// Bytes that are loaded for a [`TapGroup`]: half a vector.
const WINDOW: usize = 16;
/// Number of taps in a [`TapGroup`].
const TAPS: usize = 4;
/// Number of bits in the lower part of a weight.
///
/// Neither part can overflow. Both fit into a signed 16-bit factor: weights are from -2^23 to 2^23, so
/// the lower part is from 0 to 2^11 - 1 and the upper one from -2^12 to 2^12. The 32-bit sums fit as well:
/// of bilinear each part is at most the weight itself, the weights of an output add up to 2^22 but for
/// rounding (at most 1/2 for each of n), values are at most 255, and 255 * (2^22 + n / 2) is below 2^31
/// for any n up to 8 million. The absolute weights of the other filters add up to less than 2^23 (a test
/// in [`super::coefficients`]), so the whole sum fits too; a sum that wraps on the way does not matter.
const LOW_BITS: u32 = 11;

/// Proof that the processor supports AVX2: [`Avx2::detect`] is the only constructor. So its methods may
/// call the functions below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Scratch memory, reused between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    taps: Vec<TapGroup>,
    /// For each output column, its number of groups in `taps`.
    columns: Vec<usize>,
    /// The vertical weights, for two rows at a time.
    pairs: Vec<WeightPair>,
}

/// The upper and lower parts of two weights, each as two 16-bit factors of `madd`.
#[derive(Debug, Clone, Copy)]
struct WeightPair {
    high: i32,
    low: i32,
}

impl WeightPair {
    fn new(weights: &[i32]) -> Self {
        let first = weights.first().copied().unwrap_or(0);
        let second = weights.get(1).copied().unwrap_or(0);
        let mask = (1 << LOW_BITS) - 1;
        Self {
            high: (first >> LOW_BITS) & 0xffff | (second >> LOW_BITS) << 16,
            low: first & mask | (second & mask) << 16,
        }
    }
}

/// Four taps of an output column: two in the lower half of a vector, two in the upper.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct TapGroup {
    high: [i32; 8],
    low: [i32; 8],
    /// Byte offset of the window in the row; the window is within the row.
    offset: usize,
    /// Byte offset of the first pixel in the window, repeated in four bytes.
    shift: i32,
}

impl TapGroup {
    /// The taps at the pixels from `first` on, in a row of `width` bytes.
    fn new(weights: &[i32], first: usize, width: usize) -> Self {
        let (left, right) = weights.split_at(weights.len().min(2));
        let (left, right) = (WeightPair::new(left), WeightPair::new(right));
        let halves = |left, right| [left, left, left, left, right, right, right, right];
        let start = first * 3;
        let offset = start.min(width - WINDOW);
        Self {
            high: halves(left.high, right.high),
            low: halves(left.low, right.low),
            offset,
            shift: (start - offset) as i32 * 0x0101_0101,
        }
    }
}

impl Avx2 {
    /// `Some` if the processor supports AVX2.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// [`AxisWeights::compute`], compiled for AVX2.
    pub fn compute(self, axis: &mut AxisWeights, source: u32, scaled: u32, offset: u32, size: u32) {
        #[target_feature(enable = "avx2")]
        fn compute(axis: &mut AxisWeights, source: u32, scaled: u32, offset: u32, size: u32) {
            axis.compute(source, scaled, offset, size);
        }
        // SAFETY: see the type.
        unsafe { compute(axis, source, scaled, offset, size) }
    }

    /// [`cubic::resize`], compiled for AVX2.
    pub fn cubic(
        self,
        source: Rows<'_>,
        plan: &ResizePlan,
        out: &mut [u8],
        scratch: &mut cubic::Scratch,
    ) {
        #[target_feature(enable = "avx2")]
        fn render(
            source: Rows<'_>,
            plan: &ResizePlan,
            out: &mut [u8],
            scratch: &mut cubic::Scratch,
        ) {
            cubic::resize(source, plan, out, scratch);
        }
        // SAFETY: see the type.
        unsafe { render(source, plan, out, scratch) }
    }

    /// Resizes rows in width, mirrored if `flip`.
    pub fn horizontal(
        self,
        from: Rows<'_>,
        x: &AxisWeights,
        flip: bool,
        to: &mut [u8],
        scratch: &mut Scratch,
    ) {
        scratch.taps.clear();
        scratch.columns.clear();
        for index in 0..x.len() {
            let (first, weights) = x.weights(if flip { x.len() - 1 - index } else { index });
            scratch.columns.push(weights.len().div_ceil(TAPS));
            for (tap, weights) in weights.chunks(TAPS).enumerate() {
                let tap = TapGroup::new(weights, first + tap * TAPS, from.width);
                scratch.taps.push(tap);
            }
        }
        let width = x.len() * 3;
        for row in (0..from.height).step_by(ROWS) {
            // The last group of rows may overlap the previous one.
            let row = row.min(from.height - ROWS);
            let to = &mut to[row * width..][..ROWS * width];
            // SAFETY: see the type; the taps were made for rows of this width.
            unsafe { horizontal(from.slice_rows(row, ROWS), scratch, to) };
        }
    }

    /// Computes one output row from the rows `first..first + weights.len()`.
    pub fn vertical(
        self,
        from: Rows<'_>,
        first: usize,
        weights: &[i32],
        to: &mut [u8],
        scratch: &mut Scratch,
    ) {
        scratch.pairs.clear();
        scratch.pairs.extend(weights.chunks(2).map(WeightPair::new));
        let from = from.slice_rows(first, weights.len());
        // SAFETY: see the type.
        unsafe { vertical(from, &scratch.pairs, to) }
    }
}

/// Resizes four rows in width.
///
/// # Safety
/// The taps were made for rows as wide as these.
#[target_feature(enable = "avx2")]
unsafe fn horizontal(from: Rows<'_>, scratch: &Scratch, to: &mut [u8]) {
    let width = scratch.columns.len() * 3;
    assert!(from.height == ROWS && from.width >= WINDOW && to.len() == ROWS * width);
    let rows = [0, 1, 2, 3].map(|row| from.row(row).as_ptr());
    let outs = [0, 1, 2, 3].map(|row| to[row * width..].as_mut_ptr());
    // Widens to 16 bits and pairs the values of two pixels by channel: red, green, blue, zero.
    const NONE: i8 = i8::MIN;
    let order = _mm256_setr_epi8(
        0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE, //
        6, NONE, 9, NONE, 7, NONE, 10, NONE, 8, NONE, 11, NONE, NONE, NONE, NONE, NONE,
    );
    // The two halves are added at the end, so only one has the rounding term.
    let half = _mm256_setr_epi32(ROUNDING, ROUNDING, ROUNDING, ROUNDING, 0, 0, 0, 0);
    let mut rest = &scratch.taps[..];
    for (column, &taps) in scratch.columns.iter().enumerate() {
        let (taps, behind) = rest.split_at(taps);
        rest = behind;
        let mut sums = [[_mm256_setzero_si256(), half]; ROWS];
        for tap in taps {
            let order = _mm256_add_epi8(order, _mm256_set1_epi32(tap.shift));
            let (high, low) = (load(&tap.high), load(&tap.low));
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: the window is within the row.
                let window = unsafe { _mm_loadu_si128(row.add(tap.offset).cast()) };
                let values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(window), order);
                multiply_add(sums, values, high, low);
            }
        }
        let sums = sums.map(|sums| combine(sums));
        let both = |a, b| {
            let halves = (
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x31>(a, b),
            );
            _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(halves.0, halves.1))
        };
        // Rows 0 and 2 in the lower half, 1 and 3 in the upper, four bytes each.
        let words = _mm256_packus_epi32(both(sums[0], sums[1]), both(sums[2], sums[3]));
        let bytes = _mm256_packus_epi16(words, words);
        let pixels = [
            _mm256_extract_epi32::<0>(bytes),
            _mm256_extract_epi32::<4>(bytes),
            _mm256_extract_epi32::<1>(bytes),
            _mm256_extract_epi32::<5>(bytes),
        ];
        let last = column + 1 == scratch.columns.len();
        for (out, pixel) in outs.into_iter().zip(pixels) {
            let pixel = pixel.to_le_bytes();
            // SAFETY: the output rows hold three bytes for each column.
            unsafe {
                let out = out.add(column * 3);
                if last {
                    out.copy_from_nonoverlapping(pixel.as_ptr(), 3);
                } else {
                    // The next column overwrites the fourth byte.
                    out.copy_from_nonoverlapping(pixel.as_ptr(), 4);
                }
            }
        }
    }
}

/// Computes one output row from all rows of `from`; `pairs` are their weights.
#[target_feature(enable = "avx2")]
fn vertical(from: Rows<'_>, pairs: &[WeightPair], to: &mut [u8]) {
    assert!(
        from.width == to.len()
            && to.len() >= VECTOR_BYTES
            && from.height.div_ceil(2) == pairs.len()
    );
    let zero = _mm256_setzero_si256();
    let last = to.len() - VECTOR_BYTES;
    for at in (0..to.len()).step_by(VECTOR_BYTES) {
        // The last vector may overlap the previous one.
        let at = at.min(last);
        let mut sums = [[zero, _mm256_set1_epi32(ROUNDING)]; 4];
        for (index, pair) in pairs.iter().enumerate() {
            // With an odd number of rows, the last one is read twice, the second time with weight 0.
            let row = |row: usize| from.row(row.min(from.height - 1)).as_ptr();
            // SAFETY: `at` is at most `width - 32`.
            let (a, b) = unsafe {
                (
                    _mm256_loadu_si256(row(2 * index).add(at).cast()),
                    _mm256_loadu_si256(row(2 * index + 1).add(at).cast()),
                )
            };
            let (high, low) = (_mm256_set1_epi32(pair.high), _mm256_set1_epi32(pair.low));
            let halves = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
            multiply_add(
                &mut sums[0],
                _mm256_unpacklo_epi8(halves[0], zero),
                high,
                low,
            );
            multiply_add(
                &mut sums[1],
                _mm256_unpackhi_epi8(halves[0], zero),
                high,
                low,
            );
            multiply_add(
                &mut sums[2],
                _mm256_unpacklo_epi8(halves[1], zero),
                high,
                low,
            );
            multiply_add(
                &mut sums[3],
                _mm256_unpackhi_epi8(halves[1], zero),
                high,
                low,
            );
        }
        let [a, b, c, d] =
            sums.map(|sums| _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(combine(sums)));
        // Packing restores the order that unpacking changed.
        let bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        // SAFETY: there is room for 32 bytes.
        unsafe { _mm256_storeu_si256(to[at..].as_mut_ptr().cast(), bytes) };
    }
}

/// Adds, in each lane, two values times their weights to the sums of upper and lower parts.
#[target_feature(enable = "avx2")]
#[inline]
fn multiply_add(sums: &mut [__m256i; 2], values: __m256i, high: __m256i, low: __m256i) {
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(values, high));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(values, low));
}

/// `(high << LOW_BITS) + low`.
#[target_feature(enable = "avx2")]
#[inline]
fn combine([high, low]: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high), low)
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(lanes: &[i32; 8]) -> __m256i {
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}
