//! The chunks of a WebP file: checks that the `image` crate, which decodes the file ([`super::other`]),
//! does not make.

use super::{Header, ImageError};

/// Bytes of a chunk's name and length.
const HEAD: usize = 8;
/// Bytes before the first chunk: `RIFF`, a length and `WEBP`.
const START: usize = 12;
/// Bytes before the chunks of an animation's frame.
const FRAME_HEAD: usize = 16;

pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..START) == Some(b"WEBP")
}

/// The file without trailing bytes after the RIFF container.
///
/// # Errors
/// A file that is shorter than its header claims.
pub(super) fn container(bytes: &[u8]) -> Result<&[u8], ImageError> {
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

/// Checks that every chunk is complete and that no lossy frame is larger than the image: the library
/// allocates memory for the claimed size of a frame before it compares.
pub(super) fn check(container: &[u8], header: &Header) -> Result<(), ImageError> {
    for chunk in Chunks(container.get(START..).unwrap_or_default()) {
        let (name, body) = chunk?;
        check_frame(name, body, header)?;
        if &name == b"ANMF" {
            for chunk in Chunks(body.get(FRAME_HEAD..).unwrap_or_default()) {
                let (name, body) = chunk?;
                check_frame(name, body, header)?;
            }
        }
    }
    Ok(())
}

fn check_frame(name: [u8; 4], body: &[u8], header: &Header) -> Result<(), ImageError> {
    // A tag and a start code of three bytes each, then width and height in the lower 14 bits.
    if &name == b"VP8 "
        && let Some(&[w0, w1, h0, h1]) = body.get(6..10).and_then(|sides| sides.first_chunk())
    {
        let [width, height] =
            [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side) & 0x3fff));
        if width > header.width || height > header.height {
            return Err(ImageError::Damaged {
                reason: format!(
                    "a WebP image of {}x{} has a frame of {width}x{height}",
                    header.width, header.height
                ),
                offset: None,
            });
        }
    }
    Ok(())
}

pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let chunks = Chunks(container(bytes).ok()?.get(START..)?);
    let (_, body) = chunks.flatten().find(|(name, _)| name == b"EXIF")?;
    // The standard has no prefix here, but some writers add that of JPEG files.
    Some(body.strip_prefix(b"Exif\0\0").unwrap_or(body))
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
