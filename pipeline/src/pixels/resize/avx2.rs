//! The two passes for processors with AVX2.
//!
//! A coefficient has more bits than a vector's products take: it is taken apart into an upper and a
//! lower part, whose sums are put together at the end. Each lane adds up two levels at a time, of two
//! rows of a column or of two pixels of a row.

use std::arch::x86_64::*;

use super::coefficients::{Axis, HALF, PRECISION};
use super::rows::Rows;
use super::{Rendition, cubic};

/// Bytes in a vector. Shorter rows are for others.
pub(super) const VECTOR: usize = 32;
/// Rows that are scaled in width together. Fewer are for others.
pub(super) const ROWS: usize = 4;
/// Bytes in half a vector, from which the levels of a [`Tap`] are picked.
const WINDOW: usize = 16;
/// Pixels of a [`Tap`].
const PIXELS: usize = 4;
/// Bits in the lower part of a coefficient.
///
/// Neither part can overflow. Both fit into a signed 16-bit factor: coefficients are from 0 to 2^22, so
/// the lower part is below 2^11 and the upper one at most 2^11. The 32-bit sums fit as well: each part
/// is at most the coefficient itself, the coefficients of an output add up to 2^22 but for rounding
/// (at most 1/2 for each of n), levels are at most 255, and 255 * (2^22 + n / 2) is below 2^31 for any n
/// up to 8 million. The same bound holds for the whole sum.
const LOW: u32 = 11;

/// Exists only where the processor was seen to have it; that is why its methods may call the
/// functions below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Scratch memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    taps: Vec<Tap>,
    /// By output column, how many taps it needs, behind those of the column before.
    columns: Vec<usize>,
    /// The vertical coefficients, two rows at a time.
    pairs: Vec<Pair>,
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

/// Four pixels for an output column: two in the lower half of a vector, two in the upper one.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Tap {
    high: [i32; 8],
    low: [i32; 8],
    /// Where in the row the window begins. It ends within the row.
    offset: usize,
    /// How far into the window the first pixel is: the same number in four bytes.
    shift: i32,
}

impl Tap {
    /// Those from the pixel `first` on, in a row of `width` bytes.
    fn new(coefficients: &[i32], first: usize, width: usize) -> Self {
        let (left, right) = coefficients.split_at(coefficients.len().min(2));
        let (left, right) = (Pair::new(left), Pair::new(right));
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
    /// If the processor has it.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// [`Axis::fill`].
    pub fn fill(self, axis: &mut Axis, source: u32, scaled: u32, offset: u32, size: u32) {
        #[target_feature(enable = "avx2")]
        fn fill(axis: &mut Axis, source: u32, scaled: u32, offset: u32, size: u32) {
            axis.fill(source, scaled, offset, size);
        }
        // SAFETY: see the type.
        unsafe { fill(axis, source, scaled, offset, size) }
    }

    /// [`cubic::render`].
    pub fn cubic(
        self,
        source: Rows<'_>,
        plan: &Rendition,
        out: &mut [u8],
        scratch: &mut cubic::Scratch,
    ) {
        #[target_feature(enable = "avx2")]
        fn render(
            source: Rows<'_>,
            plan: &Rendition,
            out: &mut [u8],
            scratch: &mut cubic::Scratch,
        ) {
            cubic::render(source, plan, out, scratch);
        }
        // SAFETY: see the type.
        unsafe { render(source, plan, out, scratch) }
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
        scratch.taps.clear();
        scratch.columns.clear();
        for index in 0..x.len() {
            let (first, coefficients) = x.output(if flip { x.len() - 1 - index } else { index });
            scratch.columns.push(coefficients.len().div_ceil(PIXELS));
            for (tap, coefficients) in coefficients.chunks(PIXELS).enumerate() {
                let tap = Tap::new(coefficients, first + tap * PIXELS, from.width);
                scratch.taps.push(tap);
            }
        }
        let width = x.len() * 3;
        for row in (0..from.height).step_by(ROWS) {
            // The last rows may begin within those before.
            let row = row.min(from.height - ROWS);
            let to = &mut to[row * width..][..ROWS * width];
            // SAFETY: see the type; the taps were made for rows of this width.
            unsafe { horizontal(from.slice_rows(row, ROWS), scratch, to) };
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
        let from = from.slice_rows(first, coefficients.len());
        // SAFETY: see the type.
        unsafe { vertical(from, &scratch.pairs, to) }
    }
}

/// Scales four rows.
///
/// # Safety
/// The taps were made for rows as wide as these.
#[target_feature(enable = "avx2")]
unsafe fn horizontal(from: Rows<'_>, scratch: &Scratch, to: &mut [u8]) {
    let width = scratch.columns.len() * 3;
    assert!(from.height == ROWS && from.width >= WINDOW && to.len() == ROWS * width);
    let rows = [0, 1, 2, 3].map(|row| from.row(row).as_ptr());
    let outs = [0, 1, 2, 3].map(|row| to[row * width..].as_mut_ptr());
    // Of two pixels the levels of a channel side by side, as 16 bits: red, green, blue, nothing.
    const NONE: i8 = i8::MIN;
    let order = _mm256_setr_epi8(
        0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE, //
        6, NONE, 9, NONE, 7, NONE, 10, NONE, 8, NONE, 11, NONE, NONE, NONE, NONE, NONE,
    );
    // The halves are added up at the end.
    let half = _mm256_setr_epi32(HALF, HALF, HALF, HALF, 0, 0, 0, 0);
    let mut rest = &scratch.taps[..];
    for (column, &taps) in scratch.columns.iter().enumerate() {
        let (taps, behind) = rest.split_at(taps);
        rest = behind;
        let mut sums = [[_mm256_setzero_si256(), half]; ROWS];
        for tap in taps {
            let order = _mm256_add_epi8(order, _mm256_set1_epi32(tap.shift));
            let (high, low) = (lanes(&tap.high), lanes(&tap.low));
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: the window ends within the row.
                let window = unsafe { _mm_loadu_si128(row.add(tap.offset).cast()) };
                let levels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(window), order);
                add(sums, levels, high, low);
            }
        }
        let sums = sums.map(|sums| whole(sums));
        let both = |a, b| {
            let halves = (
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x31>(a, b),
            );
            _mm256_srli_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(halves.0, halves.1))
        };
        // Rows 0 and 2 in the lower half, 1 and 3 in the upper one, four bytes each.
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
            // SAFETY: the rows hold three bytes for each column.
            unsafe {
                let out = out.add(column * 3);
                if last {
                    out.copy_from_nonoverlapping(pixel.as_ptr(), 3);
                } else {
                    // The next column makes good what is written behind this one.
                    out.copy_from_nonoverlapping(pixel.as_ptr(), 4);
                }
            }
        }
    }
}

