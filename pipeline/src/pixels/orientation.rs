//! The EXIF orientation of an image, read and applied.
//!
//! Finds the EXIF block here and lets the `image` crate read the tag from it. The crate `kamadak-exif` is
//! no replacement: without an EXIF block it scans a JPEG's entropy-coded data to the end of the file, it
//! copies every segment (a TIFF as a whole), and it parses all tags, where this runs for each image of an
//! epoch and needs one.

use tracing::debug;

use super::{Decoder, Format, Header, ImageError, Pixels, Rect, Verify, reset, webp};

/// How an image is stored relative to its upright form. The stored position of the upright pixel
/// `(x, y)`: swap `x` and `y` if `transposed`, then count `x` from the right if `mirrored` and `y` from
/// the bottom if `flipped`. The eight combinations are EXIF's orientations; the default is upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Orientation {
    pub transposed: bool,
    /// Stored columns run from right to left.
    pub mirrored: bool,
    /// Stored rows run from bottom to top.
    pub flipped: bool,
}

impl Orientation {
    /// The orientation in the file's EXIF block (JPEG's APP1, PNG's eXIf, WebP's EXIF) or TIFF tag.
    ///
    /// Upright if there is none or if the block is damaged, which does not damage the image itself.
    #[must_use]
    pub fn of(bytes: &[u8], format: Format) -> Self {
        let block = match format {
            Format::Jpeg => jpeg_exif(bytes),
            Format::Png => png_exif(bytes),
            Format::WebP => webp::exif(bytes),
            // EXIF blocks have the format of a TIFF file.
            Format::Tiff => Some(bytes),
            Format::Bmp | Format::Netpbm => None,
        };
        let Some(block) = block else {
            return Self::default();
        };
        let tag = image::metadata::Orientation::from_exif_chunk(block);
        if tag.is_none() {
            debug!("the EXIF block has no valid orientation; assuming that the image is upright");
        }
        Self::from_exif(tag.map_or(1, image::metadata::Orientation::to_exif))
    }

    /// From EXIF's value, 1 to 8; any other means 1.
    #[must_use]
    pub fn from_exif(number: u8) -> Self {
        let (transposed, mirrored, flipped) = match number {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => (false, false, false),
        };
        Self {
            transposed,
            mirrored,
            flipped,
        }
    }

    /// Converts the header of the stored image to that of the upright image, or vice versa.
    #[must_use]
    pub fn turn(self, header: Header) -> Header {
        let (width, height) = self.turn_pair((header.width, header.height));
        Header {
            width,
            height,
            ..header
        }
    }

    fn turn_pair(self, (a, b): (u32, u32)) -> (u32, u32) {
        if self.transposed { (b, a) } else { (a, b) }
    }

    /// The region of the stored image that corresponds to a region of the upright image.
    fn region(self, upright: Rect, stored: &Header) -> Rect {
        let (x, y) = self.turn_pair((upright.x, upright.y));
        let (width, height) = self.turn_pair((upright.width, upright.height));
        Rect {
            x: if self.mirrored {
                stored.width - x - width
            } else {
                x
            },
            y: if self.flipped {
                stored.height - y - height
            } else {
                y
            },
            width,
            height,
        }
    }

    /// Copies the pixels of `region`, in stored coordinates and within `pixels`, upright into `to`.
    fn copy(self, pixels: Pixels<'_>, region: Rect, to: &mut Vec<u8>) {
        let covers = pixels.covers();
        let (width, height) = self.turn_pair((region.width, region.height));
        reset(to, width as usize * height as usize * 3);
        let (stored, _) = pixels.bytes().as_chunks::<3>();
        let (upright, _) = to.as_chunks_mut::<3>();
        for (y, row) in (0..height).zip(upright.chunks_exact_mut(width as usize)) {
            for (x, pixel) in (0..width).zip(row) {
                let (u, v) = self.turn_pair((x, y));
                let u = if self.mirrored {
                    region.width - 1 - u
                } else {
                    u
                };
                let v = if self.flipped {
                    region.height - 1 - v
                } else {
                    v
                };
                let (u, v) = (region.x - covers.x + u, region.y - covers.y + v);
                *pixel = stored[v as usize * covers.width as usize + u as usize];
            }
        }
    }
}

impl Decoder {
    /// [`Decoder::decode`] for an image with an orientation: `upright` is the header of the upright
    /// image, see [`Orientation::turn`], and `region` and the result are in its coordinates. Only the
    /// region is decoded and turned.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_upright(
        &mut self,
        bytes: &[u8],
        upright: &Header,
        orientation: Orientation,
        region: Rect,
        verify: Verify,
    ) -> Result<Pixels<'_>, ImageError> {
        if orientation == Orientation::default() {
            reset(&mut self.upright, 0);
            return self.decode(bytes, upright, region, verify);
        }
        if !upright.whole().contains(&region) {
            return Err(ImageError::OutsideImage {
                region,
                width: upright.width,
                height: upright.height,
            });
        }
        let stored = orientation.turn(*upright);
        let place = orientation.region(region, &stored);
        let mut turned = std::mem::take(&mut self.upright);
        let pixels = self.decode(bytes, &stored, place, verify)?;
        orientation.copy(pixels, place, &mut turned);
        self.upright = turned;
        Ok(Pixels {
            bytes: &self.upright,
            covers: region,
        })
    }
}

/// The EXIF block of a JPEG: the content after `Exif\0\0` of the first such APP1 segment before the scan.
fn jpeg_exif(bytes: &[u8]) -> Option<&[u8]> {
    const APP1: u8 = 0xe1;
    const SOS: u8 = 0xda;
    let mut rest = bytes.get(2..)?;
    loop {
        let &[0xff, marker, high, low] = rest.first_chunk()? else {
            return None;
        };
        if marker == 0xff {
            rest = &rest[1..];
            continue;
        }
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        let body = rest.get(4..end)?;
        match marker {
            APP1 if body.starts_with(b"Exif\0\0") => return body.get(6..),
            SOS => return None,
            _ => rest = &rest[end..],
        }
    }
}

/// The `eXIf` chunk of a PNG, which may also follow the pixels.
fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let &[l0, l1, l2, l3, a, b, c, d] = rest.first_chunk()?;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let body = rest.get(8..8 + length)?;
        if &[a, b, c, d] == b"eXIf" {
            return Some(body);
        }
        // A chunk has 12 bytes besides its body: length, name and checksum.
        rest = rest.get(12 + length..)?;
    }
}
