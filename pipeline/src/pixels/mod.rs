//! From the bytes of an image file to rendered pixels, in four steps that know nothing of each
//! other's insides:
//!
//! 1. [`header`]: format and size, without decoding a pixel;
//! 2. [`Decoder::decode`]: the RGB pixels of a region;
//! 3. [`crop`]: which rectangle of the image is used, and how it is laid out in the output;
//! 4. [`Resizer::render`]: that rectangle, scaled, cut and flipped, written where it belongs.
//!
//! Everything here is plain data and pure functions. A [`Decoder`] and a [`Resizer`] hold scratch
//! memory only: one of each per worker thread, and what they give does not depend on what they were
//! used for before.
//!
//! Pixels are RGB, 8 bits per channel, `[height, width, 3]` without padding, and equal (within the
//! freedom of JPEG decoders) to what Pillow's `Image.open(file).convert("RGB")` gives. Two exceptions:
//! of 16-bit grey the upper 8 bits are taken, where Pillow makes nearly everything white; and a TIFF
//! is turned upright only if [`Orientation`] is asked for, like every other format.

mod center;
mod error;
mod jpeg;
mod orientation;
mod other;
mod png;
mod resize;
mod tiff;
mod webp;

pub mod crop;
pub mod lighting;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use center::{Center, CenterError};
pub use error::ImageError;
pub use orientation::Orientation;
pub use resize::{Filter, RenderError, Rendition, Resizer, kernel};

/// Pillow refuses images with more pixels than this; so does the default of [`Limits`].
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// A rectangle of pixels, `x` and `y` counted from the image's upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Columns to the left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Columns in it.
    pub width: u32,
    /// Rows in it.
    pub height: u32,
}

impl Rect {
    /// The whole of an image of this size.
    #[must_use]
    pub const fn whole(width: u32, height: u32) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// Whether every pixel of `inner` is in `self` and there is at least one.
    #[must_use]
    pub fn contains(&self, inner: &Rect) -> bool {
        // In 64 bits, for a rectangle may come from a recipe and end anywhere.
        let right = |r: &Rect| u64::from(r.x) + u64::from(r.width);
        let bottom = |r: &Rect| u64::from(r.y) + u64::from(r.height);
        inner.width > 0
            && inner.height > 0
            && inner.x >= self.x
            && inner.y >= self.y
            && right(inner) <= right(self)
            && bottom(inner) <= bottom(self)
    }
}

/// A file format, told by the file's first bytes and never by its name: ImageNet holds a PNG and
/// two dozen CMYK files that are called `.JPEG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive, 8 bits.
    Jpeg,
    /// PNG, any depth, interlaced or not; of an animation the still picture.
    Png,
    /// BMP, plain or run-length encoded, with or without a palette.
    Bmp,
    /// WebP, lossy or lossless; of an animation the first picture.
    WebP,
    /// TIFF and BigTIFF, 1 to 16 bits, in strips or tiles; the first picture in the file.
    Tiff,
    /// Netpbm's PBM, PGM and PPM, binary or in plain text.
    Netpbm,
}

/// What the file stores, before it becomes RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Colour {
    /// One channel.
    Grey,
    /// One channel and transparency (which is dropped).
    GreyAlpha,
    /// Indices into a table of colours.
    Palette,
    /// Three channels, in JPEG files YCbCr as a rule.
    Rgb,
    /// Three channels and transparency (which is dropped).
    Rgba,
    /// Four inks (CMYK or YCCK).
    Cmyk,
}

/// What is known of an image before its pixels are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// The file format.
    pub format: Format,
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    /// The channels in the file.
    pub colour: Colour,
}

impl Header {
    /// The rectangle that is the whole image.
    #[must_use]
    pub const fn whole(&self) -> Rect {
        Rect::whole(self.width, self.height)
    }
}

/// How large an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest width times height that is accepted. A few bytes can claim any size, and the
    /// memory for it (up to 20 bytes a pixel, by format) is taken before the lie comes out.
    pub max_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: DEFAULT_MAX_PIXELS,
        }
    }
}

/// How much of a file is checked for damage.
///
/// Damage in the bytes that are decoded is an error either way, and so is a file that was cut off.
/// The two differ where only a part is decoded: in sequential JPEGs with one scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Only what the region needs.
    #[default]
    Region,
    /// Every pixel of the file, whatever the region.
    Full,
}

/// Decoded pixels, lent from a [`Decoder`]'s scratch memory until its next use.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    bytes: &'a [u8],
    covers: Rect,
}

