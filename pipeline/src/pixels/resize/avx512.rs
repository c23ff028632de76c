//! The two passes of an antialiased resize with AVX-512, VBMI (byte permutations) and VNNI (byte dot
//! products).
//!
//! VNNI's `dpbusd` multiplies four unsigned bytes by four signed bytes and adds the products to a 32-bit
//! lane. So a weight is split into three signed base-256 digits, and a lane holds the values of four taps
//! of one channel: four rows of a column, or four pixels of a row.

use std::arch::x86_64::*;

use super::coefficients::{AxisWeights, PRECISION_BITS, ROUNDING};
use super::rows::Rows;
use super::{ResizePlan, cubic};

/// Bytes in a vector. Shorter rows go through [`super::plain`].
pub(super) const VECTOR_BYTES: usize = 64;
/// Number of output columns in a block: their 15 channels fit into a vector's 16 lanes.
const COLUMNS: usize = 5;
/// Number of whole pixels in a vector, from which the values of a block are selected.
const WINDOW: usize = 21;

/// Proof that the processor supports all instructions that the functions below are compiled for:
/// [`Avx512::detect`] is the only constructor. So its methods may call them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// `Some` if the processor supports the instructions.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }

    /// [`AxisWeights::compute`], compiled for AVX-512.
    pub fn compute(self, axis: &mut AxisWeights, source: u32, scaled: u32, offset: u32, size: u32) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        fn compute(axis: &mut AxisWeights, source: u32, scaled: u32, offset: u32, size: u32) {
            axis.compute(source, scaled, offset, size);
        }
        // SAFETY: see the type.
        unsafe { compute(axis, source, scaled, offset, size) }
    }

    /// [`cubic::resize`], compiled for AVX-512.
    pub fn cubic(
        self,
        source: Rows<'_>,
        plan: &ResizePlan,
        out: &mut [u8],
        scratch: &mut cubic::Scratch,
    ) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
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
        scratch.plan(x, flip, from.width);
        let width = x.len() * 3;
        let mut row = 0;
        let mut fours = to.chunks_exact_mut(width * 4);
        for to in &mut fours {
            // SAFETY: see the type.
            unsafe { horizontal::<4>(from.slice_rows(row, 4), scratch, to) };
            row += 4;
        }
        for to in fours.into_remainder().chunks_exact_mut(width) {
            // SAFETY: see the type.
            unsafe { horizontal::<1>(from.slice_rows(row, 1), scratch, to) };
            row += 1;
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
        scratch.digits.clear();
        scratch.digits.extend(weights.chunks(4).map(digits));
        let from = from.slice_rows(first, weights.len());
        // SAFETY: see the type.
        unsafe { vertical(from, &scratch.digits, to) }
    }
}

/// The base-256 digits of up to four weights, the lowest first; each element packs the four signed bytes
/// of a lane.
///
/// VNNI multiplies unsigned bytes (values) by signed ones, so the digits to the base 256 are from -128
/// to 127. Three of them hold every number from -0x80_8080 to 0x7f_7f7f; weights are from -2^22 to
/// 1.5 * 2^22. Products are within 255 * 128, so a sum of four fits into 32 bits without saturation.
#[inline]
fn digits(weights: &[i32]) -> [i32; 3] {
    let mut digits = [[0; 4]; 3];
    for (index, &weight) in weights.iter().enumerate() {
        let mut rest = weight;
        for digit in &mut digits {
            digit[index] = rest as u8;
            // `(rest - signed digit) / 256`: adding 128 carries into the next digit where this one,
            // as an unsigned byte, is 128 or more, because as a signed byte it is 256 less.
            rest = (rest + 128) >> 8;
        }
    }
    digits.map(i32::from_le_bytes)
}

/// Four taps of each column of a block.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct TapGroup {
    /// For each lane, the byte indices of its four values in the window.
    order: [u32; 16],
    /// For each lane, the digits of its weights.
    digits: [[i32; 16]; 3],
    /// Byte offset of the window in the row; the window is within the row.
    offset: usize,
}

/// Neighbouring output columns that are computed together.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Byte offset in the output row.
    offset: usize,
    /// A bit for each byte of the block.
    mask: u16,
    /// Number of groups in [`Scratch::taps`].
    taps: usize,
}

