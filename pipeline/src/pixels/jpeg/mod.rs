//! JPEG.
//!
//! Photographs as most are (sequential, one scan) go through a decoder of our own, which makes
//! pixels of the wanted region only ([`region`]); all others through a library, whole
//! ([`library`]). Both prove that the compressed data of what they decode adds up, for a JPEG has no
//! checksums: neither ever gives filler for data that is lost.

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

/// Scratch memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    region: region::RegionDecoder,
    checker: check::Checker,
    /// What the library gives when that is not RGB.
    raw: Vec<u8>,
}

/// Decodes at least `region` into `rgb`; gives what was decoded.
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
                "a JPEG without a frame header",
                segment.offset,
            ));
        }
    }
}
