//! The orientation of an image, read as by Pillow's `exif_transpose` and applied.

mod metadata;

use tracing::debug;

use super::{Decoder, Format, Header, ImageError, OutOfMemory, Pixels, Rect, Verify, reset};
use metadata::Metadata;

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
    /// The orientation in the file's EXIF block (JPEG's APP1, PNG's eXIf or raw profile, WebP's EXIF) or
    /// TIFF tag, or else in its XMP packet.
    ///
    /// Upright if there is none or if the block is damaged, which does not damage the image itself.
    #[must_use]
    pub fn of(bytes: &[u8], format: Format) -> Self {
        let number = Metadata::find(bytes, format).orientation();
        if number == Some(0) {
            debug!("the image has no valid orientation; assuming that it is upright");
        }
        Self::from_exif(number.unwrap_or(1))
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
    fn copy(self, pixels: Pixels<'_>, region: Rect, to: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        let covers = pixels.covers();
        let (width, height) = self.turn_pair((region.width, region.height));
        reset(to, width as usize * height as usize * 3)?;
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
        Ok(())
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
            reset(&mut self.upright, 0)?;
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
        let extraneous_bytes = pixels.extraneous_bytes;
        orientation.copy(pixels, place, &mut turned)?;
        self.upright = turned;
        Ok(Pixels {
            bytes: &self.upright,
            covers: region,
            extraneous_bytes,
        })
    }
}
