//! The chunks of a WebP file. The `image` crate decodes them ([`super::other`]); what it does not
//! look at is looked at here.

use super::{Header, ImageError};

/// A chunk's name and length.
const HEAD: usize = 8;
/// What stands in front of the chunks: `RIFF`, a length and `WEBP`.
const START: usize = 12;
/// What stands in front of the chunks of one frame of an animation.
const FRAME_HEAD: usize = 16;

pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..START) == Some(b"WEBP")
}

/// The file without what follows the image.
///
/// # Errors
/// A file that is shorter than it says.
pub(super) fn container(bytes: &[u8]) -> Result<&[u8], ImageError> {
    let length = bytes.get(4..8).map_or(usize::MAX, |field| {
        let field = [field[0], field[1], field[2], field[3]];
        (u32::from_le_bytes(field) as usize).saturating_add(HEAD)
    });
    bytes.get(..length).ok_or_else(|| {
        ImageError::truncated(format!("the WebP file says {length} bytes"), bytes.len())
    })
}

/// Proves that every chunk is there, and that no frame is larger than the image: the library takes
/// memory for what a lossy frame claims before it compares.
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
    // A tag and a start code of three bytes each, then the sides in the lower 14 bits.
    if &name == b"VP8 "
        && let Some(&[w0, w1, h0, h1]) = body.get(6..10).and_then(|sides| sides.first_chunk())
    {
        let [width, height] =
            [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side) & 0x3fff));
        if width > header.width || height > header.height {
            return Err(ImageError::Damaged {
                reason: format!(
                    "a WebP image of {}x{} with a frame of {width}x{height}",
                    header.width, header.height
                ),
                offset: None,
            });
        }
    }
    Ok(())
}

/// The EXIF block, if there is one.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let chunks = Chunks(container(bytes).ok()?.get(START..)?);
    let (_, body) = chunks.flatten().find(|(name, _)| name == b"EXIF")?;
    // By the standard without the prefix that JPEG files need; some writers keep it.
    Some(body.strip_prefix(b"Exif\0\0").unwrap_or(body))
}

/// Names and contents, one after the other.
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
                    "a WebP chunk of {length} bytes where {} are left",
                    rest.len()
                ),
                offset: None,
            }));
        };
        // To the next even length.
        self.0 = rest.get(length + length % 2..).unwrap_or_default();
        Some(Ok(([a, b, c, d], body)))
    }
}
