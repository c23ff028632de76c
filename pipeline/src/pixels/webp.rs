//! WebP, with the `image-webp` crate; of an animation the first frame on a transparent canvas.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use image_webp::{DecodingError, WebPDecoder};

use super::{
    Colour, Format, Header, ImageError, OutOfMemory, byte_size, damaged, probe, reset, to_rgb,
};

/// Bytes of a chunk's name and length.
const HEAD: usize = 8;
/// Bytes before the first chunk: `RIFF`, a length and `WEBP`.
const START: usize = 12;
/// Bytes before the chunks of an animation's frame.
const FRAME_HEAD: usize = 16;
/// A bound on the bytes per pixel that the library allocates: RGBA of a frame and of the canvas of an
/// animation, and the planes of a lossy frame.
const LIBRARY_BYTES: usize = 10;

pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..START) == Some(b"WEBP")
}

/// The file without trailing bytes after the RIFF container.
///
/// # Errors
/// A file that is shorter than its header claims.
fn container(bytes: &[u8]) -> Result<&[u8], ImageError> {
    let length = bytes.get(4..8).map_or(usize::MAX, |field| {
        let field = [field[0], field[1], field[2], field[3]];
        (u32::from_le_bytes(field) as usize).saturating_add(HEAD)
    });
    bytes.get(..length).ok_or_else(|| {
        ImageError::truncated(
            format!("the WebP header claims {length} bytes"),
            bytes.len(),
        )
    })
}

/// Reads the header.
fn open(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, ImageError> {
    let decoder = WebPDecoder::new(Cursor::new(container(bytes)?));
    decoder.map_err(|error| explain(error, bytes))
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    Ok(Header {
        format: Format::WebP,
        width,
        height,
        colour: if decoder.has_alpha() {
            Colour::Rgba
        } else {
            Colour::Rgb
        },
    })
}

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    check(container(bytes)?, header)?;
    let unblended = unblended(bytes)?;
    let bytes = unblended.as_ref();
    let explain = |error| explain(error, bytes);
    let mut decoder = open(bytes)?;
    if decoder.dimensions() != (header.width, header.height) {
        return Err(damaged("the header changed"));
    }
    reset(rgb, byte_size(header, 3)?)?;
    if decoder.has_alpha() {
        reset(raw, byte_size(header, 4)?)?;
        probe(byte_size(header, LIBRARY_BYTES)?)?;
        decoder.read_image(raw).map_err(explain)?;
        to_rgb(raw, 4, rgb);
        return Ok(());
    }
    probe(byte_size(header, LIBRARY_BYTES)?)?;
    decoder.read_image(rgb).map_err(explain)
}

/// Checks that every chunk is complete and that lossy images have the size of their frame: the library
/// allocates memory for the claimed size before it compares, or does not compare.
fn check(container: &[u8], header: &Header) -> Result<(), ImageError> {
    for chunk in Chunks(container.get(START..).unwrap_or_default()) {
        let (name, body) = chunk?;
        check_size(name, body, (header.width, header.height))?;
        if &name == b"ANMF" && body.len() >= FRAME_HEAD {
            // Sides minus one, of three bytes each, after the position.
            let side =
                |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], 0]) + 1;
            for chunk in Chunks(&body[FRAME_HEAD..]) {
                let (name, body) = chunk?;
                check_size(name, body, (side(6), side(9)))?;
            }
        }
    }
    Ok(())
}

fn check_size(name: [u8; 4], body: &[u8], frame: (u32, u32)) -> Result<(), ImageError> {
    // A tag and a start code of three bytes each, then width and height in the lower 14 bits.
    if &name == b"VP8 "
        && let Some(&[w0, w1, h0, h1]) = body.get(6..10).and_then(|sides| sides.first_chunk())
    {
        let [width, height] =
            [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side) & 0x3fff));
        if (width, height) != frame {
            return Err(damaged(format!(
                "a WebP frame of {}x{} holds an image of {width}x{height}",
                frame.0, frame.1
            )));
        }
    }
    Ok(())
}

/// The file with a first frame of an animation that is not blended with the canvas: as libwebp, which draws
/// it as it is, where the library multiplies its colours by alpha.
fn unblended(bytes: &[u8]) -> Result<Cow<'_, [u8]>, OutOfMemory> {
    const FLAGS: usize = FRAME_HEAD - 1;
    const NO_BLENDING: u8 = 2;
    let frame = chunk(bytes, b"ANMF").filter(|frame| frame.len() > FLAGS);
    let Some(frame) = frame.filter(|frame| frame[FLAGS] & NO_BLENDING == 0) else {
        return Ok(Cow::Borrowed(bytes));
    };
    let at = frame.as_ptr().addr() - bytes.as_ptr().addr() + FLAGS;
    let mut copy = Vec::new();
    reset(&mut copy, bytes.len())?;
    copy.copy_from_slice(bytes);
    copy[at] |= NO_BLENDING;
    Ok(Cow::Owned(copy))
}

/// The body of the first chunk of a name.
pub(super) fn chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let chunks = Chunks(container(bytes).ok()?.get(START..)?);
    let mut chunks = chunks.flatten();
    Some(chunks.find(|(found, _)| found == name)?.1)
}

/// Iterates over chunks: name and body.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<([u8; 4], &'a [u8]), ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d, l0, l1, l2, l3], rest) = self.0.split_first_chunk::<HEAD>()?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = rest.get(..length) else {
            self.0 = &[];
            return Some(Err(ImageError::Damaged {
                reason: format!(
                    "a WebP chunk claims {length} bytes, {} are left",
                    rest.len()
                ),
                offset: None,
            }));
        };
        // Chunks are padded to an even length.
        self.0 = rest.get(length + length % 2..).unwrap_or_default();
        Some(Ok(([a, b, c, d], body)))
    }
}

fn explain(error: DecodingError, bytes: &[u8]) -> ImageError {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ImageError::truncated("the WebP is incomplete", bytes.len())
        }
        DecodingError::UnsupportedFeature(feature) => {
            ImageError::unsupported(format!("a WebP: {feature}"))
        }
        DecodingError::ImageTooLarge | DecodingError::MemoryLimitExceeded => {
            ImageError::unsupported("a WebP of more than 16384 pixels a side")
        }
        DecodingError::VersionNumberInvalid(version) => {
            ImageError::unsupported(format!("a WebP of lossless version {version}"))
        }
        other => damaged(format!("the WebP: {other}")),
    }
}
