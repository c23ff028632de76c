//! How an image file becomes the pixels that a network is measured on: one description, by which the
//! validation nodes work, which checkpoints keep, and which `eval` and `predict` follow.
//!
//! It is here, as [`crate::Batch`] is, because both sides need it and neither may know the
//! other: the data nodes do what it says, the model keeps it.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pillow refuses images with more pixels than this.
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// The largest side of a resized image in pixels. Nobody trains on more, and a typing mistake must
/// not ask for all memory.
pub const MAX_SIZE: u32 = 4096;

/// What is done to an image before it is pixels in a batch, in this order. Checkpoints keep it as JSON
/// under these names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Images with more pixels than this are refused; at least 1.
    pub max_pixels: u64,
    /// Whether images are turned as their EXIF orientation says.
    pub exif_orientation: bool,
    /// What is resized to what.
    pub resize: Resize,
    /// How pixels are interpolated when the image is scaled.
    pub interpolation: Interpolation,
    /// The share of the scaled image's short side that the central square takes, above 0 and up to 1.
    pub fraction: f64,
}

/// What is resized to what. The central square is cut out afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Resize {
    /// The image, for each resolution anew: its short side becomes `resolution / fraction`, truncated;
    /// offsets of the square are rounded half to even. As torchvision's `Resize` and `CenterCrop`.
    ShortSide,
    /// The image once, its short side to `side / fraction`, rounded half up; offsets of the square are
    /// rounded down. Every resolution is nearest-neighbour samples of this square, as in LQ-Nets'
    /// TensorFlow code.
    Cascade {
        /// The side of the square, in pixels. No resolution can be larger.
        side: u32,
    },
}

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Interpolation {
    /// Bilinear, antialiased where the image shrinks, as Pillow does.
    AntialiasedBilinear,
    /// Bicubic with A = -0.5, antialiased where the image shrinks, as Pillow does: timm's usual one.
    AntialiasedBicubic,
    /// Bicubic with A = -0.75, never antialiased, as OpenCV does.
    Bicubic,
}

/// As the reference validates.
impl Default for Preprocess {
    fn default() -> Self {
        Self {
            max_pixels: DEFAULT_MAX_PIXELS,
            exif_orientation: false,
            resize: Resize::ShortSide,
            interpolation: Interpolation::AntialiasedBilinear,
            fraction: 0.875,
        }
    }
}

impl Preprocess {
    /// Finds values that no image can be made by.
    ///
    /// # Errors
    /// There is one; the message names its field.
    pub fn check(&self) -> Result<()> {
        let Self {
            max_pixels,
            fraction,
            ..
        } = *self;
        ensure!(max_pixels > 0, "`max_pixels` must be at least 1");
        ensure!(
            fraction > 0.0 && fraction <= 1.0,
            "`fraction` must be above 0 and at most 1, not {fraction}"
        );
        if let Resize::Cascade { side } = self.resize {
            ensure!(
                (1..=MAX_SIZE).contains(&side),
                "`side` must be from 1 to {MAX_SIZE}, not {side}"
            );
        }
        Ok(())
    }

    /// Whether it makes images of this size: a cascade has none that are larger than its square.
    pub fn reaches(&self, size: u32) -> bool {
        match self.resize {
            Resize::ShortSide => true,
            Resize::Cascade { side } => size <= side,
        }
    }
}
