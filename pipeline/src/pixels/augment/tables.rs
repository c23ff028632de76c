//! Changes of each level by a table for each channel.

use super::source::Source;
use crate::pixels::resize::vectorized;

/// What each level becomes.
pub(super) type Table = [u8; 256];

/// Replaces the levels of red, green and blue by their tables.
pub(super) fn map(from: Source<'_>, tables: &[Table; 3], to: &mut [u8]) {
    vectorized!(look_up(from: Source<'_>, tables: &[Table; 3], to: &mut [u8]), avx512: avx512::look_up);
}

#[inline(always)]
fn look_up(from: Source<'_>, [red, green, blue]: &[Table; 3], to: &mut [u8]) {
    let (to, _) = to.as_chunks_mut::<3>();
    for (from, to) in from.rows().zip(to.chunks_exact_mut(from.width)) {
        for ([r, g, b], to) in from.iter().zip(to) {
            *to = [
                red[usize::from(*r)],
                green[usize::from(*g)],
                blue[usize::from(*b)],
            ];
        }
    }
}

/// The same with VBMI's byte permutations, which look 64 levels up in 128 entries at once.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Source, Table};

    /// Bytes that are computed together: whole pixels, and whole vectors.
    const BLOCK: usize = 192;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    pub fn look_up(from: Source<'_>, tables: &[Table; 3], to: &mut [u8]) {
        let mut vectors = [[_mm512_setzero_si512(); 4]; 3];
        for (vectors, table) in vectors.iter_mut().zip(tables) {
            for (vector, part) in vectors.iter_mut().zip(table.as_chunks().0) {
                *vector = load(part);
            }
        }
        for (from, to) in from.rows().zip(to.chunks_exact_mut(from.width * 3)) {
            let (blocks, rest) = from.as_flattened().as_chunks::<BLOCK>();
            let (to, end) = to.as_chunks_mut::<BLOCK>();
            for (from, to) in blocks.iter().zip(to) {
                look_block_up(from, &vectors, to);
            }
            let mut block = [0; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            let mut changed = [0; BLOCK];
            look_block_up(&block, &vectors, &mut changed);
            end.copy_from_slice(&changed[..rest.len()]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn look_block_up(from: &[u8; BLOCK], tables: &[[__m512i; 4]; 3], to: &mut [u8; BLOCK]) {
        // The bytes of green and blue in each of three vectors.
        const GREEN: [u64; 3] = [every_third(1), every_third(0), every_third(2)];
        const BLUE: [u64; 3] = [every_third(2), every_third(1), every_third(0)];
        let vectors = from.as_chunks().0.iter().zip(to.as_chunks_mut().0);
        for (number, (from, to)) in vectors.enumerate() {
            let levels = load(from);
            let is_upper = _mm512_movepi8_mask(levels);
            let mut channels = [_mm512_setzero_si512(); 3];
            for (channel, [a, b, c, d]) in channels.iter_mut().zip(tables) {
                let lower = _mm512_permutex2var_epi8(*a, levels, *b);
                let upper = _mm512_permutex2var_epi8(*c, levels, *d);
                *channel = _mm512_mask_blend_epi8(is_upper, lower, upper);
            }
            let [red, green, blue] = channels;
            let both = _mm512_mask_blend_epi8(GREEN[number], red, green);
            store(_mm512_mask_blend_epi8(BLUE[number], both, blue), to);
        }
    }

    /// The bits from `first` on, in steps of three.
    const fn every_third(first: u32) -> u64 {
        0x9249_2492_4924_9249 << first
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = i64::from_le_bytes(*bytes);
        }
        let [a, b, c, d, e, f, g, h] = words;
        _mm512_setr_epi64(a, b, c, d, e, f, g, h)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn store(vector: __m512i, bytes: &mut [u8; 64]) {
        let quarters = [
            _mm512_extracti64x2_epi64::<0>(vector),
            _mm512_extracti64x2_epi64::<1>(vector),
            _mm512_extracti64x2_epi64::<2>(vector),
            _mm512_extracti64x2_epi64::<3>(vector),
        ];
        for (quarter, bytes) in quarters.into_iter().zip(bytes.as_chunks_mut::<16>().0) {
            let words = [_mm_cvtsi128_si64(quarter), _mm_extract_epi64::<1>(quarter)];
            bytes[..8].copy_from_slice(&words[0].to_le_bytes());
            bytes[8..].copy_from_slice(&words[1].to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_table() {
        let tables: [Table; 3] = std::array::from_fn(|channel| {
            std::array::from_fn(|level| (level * (2 * channel + 3) + channel) as u8)
        });
        // Rows of more than a block, of less, and with a stride.
        for width in 1..140 {
            let pixels: Vec<[u8; 3]> = (0..3 * width + 7_u32)
                .map(|pixel| [pixel as u8, (pixel * 7) as u8, (pixel * 31) as u8])
                .collect();
            let from = Source {
                pixels: &pixels,
                width: width as usize,
                height: 3,
                stride: width as usize + 2,
            };
            let mut expected = Vec::new();
            for row in from.rows() {
                for pixel in row {
                    let level = |channel: usize| tables[channel][usize::from(pixel[channel])];
                    expected.extend([level(0), level(1), level(2)]);
                }
            }
            let mut found = vec![0; expected.len()];
            map(from, &tables, &mut found);
            assert_eq!(found, expected, "{width}");
            found.fill(0);
            look_up(from, &tables, &mut found);
            assert_eq!(found, expected, "{width}");
        }
    }
}