/// Scratch memory, reused between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Bytes in a source row, and columns in an output row.
    width: usize,
    columns: usize,
    /// Whether there may be negative weights.
    is_signed: bool,
    taps: Vec<TapGroup>,
    blocks: Vec<Block>,
    /// The digits of the vertical weights, for four rows at a time.
    digits: Vec<[i32; 3]>,
}

impl Scratch {
    /// Divides output columns into blocks, for rows of `width` bytes.
    fn plan(&mut self, x: &AxisWeights, flip: bool, width: usize) {
        (self.width, self.columns) = (width, x.len());
        self.is_signed = x.is_signed();
        self.taps.clear();
        self.blocks.clear();
        let last = x.len() - 1;
        let mut index = 0;
        while index < x.len() {
            let mut columns: [(usize, &[i32]); COLUMNS] = [(0, &[]); COLUMNS];
            let mut range = (usize::MAX, 0);
            let mut count = 0;
            while count < COLUMNS && index + count <= last {
                let column = index + count;
                let (first, weights) = x.weights(if flip { last - column } else { column });
                range = (range.0.min(first), range.1.max(first));
                if range.1 + 4 - range.0 > WINDOW && count > 0 {
                    break;
                }
                columns[count] = (first, weights);
                count += 1;
            }
            let columns = &columns[..count];
            let start = columns.iter().map(|(first, _)| *first).min().unwrap_or(0);
            let longest = columns.iter().map(|(_, c)| c.len()).max().unwrap_or(0);
            let taps = longest.div_ceil(4);
            self.blocks.push(Block {
                offset: index * 3,
                mask: ((1u32 << (count * 3)) - 1) as u16,
                taps,
            });
            for tap in 0..taps {
                self.taps.push(TapGroup::new(columns, start, tap, width));
            }
            index += count;
        }
    }
}

impl TapGroup {
    /// Loads the window of a row.
    ///
    /// # Safety
    /// The row must have the `width` for which the group was made.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn window(&self, row: *const u8) -> __m512i {
        // SAFETY: the offset is at most `width - 64`.
        unsafe { _mm512_loadu_si512(row.add(self.offset).cast()) }
    }

    /// The `tap`-th four taps of `columns`, whose taps start at pixel `start` or later.
    #[inline]
    fn new(columns: &[(usize, &[i32])], start: usize, tap: usize, width: usize) -> Self {
        let start = (start + tap * 4) * 3;
        let offset = start.min(width - VECTOR_BYTES);
        let mut new = Self {
            order: [0; 16],
            digits: [[0; 16]; 3],
            offset,
        };
        for (index, (first, weights)) in columns.iter().enumerate() {
            let Some(weights) = weights.get(tap * 4..) else {
                continue;
            };
            let digits = digits(&weights[..weights.len().min(4)]);
            for channel in 0..3 {
                let lane = index * 3 + channel;
                // The index of the first value in all four bytes, plus 3 for each further pixel.
                let place = ((first + tap * 4) * 3 + channel - offset) as u32;
                new.order[lane] = place * 0x0101_0101 + 0x0906_0300;
                for (all, digit) in new.digits.iter_mut().zip(digits) {
                    all[lane] = digit;
                }
            }
        }
        new
    }
}

/// Resizes `R` rows in width.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn horizontal<const R: usize>(from: Rows<'_>, scratch: &Scratch, to: &mut [u8]) {
    assert!(from.height == R && from.width == scratch.width);
    assert!(to.len() == scratch.columns * 3 * R);
    let mut rows = [from.row(0).as_ptr(); R];
    for (index, row) in rows.iter_mut().enumerate() {
        *row = from.row(index).as_ptr();
    }
    let mut outs = [to.as_mut_ptr(); R];
    for (index, out) in outs.iter_mut().enumerate() {
        *out = to[index * scratch.columns * 3..].as_mut_ptr();
    }
    let mut rest = &scratch.taps[..];
    for block in &scratch.blocks {
        let (taps, behind) = rest.split_at(block.taps);
        rest = behind;
        // SAFETY: the rows have the width for which the taps were made.
        let sums = unsafe {
            match taps {
                [one] => columns(rows, std::array::from_ref(one)),
                [one, two] => columns(rows, &[*one, *two]),
                _ => many_columns(rows, taps),
            }
        };
        for (out, sum) in outs.iter().zip(sums) {
            let mut level = _mm512_srai_epi32::<PRECISION_BITS>(sum);
            if scratch.is_signed {
                level = _mm512_max_epi32(level, _mm512_setzero_si512());
            }
            let bytes = _mm512_cvtusepi32_epi8(level);
            // SAFETY: the blocks were made for output rows of this length.
            unsafe {
                let out = out.add(block.offset);
                if block.offset + 16 <= scratch.columns * 3 {
                    // The next block overwrites the bytes after this one.
                    _mm_storeu_si128(out.cast(), bytes);
                } else {
                    _mm_mask_storeu_epi8(out.cast(), block.mask, bytes);
                }
            }
        }
    }
}

