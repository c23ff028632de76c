//! A strided view of rows of bytes.

/// Rows of bytes at equal distances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    bytes: &'a [u8],
    /// Bytes from the start of a row to the start of the next.
    pub stride: usize,
    /// Bytes in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl<'a> Rows<'a> {
    /// `height` rows of `width` bytes, the first at the start of `bytes`. Panics if `bytes` is too short.
    pub fn new(bytes: &'a [u8], stride: usize, width: usize, height: usize) -> Self {
        assert!(width <= stride && height > 0);
        Self {
            bytes: &bytes[..stride * (height - 1) + width],
            stride,
            width,
            height,
        }
    }

    #[inline]
    pub fn row(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.stride..][..self.width]
    }

    /// The rows `top..top + height`.
    pub fn slice_rows(&self, top: usize, height: usize) -> Self {
        Self::new(
            &self.bytes[top * self.stride..],
            self.stride,
            self.width,
            height,
        )
    }

    /// The bytes `left..left + width` of each row.
    pub fn slice_bytes(&self, left: usize, width: usize) -> Self {
        assert!(left + width <= self.width);
        Self::new(&self.bytes[left..], self.stride, width, self.height)
    }
}