impl<'a> Pixels<'a> {
    /// Pixels from elsewhere: `bytes` is `[covers.height, covers.width, 3]`, RGB.
    ///
    /// `None` if the length of `bytes` does not fit or `covers` is empty.
    #[must_use]
    pub fn new(bytes: &'a [u8], covers: Rect) -> Option<Self> {
        let expected = u64::from(covers.width) * u64::from(covers.height) * 3;
        (expected > 0 && bytes.len() as u64 == expected).then_some(Self { bytes, covers })
    }

    /// RGB, `[covers.height, covers.width, 3]`.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The part of the image that is here, in the image's own coordinates: at least the region that
    /// was asked for. All rectangles elsewhere are in image coordinates too, so nothing but the
    /// resizer needs to know how much was decoded.
    #[must_use]
    pub fn covers(&self) -> Rect {
        self.covers
    }
}

/// Reads what an image is without decoding pixels.
///
/// The cost is that of walking over a few segments, not of the image.
///
/// # Errors
/// An unknown format, a damaged or unsupported header, a size of zero or beyond `limits`.
pub fn header(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let header = match format(bytes)? {
        Format::Jpeg => jpeg::header(bytes)?,
        Format::Png => guarded(|| png::header(bytes))?,
        Format::Tiff => guarded(|| tiff::header(bytes))?,
        format @ (Format::Bmp | Format::WebP | Format::Netpbm) => {
            guarded(|| other::header(bytes, format))?
        }
    };
    let (width, height) = (header.width, header.height);
    if width == 0 || height == 0 {
        return Err(ImageError::ZeroSide { width, height });
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooLarge {
            width,
            height,
            max_pixels: limits.max_pixels,
        });
    }
    Ok(header)
}

/// How a TIFF starts: in either order of bytes, and BigTIFF likewise.
const TIFF: [&[u8]; 4] = [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"];

/// What may stand behind Netpbm's two letters: white space, or the start of a comment.
fn is_netpbm_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'#'
}

/// Tells the format by the first bytes.
fn format(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Format::Png)
    } else if bytes.starts_with(b"BM") {
        Ok(Format::Bmp)
    } else if webp::is_webp(bytes) {
        Ok(Format::WebP)
    } else if TIFF.iter().any(|magic| bytes.starts_with(magic)) {
        Ok(Format::Tiff)
    } else if matches!(bytes, [b'P', b'1'..=b'6', next, ..] if is_netpbm_space(*next)) {
        Ok(Format::Netpbm)
    } else if bytes.is_empty() {
        Err(ImageError::Empty)
    } else {
        Err(ImageError::UnknownFormat {
            looks_like: describe(bytes),
        })
    }
}

/// Says what the start of a file that is no known image looks like; a download that went wrong is
/// most often a page of HTML or a run of zeros.
fn describe(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"GIF8", "a GIF image, which is not supported"),
        (b"P7\n", "a PAM image, which is not supported"),
        (b"\0\0\x01\0", "an icon"),
        (b"%PDF", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\xff\xd8", "a JPEG image that is cut off or damaged"),
        (b"\x89PNG", "a PNG image that is cut off or damaged"),
        (b"\0\0\0\0", "zero bytes"),
    ];
    for (magic, name) in KNOWN {
        if bytes.starts_with(magic) {
            return name.to_owned();
        }
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return "an AVIF, HEIF or MP4 file".to_owned();
    }
    let start = &bytes[..bytes.len().min(24)];
    let text = start
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    if text {
        let trimmed = start.trim_ascii_start();
        let kind = if trimmed.starts_with(b"<") {
            "HTML or XML"
        } else {
            "text"
        };
        return format!("{kind}: {:?}", String::from_utf8_lossy(trimmed));
    }
    let hex: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("the bytes {}", hex.join(" "))
}

/// Decodes images; owns the memory they are decoded into. One per worker thread.
#[derive(Debug, Default)]
pub struct Decoder {
    scratch: Scratch,
    /// A region that was turned upright.
    upright: Vec<u8>,
}

/// What the format modules decode with.
#[derive(Debug, Default)]
struct Scratch {
    /// The RGB result.
    rgb: Vec<u8>,
    /// What a format's library gives when that is not RGB.
    raw: Vec<u8>,
    jpeg: jpeg::Scratch,
}

