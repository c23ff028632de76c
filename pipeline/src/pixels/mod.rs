//! From the bytes of an image file to preprocessed pixels, in four independent steps:
//!
//! 1. [`header`]: format and size, without decoding pixels;
//! 2. [`Decoder::decode`]: the RGB pixels of a region;
//! 3. [`crop`]: the rectangle of the image to use, and how to resize it;
//! 4. [`Resizer::resize`]: resizes, crops and flips that rectangle into an output.
//!
//! Everything here is plain data and pure functions. A [`Decoder`] and a [`Resizer`] hold scratch
//! memory only (use one of each per worker thread); their results do not depend on earlier calls.
//!
//! Pixels are RGB, 8 bits per channel, `[height, width, 3]` without padding, and equal to Pillow's
//! `Image.open(file).convert("RGB")`. Two exceptions: 16-bit grey
//! keeps the upper 8 bits, where Pillow clips nearly everything to white; and the orientation of a TIFF
//! is applied only on request, see [`Orientation`], as for every other format.
//!
//! Memory follows the bytes of a file, not its claims: a size that the file's bytes cannot hold is
//! refused before anything is allocated (see [`Limits::max_pixels`]), and memory that cannot be had is an
//! error of the image.

mod bmp;
mod claim;
mod error;
mod gif;
mod jpeg;
mod netpbm;
mod orientation;
mod png;
mod resize;
mod tiff;
mod webp;

pub mod augment;
pub mod crop;
pub mod lighting;

use std::panic::{AssertUnwindSafe, catch_unwind};

use error::damaged;
pub use error::{ImageError, OutOfMemory};
pub use orientation::Orientation;
pub use resize::{Filter, ResizeError, ResizePlan, Resizer, kernel};

/// The default of [`Limits::max_pixels`]: twice Pillow's `MAX_IMAGE_PIXELS`, above which Pillow refuses
/// images.
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// A rectangle of pixels, `x` and `y` counted from the image's upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Rect {
    /// The rectangle of a whole image.
    #[must_use]
    pub const fn whole(width: u32, height: u32) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// Whether `inner` is within `self` and not empty.
    #[must_use]
    pub fn contains(&self, inner: &Rect) -> bool {
        // In 64 bits, because the sum of a rectangle from outside may overflow 32.
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

/// A file format, detected from the first bytes and never from the name: ImageNet has a PNG and two
/// dozen CMYK files that are named `.JPEG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive, 8 bits.
    Jpeg,
    /// PNG, any bit depth, interlaced or not; of an animation the default image.
    Png,
    /// BMP, plain or run-length encoded, with or without a palette.
    Bmp,
    /// GIF; of an animation the first frame.
    Gif,
    /// WebP, lossy or lossless; of an animation the first frame.
    WebP,
    /// TIFF and BigTIFF, 1 to 16 bits, in strips or tiles; the first image of the file.
    Tiff,
    /// Netpbm's PBM, PGM and PPM, binary or plain text.
    Netpbm,
}

impl Format {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Bmp => "BMP",
            Format::Gif => "GIF",
            Format::WebP => "WebP",
            Format::Tiff => "TIFF",
            Format::Netpbm => "Netpbm",
        }
    }
}

/// The channels that the file stores, before conversion to RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Colour {
    Grey,
    /// Grey and alpha; alpha is dropped.
    GreyAlpha,
    /// Indices into a palette.
    Palette,
    /// RGB, or YCbCr in most JPEG files.
    Rgb,
    /// RGB and alpha; alpha is dropped.
    Rgba,
    /// CMYK or YCCK.
    Cmyk,
}

/// The properties of an image that are known before its pixels are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    pub format: Format,
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    pub colour: Colour,
}

impl Header {
    #[must_use]
    pub const fn whole(&self) -> Rect {
        Rect::whole(self.width, self.height)
    }
}

/// Limits on the size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest accepted width times height. It bounds the memory of a worker: decoding takes at most
    /// 20 bytes per pixel, 3 of them for the result (3 more if it is turned upright; for PNGs of a few very
    /// long rows up to 256 MB more).
    ///
    /// Images take that much only if the file can hold so many pixels. Without compression it has to have
    /// all their bytes; otherwise at least one byte for so many pixels of 8-bit grey: 1,024 in JPEG, 1,032
    /// in PNG (and in TIFF with deflate), 2,731 in GIF (and in TIFF with LZW), 65,536 in WebP.
    /// Run-length encoded BMP can skip 255 rows with 4 bytes.
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
/// Damage in the decoded bytes and truncation are errors either way. The two differ in sequential JPEGs
/// with one scan, of which the rows below the region are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Only the data that the region needs.
    #[default]
    Region,
    /// All data of the file.
    Full,
}

