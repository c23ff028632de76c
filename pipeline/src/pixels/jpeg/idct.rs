//! Dequantization and inverse DCT: the algorithm of Loeffler, Ligtenberg and Moschytz (1989) in 13-bit
//! fixed point, with the rounding of libjpeg's `jpeg_idct_islow`. Every sample equals libjpeg's, and so
//! Pillow's.

use super::tables::QuantTable;

/// The constants of the transform in units of 1 / 8192, named by value (libjpeg's `FIX_...`).
mod constant {
    pub const C0_298: i32 = 2446;
    pub const C0_390: i32 = 3196;
    pub const C0_541: i32 = 4433;
    pub const C0_765: i32 = 6270;
    pub const C0_899: i32 = 7373;
    pub const C1_175: i32 = 9633;
    pub const C1_501: i32 = 12299;
    pub const C1_847: i32 = 15137;
    pub const C1_961: i32 = 16069;
    pub const C2_053: i32 = 16819;
    pub const C2_562: i32 = 20995;
    pub const C3_072: i32 = 25172;
}

/// Fraction bits of the constants.
const CONST_BITS: i32 = 13;
/// Fraction bits that are kept between the column pass and the row pass.
const PASS1_BITS: i32 = 2;
/// Right shifts after the column pass, and after the row pass (the transform is scaled by 8).
const PASS1_SHIFT: i32 = CONST_BITS - PASS1_BITS;
const PASS2_SHIFT: i32 = CONST_BITS + PASS1_BITS + 3;

/// Dequantizes and transforms a block of coefficients to 8x8 samples, in row-major order.
pub(super) fn idct(block: &[i16; 64], QuantTable(quant): &QuantTable) -> [u8; 64] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::idct(block, quant) };
    }
    plain(block, quant)
}

/// The value of all samples of a block whose AC coefficients are zero.
pub(super) fn idct_dc_only(dc: i16, QuantTable([quant, ..]): &QuantTable) -> u8 {
    let dc = i32::from(dc.wrapping_mul(*quant as i16));
    (((dc + 4) >> 3) + 128).clamp(0, 255) as u8
}

fn plain(block: &[i16; 64], quant: &[u16; 64]) -> [u8; 64] {
    let mut lines = [[0_i32; 8]; 8];
    for column in 0..8 {
        let column_values = std::array::from_fn(|row| {
            let place = row * 8 + column;
            // The low 16 bits of the product, as in libjpeg's SIMD code. Only damaged data
            // exceeds them.
            i32::from(block[place].wrapping_mul(quant[place] as i16))
        });
        let done = idct_1d(column_values, PASS1_SHIFT, 0);
        for (line, value) in lines.iter_mut().zip(done) {
            line[column] = value;
        }
    }
    let mut out = [0; 64];
    for (out, row) in out.as_chunks_mut::<8>().0.iter_mut().zip(lines) {
        *out = idct_1d(row, PASS2_SHIFT, 128).map(|value| value.clamp(0, 255) as u8);
    }
    out
}

