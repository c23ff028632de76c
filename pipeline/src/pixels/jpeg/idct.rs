//! From a block's coefficients to its samples: the inverse cosine transform of Loeffler, Ligtenberg
//! and Moschytz (1989) in 13-bit fixed point, as libjpeg's "slow integer" method rounds it, so that
//! every sample is the one that libjpeg, and with it Pillow, gives.

use super::huffman::Block;
use super::tables::Divisors;

/// What the transform multiplies by, in units of 1 / 8192, named by the value.
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

/// Bits of fraction of the constants.
const FRACTION: i32 = 13;
/// Bits of fraction that are kept between the columns and the rows.
const KEPT: i32 = 2;
/// Bits to drop after the columns, and after the rows (the transform is too large by 8).
const AFTER_COLUMNS: i32 = FRACTION - KEPT;
const AFTER_ROWS: i32 = FRACTION + KEPT + 3;

/// The samples `[8, 8]` of a block of coefficients `[8, 8]` (still divided), all row by row.
pub(super) fn samples(Block(block): &Block, Divisors(divisors): &Divisors) -> [u8; 64] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::samples(block, divisors) };
    }
    plain(block, divisors)
}

/// The one value of all samples of a block that has nothing but a mean.
pub(super) fn flat(Block([mean, ..]): &Block, Divisors([divisor, ..]): &Divisors) -> u8 {
    let mean = i32::from(mean.wrapping_mul(*divisor as i16));
    (((mean + 4) >> 3) + 128).clamp(0, 255) as u8
}

fn plain(block: &[i16; 128], divisors: &[u16; 64]) -> [u8; 64] {
    let mut lines = [[0_i32; 8]; 8];
    for column in 0..8 {
        let of_column = std::array::from_fn(|row| {
            let place = row * 8 + column;
            // As libjpeg's vector code multiplies: the low 16 bits. Only damage exceeds them.
            i32::from(block[place].wrapping_mul(divisors[place] as i16))
        });
        let done = line(of_column, AFTER_COLUMNS, 0);
        for (line, value) in lines.iter_mut().zip(done) {
            line[column] = value;
        }
    }
    let mut out = [0; 64];
    for (out, of_row) in out.as_chunks_mut::<8>().0.iter_mut().zip(lines) {
        *out = line(of_row, AFTER_ROWS, 128).map(|value| value.clamp(0, 255) as u8);
    }
    out
}

/// One column or row. `grey` is added to all.
fn line(c: [i32; 8], drop: i32, grey: i32) -> [i32; 8] {
    use constant::*;
    // Values that overflow come from damage only; what they become does not matter.
    let mul = i32::wrapping_mul;
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;

    let both = mul(add(c[2], c[6]), C0_541);
    let low = sub(both, mul(c[6], C1_847));
    let high = add(both, mul(c[2], C0_765));
    let rounding = add(1 << (drop - 1), mul(grey, 1 << drop));
    let sum = add(mul(add(c[0], c[4]), 1 << FRACTION), rounding);
    let difference = add(mul(sub(c[0], c[4]), 1 << FRACTION), rounding);
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
        0..4 => add(even[i], odd[i]) >> drop,
        _ => sub(even[7 - i], odd[7 - i]) >> drop,
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The same for eight columns, then eight rows, at once.

    use std::arch::x86_64::*;

    use super::{AFTER_COLUMNS, AFTER_ROWS, FRACTION, constant::*};

    #[target_feature(enable = "avx2")]
    pub(super) fn samples(block: &[i16; 128], divisors: &[u16; 64]) -> [u8; 64] {
        let rows = std::array::from_fn(|row| {
            // SAFETY: eight 16-bit numbers from `row * 8` lie within the 64 of either.
            let (stored, divisors) = unsafe {
                let divisors = divisors.as_ptr().add(row * 8).cast();
                let stored = block.as_ptr().add(row * 8).cast();
                (_mm_loadu_si128(stored), _mm_loadu_si128(divisors))
            };
            _mm256_cvtepi16_epi32(_mm_mullo_epi16(stored, divisors))
        });
        let columns = transpose(lines::<AFTER_COLUMNS>(rows, 0));
        let rows = transpose(lines::<AFTER_ROWS>(columns, 128));
        let mut out = [0; 64];
        for (half, four) in rows.as_chunks::<4>().0.iter().enumerate() {
            // Packing works within halves of a register: put the halves of each row together again.
            let words = (
                _mm256_packs_epi32(four[0], four[1]),
                _mm256_packs_epi32(four[2], four[3]),
            );
            let bytes = _mm256_packus_epi16(words.0, words.1);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            // SAFETY: 32 bytes from `half * 32` lie within the 64.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(half * 32).cast(), bytes) };
        }
        out
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn lines<const DROP: i32>(c: [__m256i; 8], grey: i32) -> [__m256i; 8] {
        let by = |a, constant| _mm256_mullo_epi32(a, _mm256_set1_epi32(constant));
        let add = |a, b| _mm256_add_epi32(a, b);
        let sub = |a, b| _mm256_sub_epi32(a, b);

        let both = by(add(c[2], c[6]), C0_541);
        let low = sub(both, by(c[6], C1_847));
        let high = add(both, by(c[2], C0_765));
        let rounding = _mm256_set1_epi32((1 << (DROP - 1)) + (grey << DROP));
        let sum = add(_mm256_slli_epi32(add(c[0], c[4]), FRACTION), rounding);
        let difference = add(_mm256_slli_epi32(sub(c[0], c[4]), FRACTION), rounding);
        let even = [
            add(sum, high),
            add(difference, low),
            sub(difference, low),
            sub(sum, high),
        ];

        let z1 = by(add(c[7], c[1]), -C0_899);
        let z2 = by(add(c[5], c[3]), -C2_562);
        let (z3, z4) = (add(c[7], c[3]), add(c[5], c[1]));
        let z5 = by(add(z3, z4), C1_175);
        let z3 = add(by(z3, -C1_961), z5);
        let z4 = add(by(z4, -C0_390), z5);
        let odd = [
            add(by(c[1], C1_501), add(z1, z4)),
            add(by(c[3], C3_072), add(z2, z3)),
            add(by(c[5], C2_053), add(z2, z4)),
            add(by(c[7], C0_298), add(z1, z3)),
        ];
        std::array::from_fn(|i| {
            _mm256_srai_epi32(
                match i {
                    0..4 => add(even[i], odd[i]),
                    _ => sub(even[7 - i], odd[7 - i]),
                },
                DROP,
            )
        })
    }

    /// Eight rows of eight become eight columns.
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
        // Of each four rows, a column in each half of a register.
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

    /// Coefficients such as images have: fewer and smaller towards the high frequencies.
    fn block(random: &mut Xoshiro256PlusPlus) -> [i16; 128] {
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
    fn vectors_give_what_plain_arithmetic_gives() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..2000 {
            let block = block(&mut random);
            let divisors = std::array::from_fn(|_| random.random_range(1..4));
            let expected = plain(&block, &divisors);
            let divisors = Divisors(divisors);
            assert_eq!(samples(&Block(block), &divisors), expected, "{block:?}");
            let mut mean = Block::ZERO;
            mean.0[0] = block[0];
            assert_eq!(samples(&mean, &divisors), [flat(&mean, &divisors); 64]);
        }
    }

    #[test]
    fn samples_are_those_of_the_cosine_transform() {
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
