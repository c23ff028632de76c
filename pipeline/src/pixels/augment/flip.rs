//! Mirrored images.

use super::source::Source;
use crate::pixels::resize::vectorized;

/// Pixels that are reversed together: a whole number of vectors.
const BLOCK: usize = 16;

pub(super) fn horizontal(from: Source<'_>, to: &mut [u8]) {
    let to = to.as_chunks_mut().0;
    vectorized!(reverse_rows(from: Source<'_>, to: &mut [[u8; 3]]));
}

#[inline(always)]
fn reverse_rows(from: Source<'_>, to: &mut [[u8; 3]]) {
    for (from, to) in from.rows().zip(to.chunks_exact_mut(from.width)) {
        let (rest, blocks) = from.as_rchunks::<BLOCK>();
        let (to, end) = to.split_at_mut(blocks.len() * BLOCK);
        let to = to.as_chunks_mut::<BLOCK>().0;
        for (from, to) in blocks.iter().rev().zip(to) {
            for at in 0..BLOCK {
                to[at] = from[BLOCK - 1 - at];
            }
        }
        for (from, to) in rest.iter().rev().zip(end) {
            *to = *from;
        }
    }
}

pub(super) fn vertical(from: Source<'_>, to: &mut [u8]) {
    for (from, to) in from.rows().rev().zip(to.chunks_exact_mut(from.width * 3)) {
        to.copy_from_slice(from.as_flattened());
    }
}
