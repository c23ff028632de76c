//! Rows of bytes at equal distances.

/// Rows to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    bytes: &'a [u8],
    /// Bytes from a row to the next.
    pub stride: usize,
    /// Bytes in a row.
    pub width: usize,
    /// How many there are.
    pub height: usize,
}

impl<'a> Rows<'a> {
    /// `height` rows of `width` bytes, the first of them at the start of `bytes`. All must be there.
    pub fn new(bytes: &'a [u8], stride: usize, width: usize, height: usize) -> Self {
        assert!(width <= stride && height > 0);
        Self {
            bytes: &bytes[..stride * (height - 1) + width],
            stride,
            width,
            height,
        }
    }

    /// One of them.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.stride..][..self.width]
    }

    /// `height` of them, from `top` on.
    pub fn slice_rows(&self, top: usize, height: usize) -> Self {
        Self::new(
            &self.bytes[top * self.stride..],
            self.stride,
            self.width,
            height,
        )
    }

    /// `width` bytes of each, from `left` on.
    pub fn slice_bytes(&self, left: usize, width: usize) -> Self {
        assert!(left + width <= self.width);
        Self::new(&self.bytes[left..], self.stride, width, self.height)
    }
}
