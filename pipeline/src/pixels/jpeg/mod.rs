//! JPEG decoding.
//!
//! Sequential JPEGs with one scan, which most photographs are, go through a decoder of our own that
//! decodes the requested region only ([`region`]); all others are decoded as a whole by a library
//! ([`library`]). JPEG has no checksums, so both check that the entropy-coded data holds exactly the
//! blocks that the frame header promises; lost data is an error and is never filled in.

mod bits;
mod check;
mod colour;
mod huffman;
mod idct;
mod library;
mod region;
mod segments;
mod tables;

use super::{Colour, Format, Header, ImageError, Rect, Verify, guarded};
use segments::{EOI, Frame, SOS, Segments};

/// Scratch memory, reused between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    region: region::RegionDecoder,
    checker: check::Checker,
    /// The library's output where that is not RGB.
    raw: Vec<u8>,
}

/// Decodes at least `region` into `rgb`. Returns the rectangle that was decoded: `region`, or the
/// whole image.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    region: Rect,
    verify: Verify,
    scratch: &mut Scratch,
    rgb: &mut Vec<u8>,
) -> Result<Rect, ImageError> {
    if scratch.region.decode(bytes, header, region, verify, rgb)? {
        return Ok(region);
    }
    guarded(|| library::decode(bytes, header, &mut scratch.checker, rgb, &mut scratch.raw))?;
    Ok(header.whole())
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut segments = Segments::new(bytes);
    loop {
        let segment = segments.next()?;
        if let Some(frame) = Frame::parse(&segment)? {
            return Ok(Header {
                format: Format::Jpeg,
                width: frame.width,
                height: frame.height,
                colour: match frame.components.len() {
                    1 => Colour::Grey,
                    3 => Colour::Rgb,
                    _ => Colour::Cmyk,
                },
            });
        }
        if matches!(segment.marker, SOS | EOI) {
            return Err(ImageError::damaged(
                "the JPEG has no frame header (SOF)",
                segment.offset,
            ));
        }
    }
}