/// Decoded pixels, borrowed from a [`Decoder`]'s scratch memory.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    bytes: &'a [u8],
    covers: Rect,
    extraneous_bytes: u64,
}

impl<'a> Pixels<'a> {
    /// Pixels from another source: `bytes` is `[covers.height, covers.width, 3]`, RGB.
    ///
    /// `None` if the length of `bytes` does not match or `covers` is empty.
    #[must_use]
    pub fn new(bytes: &'a [u8], covers: Rect) -> Option<Self> {
        let expected = u64::from(covers.width) * u64::from(covers.height) * 3;
        (expected > 0 && bytes.len() as u64 == expected).then_some(Self {
            bytes,
            covers,
            extraneous_bytes: 0,
        })
    }

    /// RGB, `[covers.height, covers.width, 3]`.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The decoded part of the image, in image coordinates: at least the requested region. All other
    /// rectangles are in image coordinates too, so only the resizer needs to know how much was decoded.
    #[must_use]
    pub fn covers(&self) -> Rect {
        self.covers
    }

    /// Number of bytes between the blocks and markers of a JPEG that are neither, and were skipped. Only
    /// [`Verify::Full`] finds all.
    #[must_use]
    pub fn extraneous_bytes(&self) -> u64 {
        self.extraneous_bytes
    }
}

