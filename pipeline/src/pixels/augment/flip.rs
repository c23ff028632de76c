//! Mirrored images.

use super::source::Source;
use crate::pixels::resize::vectorized;

pub(super) fn horizontal(from: Source<'_>, to: &mut [u8]) {
    vectorized!(reverse_rows(from: Source<'_>, to: &mut [u8]));
}

/// Bytes that are one shuffle: whole pixels, and a rest that the next shuffle overwrites.
const BLOCK: usize = 32;
const PIXELS: usize = BLOCK / 3;

/// Which byte goes where, if the pixels are at the end of a block and are to go to its start.
const ORDER: [usize; BLOCK] = {
    let mut order = [0; BLOCK];
    let mut byte = 0;
    while byte < BLOCK {
        order[byte] = match byte < PIXELS * 3 {
            true => BLOCK - PIXELS * 3 + (PIXELS - 1 - byte / 3) * 3 + byte % 3,
            false => byte - PIXELS * 3,
        };
        byte += 1;
    }
    order
};

#[inline(always)]
fn reverse_rows(from: Source<'_>, to: &mut [u8]) {
    for (from, to) in from.rows().zip(to.chunks_exact_mut(from.width * 3)) {
        let mut from = from.as_flattened();
        let mut at = 0;
        while let Some(block) = from.last_chunk::<BLOCK>() {
            let reversed: [u8; BLOCK] = std::array::from_fn(|byte| block[ORDER[byte]]);
            to[at..at + BLOCK].copy_from_slice(&reversed);
            at += PIXELS * 3;
            from = &from[..from.len() - PIXELS * 3];
        }
        let rest = from.as_chunks::<3>().0.iter().rev();
        for (from, to) in rest.zip(to[at..].as_chunks_mut().0) {
            *to = *from;
        }
    }
}

pub(super) fn vertical(from: Source<'_>, to: &mut [u8]) {
    for (from, to) in from.rows().rev().zip(to.chunks_exact_mut(from.width * 3)) {
        to.copy_from_slice(from.as_flattened());
    }
}
