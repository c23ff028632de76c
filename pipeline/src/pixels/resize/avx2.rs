//! The two passes for processors with AVX2.
//!
//! A coefficient has more bits than a vector's products take: it is taken apart into an upper and a
//! lower part, whose sums are put together at the end. Each lane adds up two levels at a time.

use std::arch::x86_64::*;

use super::coefficients::{Axis, HALF, PRECISION};
use super::rows::Rows;

/// Columns that are made together in the pass in height. Shorter rows are for others.
pub(super) const VECTOR: usize = 16;
/// Bits in the lower part of a coefficient.
const LOW: u32 = 11;

/// Exists only where the processor was seen to have it; that is why its methods may call the
/// functions below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Scratch memory: the parts of coefficients, two neighbours at a time.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pairs: Vec<Pair>,
    /// By output column: its first source pixel, and where its pairs begin.
    columns: Vec<(usize, usize)>,
}

/// The upper and the lower parts of two coefficients, in 16 bits each.
#[derive(Debug, Clone, Copy)]
struct Pair {
    high: i32,
    low: i32,
}

impl Pair {
    fn new(coefficients: &[i32]) -> Self {
        let first = coefficients.first().copied().unwrap_or(0);
        let second = coefficients.get(1).copied().unwrap_or(0);
        let mask = (1 << LOW) - 1;
        Self {
            high: first >> LOW | (second >> LOW) << 16,
            low: first & mask | (second & mask) << 16,
        }
    }
}

impl Avx2 {
    /// If the processor has it.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Scales rows in width, mirrored if `flip`.
    pub fn horizontal(
        self,
        from: Rows<'_>,
        x: &Axis,
        flip: bool,
        to: &mut [u8],
        scratch: &mut Scratch,
    ) {
        let Scratch { pairs, columns } = scratch;
        pairs.clear();
        columns.clear();
        for index in 0..x.len() {
            let (first, coefficients) = x.output(if flip { x.len() - 1 - index } else { index });
            columns.push((first, pairs.len()));
            pairs.extend(coefficients.chunks(2).map(Pair::new));
        }
        columns.push((0, pairs.len()));
        let width = x.len() * 3;
        for (step, to) in to.chunks_mut(2 * width).enumerate() {
            let (upper, lower) = to.split_at_mut(width);
            let row = |row: usize| from.row(row.min(from.height - 1));
            let rows = [row(2 * step), row(2 * step + 1)];
            // SAFETY: see the type.
            unsafe { horizontal(rows, columns, pairs, [upper, lower]) };
        }
    }

    /// Makes one row of the rows from `first` on.
    pub fn vertical(
        self,
        from: Rows<'_>,
        first: usize,
        coefficients: &[i32],
        to: &mut [u8],
        scratch: &mut Scratch,
    ) {
        scratch.pairs.clear();
        scratch.pairs.extend(coefficients.chunks(2).map(Pair::new));
        // SAFETY: see the type.
        unsafe {
            vertical(
                from.slice_rows(first, coefficients.len()),
                &scratch.pairs,
                to,
            )
        }
    }
}

/// Scales two rows; the second output may be empty.
#[target_feature(enable = "avx2")]
fn horizontal(
    rows: [&[u8]; 2],
    columns: &[(usize, usize)],
    pairs: &[Pair],
    [upper, lower]: [&mut [u8]; 2],
) {
    // Of two pixels the levels of a channel side by side, as 16 bits: red, green, blue, nothing.
    const NONE: i8 = -1;
    let order = _mm_setr_epi8(
        0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE,
    );
    let order = _mm256_broadcastsi128_si256(order);
    let (upper, _) = upper.as_chunks_mut::<3>();
    let (lower, _) = lower.as_chunks_mut::<3>();
    for (index, both) in columns.windows(2).enumerate() {
        let (first, start) = both[0];
        let mut sums = [_mm256_setzero_si256(); 2];
        for (step, pair) in pairs[start..both[1].1].iter().enumerate() {
            let at = (first + 2 * step) * 3;
            let levels = _mm256_set_m128i(pixels(rows[1], at), pixels(rows[0], at));
            add(&mut sums, _mm256_shuffle_epi8(levels, order), *pair);
        }
        let mut levels = [0_i32; 8];
        // SAFETY: they are as large as a vector.
        unsafe { _mm256_storeu_si256(levels.as_mut_ptr().cast(), whole(sums)) };
        upper[index] = [levels[0], levels[1], levels[2]].map(level);
        if let Some(lower) = lower.get_mut(index) {
            *lower = [levels[4], levels[5], levels[6]].map(level);
        }
    }
}

/// Eight bytes of a row, two pixels among them; zeros behind its end.
#[target_feature(enable = "avx2")]
#[inline]
fn pixels(row: &[u8], at: usize) -> __m128i {
    let rest = &row[at..];
    let eight = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
        let mut eight = [0; 8];
        eight[..rest.len()].copy_from_slice(rest);
        eight
    });
    _mm_cvtsi64_si128(i64::from_le_bytes(eight))
}

#[inline]
fn level(sum: i32) -> u8 {
    sum.clamp(0, 255) as u8
}

/// Makes one row of all rows. `pairs` are those of two rows each.
#[target_feature(enable = "avx2")]
fn vertical(from: Rows<'_>, pairs: &[Pair], to: &mut [u8]) {
    let last = to.len() - VECTOR;
    for at in (0..to.len()).step_by(VECTOR) {
        // The last vector may begin within the one before.
        let at = at.min(last);
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        for (step, pair) in pairs.iter().enumerate() {
            let row = |row: usize| &from.row(row.min(from.height - 1))[at..at + VECTOR];
            let (a, b) = (load(row(2 * step)), load(row(2 * step + 1)));
            let (low, high) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b));
            add(&mut sums[0], _mm256_cvtepu8_epi16(low), *pair);
            add(&mut sums[1], _mm256_cvtepu8_epi16(high), *pair);
        }
        // Packing works within halves: the middle quarters change places.
        let words = _mm256_packus_epi32(whole(sums[0]), whole(sums[1]));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm256_packus_epi16(words, words);
        let bytes = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(bytes));
        let out = &mut to[at..at + VECTOR];
        // SAFETY: there is room for sixteen bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
    }
}

/// Sixteen bytes.
#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8]) -> __m128i {
    assert!(bytes.len() == VECTOR);
    // SAFETY: they are there.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Adds two levels in each lane times their coefficients.
#[target_feature(enable = "avx2")]
#[inline]
fn add([high, low]: &mut [__m256i; 2], levels: __m256i, pair: Pair) {
    *high = _mm256_add_epi32(
        *high,
        _mm256_madd_epi16(levels, _mm256_set1_epi32(pair.high)),
    );
    *low = _mm256_add_epi32(*low, _mm256_madd_epi16(levels, _mm256_set1_epi32(pair.low)));
}

/// Levels of the sums of upper and lower parts.
#[target_feature(enable = "avx2")]
#[inline]
fn whole([high, low]: [__m256i; 2]) -> __m256i {
    let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW as i32 }>(high), low);
    let rounded = _mm256_add_epi32(sum, _mm256_set1_epi32(HALF));
    _mm256_srli_epi32::<{ PRECISION as i32 }>(rounded)
}