/// The transform of a column or row. `level_shift` is added to every output.
fn idct_1d(c: [i32; 8], shift: i32, level_shift: i32) -> [i32; 8] {
    use constant::*;
    // Only damaged data overflows, and then the values do not matter.
    let mul = i32::wrapping_mul;
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;

    let both = mul(add(c[2], c[6]), C0_541);
    let low = sub(both, mul(c[6], C1_847));
    let high = add(both, mul(c[2], C0_765));
    let rounding = add(1 << (shift - 1), mul(level_shift, 1 << shift));
    let sum = add(mul(add(c[0], c[4]), 1 << CONST_BITS), rounding);
    let difference = add(mul(sub(c[0], c[4]), 1 << CONST_BITS), rounding);
    let even = [
        add(sum, high),
        add(difference, low),
        sub(difference, low),
        sub(sum, high),
    ];

    let z1 = mul(add(c[7], c[1]), -C0_899);
    let z2 = mul(add(c[5], c[3]), -C2_562);
    let (z3, z4) = (add(c[7], c[3]), add(c[5], c[1]));
    let z5 = mul(add(z3, z4), C1_175);
    let z3 = add(mul(z3, -C1_961), z5);
    let z4 = add(mul(z4, -C0_390), z5);
    let odd = [
        add(mul(c[1], C1_501), add(z1, z4)),
        add(mul(c[3], C3_072), add(z2, z3)),
        add(mul(c[5], C2_053), add(z2, z4)),
        add(mul(c[7], C0_298), add(z1, z3)),
    ];
    std::array::from_fn(|i| match i {
        0..4 => add(even[i], odd[i]) >> shift,
        _ => sub(even[7 - i], odd[7 - i]) >> shift,
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The same transform for eight columns, then eight rows, at a time.

    use std::arch::x86_64::*;

    use super::{CONST_BITS, PASS1_SHIFT, PASS2_SHIFT, constant::*};

    #[target_feature(enable = "avx2")]
    pub(super) fn idct(block: &[i16; 64], quant: &[u16; 64]) -> [u8; 64] {
        let rows = std::array::from_fn(|row| {
            // SAFETY: the eight 16-bit values from `row * 8` are within the 64 of each array.
            let (stored, quant) = unsafe {
                let quant = quant.as_ptr().add(row * 8).cast();
                let stored = block.as_ptr().add(row * 8).cast();
                (_mm_loadu_si128(stored), _mm_loadu_si128(quant))
            };
            _mm256_cvtepi16_epi32(_mm_mullo_epi16(stored, quant))
        });
        let columns = transpose(idct_1d_x8::<PASS1_SHIFT>(rows, 0));
        let rows = transpose(idct_1d_x8::<PASS2_SHIFT>(columns, 128));
        let mut out = [0; 64];
        for (half, four) in rows.as_chunks::<4>().0.iter().enumerate() {
            // Packing works within 128-bit halves: the permutation restores the order of the rows.
            let words = (
                _mm256_packs_epi32(four[0], four[1]),
                _mm256_packs_epi32(four[2], four[3]),
            );
            let bytes = _mm256_packus_epi16(words.0, words.1);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            // SAFETY: the 32 bytes from `half * 32` are within the 64.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(half * 32).cast(), bytes) };
        }
        out
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn idct_1d_x8<const SHIFT: i32>(c: [__m256i; 8], level_shift: i32) -> [__m256i; 8] {
        let mul = |a, constant| _mm256_mullo_epi32(a, _mm256_set1_epi32(constant));
        let add = |a, b| _mm256_add_epi32(a, b);
        let sub = |a, b| _mm256_sub_epi32(a, b);

        let both = mul(add(c[2], c[6]), C0_541);
        let low = sub(both, mul(c[6], C1_847));
        let high = add(both, mul(c[2], C0_765));
        let rounding = _mm256_set1_epi32((1 << (SHIFT - 1)) + (level_shift << SHIFT));
        let sum = add(_mm256_slli_epi32(add(c[0], c[4]), CONST_BITS), rounding);
        let difference = add(_mm256_slli_epi32(sub(c[0], c[4]), CONST_BITS), rounding);
        let even = [
            add(sum, high),
            add(difference, low),
            sub(difference, low),
            sub(sum, high),
        ];

        let z1 = mul(add(c[7], c[1]), -C0_899);
        let z2 = mul(add(c[5], c[3]), -C2_562);
        let (z3, z4) = (add(c[7], c[3]), add(c[5], c[1]));
        let z5 = mul(add(z3, z4), C1_175);
        let z3 = add(mul(z3, -C1_961), z5);
        let z4 = add(mul(z4, -C0_390), z5);
        let odd = [
            add(mul(c[1], C1_501), add(z1, z4)),
            add(mul(c[3], C3_072), add(z2, z3)),
            add(mul(c[5], C2_053), add(z2, z4)),
            add(mul(c[7], C0_298), add(z1, z3)),
        ];
        std::array::from_fn(|i| {
            _mm256_srai_epi32(
                match i {
                    0..4 => add(even[i], odd[i]),
                    _ => sub(even[7 - i], odd[7 - i]),
                },
                SHIFT,
            )
        })
    }

    /// Transposes a matrix of 8x8 values.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
        let pairs: [__m256i; 8] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            match i % 2 {
                0 => _mm256_unpacklo_epi32(a, b),
                _ => _mm256_unpackhi_epi32(a, b),
            }
        });
        // For each four rows, one column in each 128-bit half.
        let fours: [__m256i; 8] = std::array::from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            let (a, b) = (pairs[first], pairs[first + 2]);
            match i % 2 {
                0 => _mm256_unpacklo_epi64(a, b),
                _ => _mm256_unpackhi_epi64(a, b),
            }
        });
        std::array::from_fn(|i| {
            let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
            match i / 4 {
                0 => _mm256_permute2x128_si256::<0x20>(a, b),
                _ => _mm256_permute2x128_si256::<0x31>(a, b),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    /// Typical coefficients: fewer and smaller towards the high frequencies.
    fn block(random: &mut Xoshiro256PlusPlus) -> [i16; 64] {
        std::array::from_fn(|i| {
            let i = i % 64;
            let frequency = i16::try_from(i / 8 + i % 8).unwrap();
            let largest = 1000 / (1 + frequency * frequency);
            if random.random_bool(0.5) {
                0
            } else {
                random.random_range(-largest..=largest)
            }
        })
    }

    #[test]
    fn the_vectorized_transform_equals_the_plain_one() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..2000 {
            let block = block(&mut random);
            let quant = std::array::from_fn(|_| random.random_range(1..4));
            let expected = plain(&block, &quant);
            let quant = QuantTable(quant);
            assert_eq!(idct(&block, &quant), expected, "{block:?}");
            let mut dc = [0; 64];
            dc[0] = block[0];
            assert_eq!(idct(&dc, &quant), [idct_dc_only(dc[0], &quant); 64]);
        }
    }

    #[test]
    fn the_transform_is_close_to_an_inverse_dct_in_f64() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let scale = |k: usize| if k == 0 { 0.5_f64.sqrt() } else { 1.0 };
        let wave = |k: usize, at: usize| {
            scale(k) * ((2 * at + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos()
        };
        for _ in 0..50 {
            let block = block(&mut random);
            for (i, found) in plain(&block, &[1; 64]).into_iter().enumerate() {
                let (y, x) = (i / 8, i % 8);
                let sum: f64 = (0..64)
                    .map(|k| f64::from(block[k]) * wave(k / 8, y) * wave(k % 8, x))
                    .sum();
                let exact = (sum / 4.0 + 128.0).clamp(0.0, 255.0);
                assert!((f64::from(found) - exact).abs() < 0.7, "{found} {exact}");
            }
        }
    }
}