/// Reads the header of an image without decoding pixels, at a cost that does not depend on its size.
///
/// # Errors
/// An unknown format, a damaged or unsupported header, a size that is zero or exceeds `limits`.
pub fn header(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let header = match format(bytes)? {
        Format::Jpeg => jpeg::header(bytes)?,
        Format::Png => guarded(|| png::header(bytes))?,
        Format::Tiff => tiff::header(bytes)?,
        Format::Bmp => guarded(|| bmp::header(bytes))?,
        Format::Gif => guarded(|| gif::header(bytes))?,
        Format::WebP => guarded(|| webp::header(bytes))?,
        Format::Netpbm => netpbm::header(bytes)?,
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

/// The magic numbers of TIFF and BigTIFF in either byte order. The two in the middle are wrong, but known,
/// and Pillow reads them too.
const TIFF: [&[u8]; 6] = [b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"];

/// Whether the byte may follow Netpbm's magic number: white space, or the start of a comment.
fn is_netpbm_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'#'
}

/// Detects the format from the first bytes.
fn format(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Format::Png)
    } else if bytes.starts_with(b"BM") {
        Ok(Format::Bmp)
    } else if webp::is_webp(bytes) {
        Ok(Format::WebP)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Ok(Format::Gif)
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

/// Describes the start of a file of unknown format, for the error message; a failed download is most
/// often a page of HTML or zero bytes.
fn describe(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 14] = [
        (b"P7\n", "a PAM image, which is not supported"),
        (b"Pf\n", "a PFM image, which is not supported"),
        (b"PF\n", "a PFM image, which is not supported"),
        (b"\0\0\x01\0", "an icon, which is not supported"),
        (b"8BPS", "a Photoshop document, which is not supported"),
        (b"\xff\x0a", "a JPEG XL image, which is not supported"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not supported"),
        (
            b"\0\0\0\x0cjP  ",
            "a JPEG 2000 image, which is not supported",
        ),
        (b"%PDF", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\xff\xd8", "a truncated or damaged JPEG image"),
        (b"\x89PNG", "a truncated or damaged PNG image"),
        (b"\0\0\0\0", "zero bytes"),
    ];
    for (magic, name) in KNOWN {
        if bytes.starts_with(magic) {
            return name.to_owned();
        }
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return "an AVIF, HEIF or MP4 file, which is not supported".to_owned();
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

/// Decodes images. Owns the memory of the pixels, so use one per worker thread.
#[derive(Debug, Default)]
pub struct Decoder {
    scratch: Scratch,
    /// The decoded region after its orientation was applied.
    upright: Vec<u8>,
}

/// The buffers of the format modules.
#[derive(Debug, Default)]
struct Scratch {
    /// The RGB result.
    rgb: Vec<u8>,
    /// The output of a format's library where that is not RGB.
    raw: Vec<u8>,
    jpeg: jpeg::Scratch,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes at least `region` of the image whose header is `header`, as [`header`] returned it.
    ///
    /// The result may cover more than the region (the whole image for all formats but JPEG). It needs
    /// no copy to be cropped, because [`Resizer::resize`] reads a rectangle of it.
    ///
    /// Lost pixels are never filled in: an image whose data is truncated, cannot be decoded or is
    /// inconsistent is an error, even where other decoders only warn.
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
        claim::check(bytes, header)?;
        let Scratch { rgb, raw, jpeg } = &mut self.scratch;
        // Frees what a giant image before left, see `give_back`.
        reset(raw, 0)?;
        let whole = |()| header.whole();
        let mut extraneous_bytes = 0;
        let covers = match header.format {
            Format::Jpeg => {
                extraneous_bytes = jpeg::decode(bytes, header, region, verify, jpeg, rgb)?;
                region
            }
            Format::Png => guarded(|| png::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::Tiff => tiff::decode(bytes, header, rgb, raw).map(whole)?,
            Format::Bmp => guarded(|| bmp::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::Gif => guarded(|| gif::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::WebP => guarded(|| webp::decode(bytes, header, rgb, raw)).map(whole)?,
            Format::Netpbm => netpbm::decode(bytes, header, rgb).map(whole)?,
        };
        Ok(Pixels {
            bytes: rgb,
            covers,
            extraneous_bytes,
        })
    }
}

/// Buffers above this size are freed when a smaller image follows: one giant image must not occupy its
/// memory for the rest of the run.
const WORTH_KEEPING: usize = 64 << 20;

/// Resizes `buffer` to `length` bytes of unspecified content, for memory that is written before it is
/// read.
pub(crate) fn resize_scratch(buffer: &mut Vec<u8>, length: usize) -> Result<(), OutOfMemory> {
    give_back(buffer, length);
    if buffer.capacity() < length {
        // Not grown, which would hold both the old and the new memory, and perhaps twice as much.
        *buffer = Vec::new();
        let reserved = buffer.try_reserve_exact(length);
        reserved.map_err(|_| OutOfMemory { bytes: length })?;
    }
    buffer.resize(length, 0);
    Ok(())
}

/// Resizes `buffer` to `length` zero bytes.
///
/// Zeroing costs about 1 % of decoding and guarantees that pixels of one image never appear in another,
/// whatever a library leaves unwritten.
fn reset(buffer: &mut Vec<u8>, length: usize) -> Result<(), OutOfMemory> {
    buffer.clear();
    resize_scratch(buffer, length)
}

/// Fails if `bytes` cannot be allocated now: before a library allocates them, which would abort the
/// program.
fn probe(bytes: usize) -> Result<(), OutOfMemory> {
    let reserved = Vec::<u8>::new().try_reserve_exact(bytes);
    reserved.map_err(|_| OutOfMemory { bytes })
}

/// Frees memory beyond `length` if the buffer exceeds [`WORTH_KEEPING`].
pub(crate) fn give_back(buffer: &mut Vec<u8>, length: usize) {
    if buffer.capacity() > WORTH_KEEPING && length < buffer.capacity() / 4 {
        buffer.truncate(length);
        buffer.shrink_to(length);
    }
}

/// Runs a library's decoder and reports a panic as damage: fuzzing has found files on which one panics.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // Unwind safe: a panic leaves only scratch memory behind, whose content does not matter.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(ImageError::Damaged {
            reason: "the decoder of this format panicked".to_owned(),
            offset: None,
        })
    })
}

/// The size in bytes of the image with `channels` 8-bit channels.
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

/// Converts 1 to 4 channels of 8 bits to RGB: grey is repeated, alpha is dropped.
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
    fn a_file_of_unknown_format_is_described() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "the file is empty"),
            (b"<!DOCTYPE html><html><head>", "HTML or XML"),
            (b"\n  <html>", "HTML or XML"),
            (b"404 not found", "text: \"404 not found\""),
            (b"P7\nWIDTH 1", "a PAM image, which is not supported"),
            (b"P6 is no image", "the width in the Netpbm header"),
            (&[0; 100], "zero bytes"),
            (&[0xff, 0xd8], "a truncated or damaged JPEG image"),
            (&[1, 2, 3, 0xfe], "the bytes 01 02 03 fe"),
        ];
        for (bytes, expected) in cases {
            let message = header(bytes, &Limits::default()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} for {bytes:?}");
        }
    }

    #[test]
    fn a_panic_of_a_decoder_is_reported_as_damage() {
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