impl Decoder {
    /// A decoder without scratch memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes at least `region` of the image that [`header`] described as `header`.
    ///
    /// The pixels that come back may cover more than the region (of all formats but JPEG the whole
    /// image); nobody pays for cutting them out, because [`Resizer::render`] takes a rectangle of them.
    ///
    /// Never gives filler for pixels that are lost: an image whose data ends early, does not decode
    /// or does not add up is an error, even where other decoders would only warn.
    ///
    /// # Errors
    /// Damage and unsupported variants, with the byte offset where it is known; a region that is
    /// empty or not within the image.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        header: &Header,
        region: Rect,
        verify: Verify,
    ) -> Result<Pixels<'_>, ImageError> {
        if !header.whole().contains(&region) {
            return Err(ImageError::OutsideImage {
                region,
                width: header.width,
                height: header.height,
            });
        }
        let Scratch { rgb, raw, jpeg } = &mut self.scratch;
        // What the last image needed this one may not: see `give_back`.
        reset(raw, 0);
        let whole = |()| header.whole();
        let covers = match header.format {
            Format::Jpeg => jpeg::decode(bytes, header, region, verify, jpeg, rgb)?,
            Format::Png => guarded(|| png::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::Tiff => guarded(|| tiff::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::Bmp | Format::WebP | Format::Netpbm => {
                guarded(|| other::decode(bytes, header, rgb, raw)).map(whole)?
            }
        };
        Ok(Pixels { bytes: rgb, covers })
    }
}

/// One poster among photographs must not hold more memory than this for the rest of the run.
const WORTH_KEEPING: usize = 64 << 20;

/// Makes `buffer` exactly `length` bytes, whatever they are: for memory that is written before it is
/// read.
pub(crate) fn resize_scratch(buffer: &mut Vec<u8>, length: usize) {
    give_back(buffer, length);
    buffer.resize(length, 0);
}

/// Makes `buffer` exactly `length` zero bytes.
///
/// Zeroing costs a hundredth of the decoding and makes it impossible that pixels of one image
/// appear in another, whatever a library leaves unwritten.
fn reset(buffer: &mut Vec<u8>, length: usize) {
    buffer.clear();
    give_back(buffer, length);
    buffer.resize(length, 0);
}

/// Takes care of [`WORTH_KEEPING`].
fn give_back(buffer: &mut Vec<u8>, length: usize) {
    if buffer.capacity() > WORTH_KEEPING && length < buffer.capacity() / 4 {
        buffer.truncate(length);
        buffer.shrink_to(length);
    }
}

/// Runs a library's decoder. Fuzzing has found files that make one panic; those it has not found are
/// damage too, and must not end the program.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // What a panic leaves behind is scratch memory of any content.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(ImageError::Damaged {
            reason: "the decoder of this format panicked".to_owned(),
            offset: None,
        })
    })
}

/// The bytes of `channels` 8-bit channels of the image.
fn byte_size(header: &Header, channels: usize) -> Result<usize, ImageError> {
    usize::try_from(u64::from(header.width) * u64::from(header.height))
        .ok()
        .and_then(|pixels| pixels.checked_mul(channels))
        .ok_or(ImageError::TooLarge {
            width: header.width,
            height: header.height,
            max_pixels: usize::MAX as u64,
        })
}

/// Pixels of `channels` 8-bit channels as RGB: grey spread over three channels, transparency dropped.
fn to_rgb(from: &[u8], channels: usize, rgb: &mut [u8]) {
    let pixels = rgb.chunks_exact_mut(3).zip(from.chunks_exact(channels));
    if channels < 3 {
        pixels.for_each(|(to, from)| to.fill(from[0]));
    } else {
        pixels.for_each(|(to, from)| to.copy_from_slice(&from[..3]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_named() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "the file is empty"),
            (b"<!DOCTYPE html><html><head>", "HTML or XML"),
            (b"\n  <html>", "HTML or XML"),
            (b"404 not found", "text: \"404 not found\""),
            (b"GIF89a\x01\0\x01\0", "a GIF image, which is not supported"),
            (b"P6 is no image", "decoding Pnm"),
            (&[0; 100], "zero bytes"),
            (&[0xff, 0xd8], "a JPEG image that is cut off"),
            (&[1, 2, 3, 0xfe], "the bytes 01 02 03 fe"),
        ];
        for (bytes, expected) in cases {
            let message = header(bytes, &Limits::default()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} for {bytes:?}");
        }
    }

    #[test]
    fn a_decoder_that_panics_is_damage() {
        let error = guarded::<()>(|| panic!("out of range")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "damaged: the decoder of this format panicked"
        );
    }

    #[test]
    fn rectangles_contain_what_is_inside() {
        let outer = Rect::whole(10, 5);
        let cases = [
            ((0, 0, 10, 5), true),
            ((9, 4, 1, 1), true),
            ((9, 4, 2, 1), false),
            ((0, 0, 0, 5), false),
            ((u32::MAX, 0, u32::MAX, 1), false),
        ];
        for ((x, y, width, height), expected) in cases {
            let inner = Rect {
                x,
                y,
                width,
                height,
            };
            assert_eq!(outer.contains(&inner), expected, "{inner:?}");
        }
    }
}