/// The sums of a block with few taps, in `R` rows. Horner's scheme: adds the highest digits first and
/// shifts between digits.
///
/// # Safety
/// The rows must have the width for which the taps were made.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
#[inline]
unsafe fn columns<const R: usize, const T: usize>(
    rows: [*const u8; R],
    taps: &[TapGroup; T],
) -> [__m512i; R] {
    let mut values = [[_mm512_setzero_si512(); R]; T];
    for (values, tap) in values.iter_mut().zip(taps) {
        let order = load(&tap.order);
        for (values, row) in values.iter_mut().zip(rows) {
            // SAFETY: the caller's.
            *values = _mm512_permutexvar_epi8(order, unsafe { tap.window(row) });
        }
    }
    let mut sums = [_mm512_set1_epi32(ROUNDING >> 16); R];
    for digit in [2, 1, 0] {
        for (values, tap) in values.iter().zip(taps) {
            let digits = load(&tap.digits[digit]);
            for (sum, values) in sums.iter_mut().zip(values) {
                *sum = _mm512_dpbusd_epi32(*sum, *values, digits);
            }
        }
        if digit > 0 {
            for sum in &mut sums {
                *sum = _mm512_slli_epi32::<8>(*sum);
            }
        }
    }
    sums
}

/// As [`columns`] for any number of taps, with a separate sum for each digit.
///
/// # Safety
/// The rows must have the width for which the taps were made.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
#[inline]
unsafe fn many_columns<const R: usize>(rows: [*const u8; R], taps: &[TapGroup]) -> [__m512i; R] {
    let mut sums = [[_mm512_setzero_si512(); 3]; R];
    for tap in taps {
        let order = load(&tap.order);
        let digits = [
            load(&tap.digits[0]),
            load(&tap.digits[1]),
            load(&tap.digits[2]),
        ];
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: the caller's.
            let values = _mm512_permutexvar_epi8(order, unsafe { tap.window(row) });
            for (sum, digits) in sums.iter_mut().zip(digits) {
                *sum = _mm512_dpbusd_epi32(*sum, values, digits);
            }
        }
    }
    let mut all = [_mm512_setzero_si512(); R];
    for (all, sums) in all.iter_mut().zip(sums) {
        *all = combine(sums);
    }
    all
}

/// `high * 2^16 + middle * 2^8 + low + ROUNDING`.
#[target_feature(enable = "avx512f")]
#[inline]
fn combine([low, middle, high]: [__m512i; 3]) -> __m512i {
    let high = _mm512_add_epi32(high, _mm512_set1_epi32(ROUNDING >> 16));
    let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
    _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), low)
}

/// Computes one output row from all rows of `from`; `digits` are those of their weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn vertical(from: Rows<'_>, digits: &[[i32; 3]], to: &mut [u8]) {
    match digits {
        [one] => few_rows(from, &[*one], to),
        [one, two] => few_rows(from, &[*one, *two], to),
        _ => many_rows(from, digits, to),
    }
}

