//! Augmentations of a crop before it is resized: what Pillow computes for torchvision and timm, byte for
//! byte.
//!
//! An [`Operation`] holds everything that was drawn, so that carrying it out is a function of the pixels
//! alone. An [`Augmenter`] owns the pixels while operations are applied: some work in place, the others
//! from one buffer to a second.

mod affine;
mod blend;
mod erase;
mod histogram;
mod hue;
mod interpolate;
mod levels;
mod magnitudes;
pub mod policy;

use rand::Rng;

pub use self::affine::{Affine, Sampling};
pub use self::erase::{Erase, Fill, rectangle};
pub use self::magnitudes::linspace;
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

/// Applies operations. Holds scratch memory, 6 bytes for each pixel, so use one per worker thread.
#[derive(Debug, Default)]
pub struct Augmenter {
    /// RGB, `[height, width, 3]`.
    current: Vec<u8>,
    /// The output of operations that do not work in place, which then becomes `current`.
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
        let all = pixels.covers();
        assert!(all.contains(&region), "{region:?} is not within {all:?}");
        let (width, height) = (region.width as usize * 3, region.height as usize);
        resize_scratch(&mut self.current, width * height)?;
        let (left, top) = (region.x - all.x, region.y - all.y);
        let stride = all.width as usize * 3;
        let from = &pixels.bytes()[top as usize * stride + left as usize * 3..];
        for (from, to) in from
            .chunks(stride)
            .zip(self.current.chunks_exact_mut(width))
        {
            to.copy_from_slice(&from[..width]);
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
        let size = (region.width as usize, region.height as usize);
        let bytes = &mut self.current[..];
        match operation {
            Operation::FlipHorizontal => flip_horizontal(bytes, size.0),
            Operation::FlipVertical => flip_vertical(bytes, size.0),
            Operation::Brightness(factor) => blend::brightness(bytes, *factor),
            Operation::Colour(factor) => blend::colour(bytes, *factor),
            Operation::Contrast(factor) => blend::contrast(bytes, *factor),
            Operation::Hue(shift) => hue::shift(bytes, *shift),
            Operation::Posterize(bits) => levels::posterize(bytes, *bits),
            Operation::Solarize(from) => levels::solarize(bytes, *from),
            Operation::SolarizeAdd(add) => levels::solarize_add(bytes, *add),
            Operation::Invert => levels::invert(bytes),
            Operation::AutoContrast => histogram::auto_contrast(bytes),
            Operation::Equalize => histogram::equalize(bytes),
            Operation::Erase(erase) => erase.apply(bytes, size),
            Operation::Sharpness(factor) => {
                resize_scratch(&mut self.spare, bytes.len())?;
                blend::sharpness(bytes, size, *factor, &mut self.spare);
                std::mem::swap(&mut self.current, &mut self.spare);
            }
            Operation::Affine(affine) => {
                resize_scratch(&mut self.spare, bytes.len())?;
                affine.apply(bytes, size, &mut self.spare);
                std::mem::swap(&mut self.current, &mut self.spare);
            }
        }
        Ok(())
    }
}

fn flip_horizontal(bytes: &mut [u8], width: usize) {
    let (pixels, _) = bytes.as_chunks_mut::<3>();
    pixels.chunks_exact_mut(width).for_each(<[_]>::reverse);
}

fn flip_vertical(bytes: &mut [u8], width: usize) {
    let width = width * 3;
    let half = bytes.len() / width / 2 * width;
    let (upper, rest) = bytes.split_at_mut(half);
    let lower = rest.rchunks_exact_mut(width);
    for (upper, lower) in upper.chunks_exact_mut(width).zip(lower) {
        upper.swap_with_slice(lower);
    }
}

/// A draw that is true with this probability.
fn coin<R: Rng + ?Sized>(probability: f64, rng: &mut R) -> bool {
    use rand::RngExt as _;
    rng.random::<f64>() < probability
}
