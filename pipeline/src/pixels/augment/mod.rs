//! Augmentations of a crop before it is resized: what Pillow computes for torchvision and timm, byte for
//! byte.
//!
//! An [`Operation`] holds everything that was drawn, so that carrying it out is a function of the pixels
//! alone. An [`Augmenter`] owns the pixels while operations are applied, each from one buffer to a second. The
//! first one reads the decoded pixels.

mod affine;
mod blend;
mod erase;
mod flip;
mod histogram;
mod hue;
mod interpolate;
mod levels;
mod magnitudes;
pub mod policy;
mod source;
mod tables;
#[cfg(test)]
mod tests;

use rand::Rng;

pub use self::affine::{Affine, Sampling};
pub use self::erase::{Erase, Fill, rectangle};
pub use self::magnitudes::linspace;
use self::source::Source;
use super::{OutOfMemory, Pixels, Rect, give_back, resize_scratch};

/// One change of an image. It keeps the size.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Left and right are exchanged.
    FlipHorizontal,
    /// Top and bottom are exchanged.
    FlipVertical,
    /// `Image.transform` with `AFFINE`, and `Image.rotate`.
    Affine(Affine),
    /// `ImageEnhance.Brightness` with this factor; 1 changes nothing.
    Brightness(f32),
    /// `ImageEnhance.Color` with this factor; 0 is grey, 1 changes nothing.
    Colour(f32),
    /// `ImageEnhance.Contrast` with this factor; 1 changes nothing.
    Contrast(f32),
    /// `ImageEnhance.Sharpness` with this factor; below 1 is smoother, 1 changes nothing.
    Sharpness(f32),
    /// Added to the hue in Pillow's mode HSV, modulo 256; 256 is the whole circle.
    Hue(u8),
    /// `ImageOps.posterize`: the upper bits that are kept, from 0 (black) to 8 (nothing changes).
    Posterize(u8),
    /// `ImageOps.solarize`: levels from this one on are inverted; 256 changes nothing.
    Solarize(u16),
    /// timm's `solarize_add`: is added to levels below 128, up to 255.
    SolarizeAdd(u8),
    /// `ImageOps.invert`.
    Invert,
    /// `ImageOps.autocontrast`: every channel is stretched to 0..=255.
    AutoContrast,
    /// `ImageOps.equalize`: every channel's histogram is flattened.
    Equalize,
    /// A rectangle is overwritten.
    Erase(Erase),
}

/// Applies operations. Holds scratch memory, up to 6 bytes for each pixel, so use one per worker thread.
#[derive(Debug, Default)]
pub struct Augmenter {
    /// RGB, `[height, width, 3]`.
    current: Vec<u8>,
    /// The output of the next operation, which then becomes `current`.
    spare: Vec<u8>,
    /// Where the image was, in image coordinates.
    region: Option<Rect>,
}

impl Augmenter {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a copy of `region`, which is in image coordinates and must be within `pixels`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn load(&mut self, pixels: Pixels<'_>, region: Rect) -> Result<(), OutOfMemory> {
        self.start(pixels, region, None)
    }

    /// [`Augmenter::load`] and [`Augmenter::apply`], without a copy between them.
    ///
    /// # Errors
    /// Out of memory.
    pub fn load_changed(
        &mut self,
        pixels: Pixels<'_>,
        region: Rect,
        operation: &Operation,
    ) -> Result<(), OutOfMemory> {
        self.start(pixels, region, Some(operation))
    }

    fn start(
        &mut self,
        pixels: Pixels<'_>,
        region: Rect,
        operation: Option<&Operation>,
    ) -> Result<(), OutOfMemory> {
        let all = pixels.covers();
        assert!(all.contains(&region), "{region:?} is not within {all:?}");
        let (width, height) = (region.width as usize, region.height as usize);
        self.region = None;
        resize_scratch(&mut self.current, width * height * 3)?;
        let (left, top) = ((region.x - all.x) as usize, (region.y - all.y) as usize);
        let stride = all.width as usize;
        let from = Source {
            pixels: &pixels.bytes().as_chunks().0[top * stride + left..],
            width,
            height,
            stride,
        };
        match operation {
            Some(operation) => operation.carry_out(from, &mut self.current),
            None => from.copy(&mut self.current),
        }
        self.region = Some(region);
        Ok(())
    }

    /// The image, with the operations applied so far, at the place it was loaded from. `None` before
    /// [`Augmenter::load`].
    #[must_use]
    pub fn pixels(&self) -> Option<Pixels<'_>> {
        Pixels::new(&self.current, self.region?)
    }

    /// Frees the memory of a giant image, where an image without operations follows it.
    pub fn release(&mut self) {
        give_back(&mut self.current, 0);
        give_back(&mut self.spare, 0);
    }

    /// Applies an operation to the image.
    ///
    /// # Errors
    /// Out of memory.
    pub fn apply(&mut self, operation: &Operation) -> Result<(), OutOfMemory> {
        let Some(region) = self.region else {
            return Ok(());
        };
        resize_scratch(&mut self.spare, self.current.len())?;
        let from = Source {
            pixels: self.current.as_chunks().0,
            width: region.width as usize,
            height: region.height as usize,
            stride: region.width as usize,
        };
        operation.carry_out(from, &mut self.spare);
        std::mem::swap(&mut self.current, &mut self.spare);
        Ok(())
    }
}

impl Operation {
    /// Writes the changed image to `to`, `[height, width, 3]`.
    fn carry_out(&self, from: Source<'_>, to: &mut [u8]) {
        match self {
            Self::FlipHorizontal => flip::horizontal(from, to),
            Self::FlipVertical => flip::vertical(from, to),
            Self::Brightness(factor) => blend::brightness(from, *factor, to),
            Self::Colour(factor) => blend::colour(from, *factor, to),
            Self::Contrast(factor) => blend::contrast(from, *factor, to),
            Self::Sharpness(factor) => blend::sharpness(from, *factor, to),
            Self::Hue(shift) => hue::shift(from, *shift, to),
            Self::Posterize(bits) => levels::posterize(from, *bits, to),
            Self::Solarize(level) => levels::solarize(from, *level, to),
            Self::SolarizeAdd(add) => levels::solarize_add(from, *add, to),
            Self::Invert => levels::invert(from, to),
            Self::AutoContrast => histogram::auto_contrast(from, to),
            Self::Equalize => histogram::equalize(from, to),
            Self::Affine(affine) => affine.apply(from, to),
            Self::Erase(erase) => {
                from.copy(to);
                erase.apply((from.width, from.height), to);
            }
        }
    }
}

/// A draw that is true with this probability.
fn coin<R: Rng + ?Sized>(probability: f64, rng: &mut R) -> bool {
    use rand::RngExt as _;
    rng.random::<f64>() < probability
}
