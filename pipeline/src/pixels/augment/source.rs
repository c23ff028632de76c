//! Where an operation reads from.

/// RGB pixels of an image, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// From the first pixel of the image on. The last row may end before its stride does.
    pub pixels: &'a [[u8; 3]],
    pub width: usize,
    pub height: usize,
    /// Pixels from the start of a row to that of the next one.
    pub stride: usize,
}

impl<'a> Source<'a> {
    #[inline(always)]
    pub fn row(self, y: usize) -> &'a [[u8; 3]] {
        &self.pixels[y * self.stride..][..self.width]
    }

    /// From the upper one to the lowest.
    #[inline(always)]
    pub fn rows(self) -> impl DoubleEndedIterator<Item = &'a [[u8; 3]]> {
        (0..self.height).map(move |y| self.row(y))
    }

    pub fn copy(self, to: &mut [u8]) {
        for (from, to) in self.rows().zip(to.chunks_exact_mut(self.width * 3)) {
            to.copy_from_slice(from.as_flattened());
        }
    }

    /// Writes each byte, changed. Inlined, so that it is compiled for the caller's instructions.
    #[inline(always)]
    pub fn map(self, change: impl Fn(u8) -> u8, to: &mut [u8]) {
        for (from, to) in self.rows().zip(to.chunks_exact_mut(self.width * 3)) {
            for (from, to) in from.as_flattened().iter().zip(to) {
                *to = change(*from);
            }
        }
    }
}