/// [`vertical`] for few rows, by Horner's scheme as in [`columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn few_rows<const T: usize>(from: Rows<'_>, digits: &[[i32; 3]; T], to: &mut [u8]) {
    assert!(from.width == to.len());
    let mut rows = [[from.row(0).as_ptr(); 4]; T];
    for (index, rows) in rows.iter_mut().enumerate() {
        *rows = pointers(from, index * 4);
    }
    let mut broadcast = [[_mm512_setzero_si512(); 3]; T];
    for (broadcast, digits) in broadcast.iter_mut().zip(digits) {
        for (broadcast, digit) in broadcast.iter_mut().zip(digits) {
            *broadcast = _mm512_set1_epi32(*digit);
        }
    }
    for at in (0..to.len()).step_by(VECTOR_BYTES) {
        // The last vector may begin within the one before.
        let at = at.min(to.len() - VECTOR_BYTES);
        let mut values = [[_mm512_setzero_si512(); 4]; T];
        for (values, rows) in values.iter_mut().zip(rows) {
            // SAFETY: `at` is at most `width - 64`.
            *values = unsafe { interleaved(rows, at) };
        }
        let mut sums = [_mm512_set1_epi32(ROUNDING >> 16); 4];
        for digit in [2, 1, 0] {
            for (values, digits) in values.iter().zip(&broadcast) {
                for (sum, values) in sums.iter_mut().zip(values) {
                    *sum = _mm512_dpbusd_epi32(*sum, *values, digits[digit]);
                }
            }
            if digit > 0 {
                for sum in &mut sums {
                    *sum = _mm512_slli_epi32::<8>(*sum);
                }
            }
        }
        store(sums, &mut to[at..]);
    }
}

/// [`vertical`] for any number of rows, with a separate sum for each digit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn many_rows(from: Rows<'_>, digits: &[[i32; 3]], to: &mut [u8]) {
    assert!(from.width == to.len());
    for at in (0..to.len()).step_by(VECTOR_BYTES) {
        // The last vector may begin within the one before.
        let at = at.min(to.len() - VECTOR_BYTES);
        let mut sums = [[_mm512_setzero_si512(); 3]; 4];
        for (index, digits) in digits.iter().enumerate() {
            // SAFETY: `at` is at most `width - 64`.
            let values = unsafe { interleaved(pointers(from, index * 4), at) };
            for (sums, values) in sums.iter_mut().zip(values) {
                for (sum, digit) in sums.iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, values, _mm512_set1_epi32(*digit));
                }
            }
        }
        let mut all = [_mm512_setzero_si512(); 4];
        for (all, sums) in all.iter_mut().zip(sums) {
            *all = combine(sums);
        }
        store(all, &mut to[at..]);
    }
}

/// Four rows from `index` on. Rows past the end are replaced by the last one; their digits are 0.
#[inline]
fn pointers(from: Rows<'_>, index: usize) -> [*const u8; 4] {
    let row = |row: usize| from.row(row.min(from.height - 1)).as_ptr();
    [row(index), row(index + 1), row(index + 2), row(index + 3)]
}

/// Interleaves 64 bytes of four rows: each lane holds one column, in an order that [`store`] undoes.
///
/// # Safety
/// The rows must have at least `at + 64` bytes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn interleaved(rows: [*const u8; 4], at: usize) -> [__m512i; 4] {
    let mut vectors = [_mm512_setzero_si512(); 4];
    for (vector, row) in vectors.iter_mut().zip(rows) {
        // SAFETY: the caller's.
        *vector = unsafe { _mm512_loadu_si512(row.add(at).cast()) };
    }
    let [a, b, c, d] = vectors;
    let ab = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
    let cd = [_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)];
    [
        _mm512_unpacklo_epi16(ab[0], cd[0]),
        _mm512_unpackhi_epi16(ab[0], cd[0]),
        _mm512_unpacklo_epi16(ab[1], cd[1]),
        _mm512_unpackhi_epi16(ab[1], cd[1]),
    ]
}

/// Rounds and writes the values of 64 columns.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn store(sums: [__m512i; 4], to: &mut [u8]) {
    assert!(to.len() >= VECTOR_BYTES);
    let [a, b, c, d] = sums;
    let ab = _mm512_packus_epi32(
        _mm512_srai_epi32::<PRECISION_BITS>(a),
        _mm512_srai_epi32::<PRECISION_BITS>(b),
    );
    let cd = _mm512_packus_epi32(
        _mm512_srai_epi32::<PRECISION_BITS>(c),
        _mm512_srai_epi32::<PRECISION_BITS>(d),
    );
    // SAFETY: `to` has at least 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_packus_epi16(ab, cd)) };
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<T>(lanes: &[T; 16]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array has 64 bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
