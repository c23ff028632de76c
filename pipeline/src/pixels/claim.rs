//! Whether a file's bytes can hold the pixels that its header claims, before memory is allocated for them.
//!
//! Only formats with compression; the modules of BMP, TIFF and Netpbm know where their bytes are.

use super::{Format, Header, ImageError, png, tiff};

/// A block of 8x8 samples takes at least one bit. With sampling factors of 4x1 and 1x4, the 8 blocks of two
/// components cover 32x32 pixels.
const JPEG: u64 = 8 * 32 * 32 / 8;

/// Encoders write at least one bit per tile of 64x64 pixels, 32,768 pixels per byte; in principle, an image
/// of one colour needs no bits at all.
const WEBP: u64 = 1 << 16;

/// # Errors
/// The file is too short for its pixels, even if it were compressed as well as its format allows.
pub(super) fn check(bytes: &[u8], header: &Header) -> Result<(), ImageError> {
    let length = bytes.len() as u64;
    let pixels = u64::from(header.width) * u64::from(header.height);
    let fits = match header.format {
        Format::Jpeg => pixels <= length * JPEG,
        Format::Gif => pixels <= length * tiff::LZW,
        Format::WebP => pixels <= length * WEBP,
        Format::Png => png::data_bytes(bytes, header) <= length * tiff::DEFLATE,
        Format::Bmp | Format::Tiff | Format::Netpbm => true,
    };
    fits.then_some(())
        .ok_or_else(|| too_short(bytes.len(), header))
}

/// The error of a file of `length` bytes.
pub(super) fn too_short(length: usize, header: &Header) -> ImageError {
    ImageError::truncated(
        format!(
            "{length} bytes cannot hold {}x{} pixels",
            header.width, header.height
        ),
        length,
    )
}