/// Makes one row of all rows. `pairs` are those of two rows each.
#[target_feature(enable = "avx2")]
fn vertical(from: Rows<'_>, pairs: &[Pair], to: &mut [u8]) {
    assert!(from.width == to.len() && to.len() >= VECTOR && from.height.div_ceil(2) == pairs.len());
    let zero = _mm256_setzero_si256();
    let last = to.len() - VECTOR;
    for at in (0..to.len()).step_by(VECTOR) {
        // The last vector may begin within the one before.
        let at = at.min(last);
        let mut sums = [[zero, _mm256_set1_epi32(HALF)]; 4];
        for (index, pair) in pairs.iter().enumerate() {
            // The last row stands in for the one behind it, whose coefficient is 0.
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
            add(
                &mut sums[0],
                _mm256_unpacklo_epi8(halves[0], zero),
                high,
                low,
            );
            add(
                &mut sums[1],
                _mm256_unpackhi_epi8(halves[0], zero),
                high,
                low,
            );
            add(
                &mut sums[2],
                _mm256_unpacklo_epi8(halves[1], zero),
                high,
                low,
            );
            add(
                &mut sums[3],
                _mm256_unpackhi_epi8(halves[1], zero),
                high,
                low,
            );
        }
        let [a, b, c, d] = sums.map(|sums| _mm256_srli_epi32::<{ PRECISION as i32 }>(whole(sums)));
        // Packing undoes the order in which bytes were interleaved.
        let bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        // SAFETY: there is room for 32 bytes.
        unsafe { _mm256_storeu_si256(to[at..].as_mut_ptr().cast(), bytes) };
    }
}

/// Adds two levels in each lane times their coefficients.
#[target_feature(enable = "avx2")]
#[inline]
fn add(sums: &mut [__m256i; 2], levels: __m256i, high: __m256i, low: __m256i) {
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(levels, high));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(levels, low));
}

/// The sum of upper and lower parts.
#[target_feature(enable = "avx2")]
#[inline]
fn whole([high, low]: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(_mm256_slli_epi32::<{ LOW as i32 }>(high), low)
}

/// Eight lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn lanes(lanes: &[i32; 8]) -> __m256i {
    // SAFETY: they are 32 bytes.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}
