//! Which operations are drawn: torchvision's `RandAugment` and `TrivialAugmentWide`, and timm's
//! `RandAugment`.

use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;

use super::magnitudes::{bits, linspace};
use super::{Affine, Operation, Sampling, coin};

/// Width and height of the image in pixels.
pub type Size = (u32, u32);

/// The kinds of operations of torchvision's policies, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Colour,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Colour,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Whether the strength is negated in half of the draws.
    fn is_signed(self) -> bool {
        use Kind::*;
        matches!(
            self,
            ShearX
                | ShearY
                | TranslateX
                | TranslateY
                | Rotate
                | Brightness
                | Colour
                | Contrast
                | Sharpness
        )
    }
}

/// The strengths of torchvision's operations in the last bin; the first bin changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Space {
    /// Pixels of shift for each pixel along the other axis.
    shear: f32,
    /// Shift in pixels; `None` is 150/331 of the side.
    translate: Option<f32>,
    /// Degrees.
    rotate: f32,
    /// Distance of the factor of brightness, colour, contrast and sharpness from 1.
    enhance: f32,
    /// Bits that posterizing drops.
    posterize: u32,
}

impl Space {
    /// `RandAugment`'s.
    pub const RAND_AUGMENT: Self = Self {
        shear: 0.3,
        translate: None,
        rotate: 30.0,
        enhance: 0.9,
        posterize: 4,
    };

    /// `TrivialAugmentWide`'s.
    pub const TRIVIAL_AUGMENT: Self = Self {
        shear: 0.99,
        translate: Some(32.0),
        rotate: 135.0,
        enhance: 0.99,
        posterize: 6,
    };

    /// The operation of a kind at the strength of a bin, negated or not; `None` if it changes nothing.
    /// `bins` is at least 2, and `bin` is less.
    /// What comes from outside the image is `fill`.
    #[must_use]
    pub fn operation(
        &self,
        kind: Kind,
        (bin, bins): (u32, u32),
        is_negative: bool,
        fill: [u8; 3],
        (width, height): Size,
    ) -> Option<Operation> {
        let moved = |affine| Some(Operation::Affine(Affine { fill, ..affine }));
        let strength = |largest: f32| {
            let strength = f64::from(linspace(0.0, largest, bins, bin));
            if is_negative { -strength } else { strength }
        };
        let pixels = |side: u32| {
            let share = 150.0 / 331.0 * f64::from(side);
            strength(self.translate.unwrap_or(share as f32)) as i32
        };
        let factor = || (1.0 + strength(self.enhance)) as f32;
        Some(match kind {
            Kind::Identity => return None,
            Kind::ShearX | Kind::ShearY | Kind::Rotate if bin == 0 => return None,
            Kind::ShearX => return moved(Affine::shear(strength(self.shear), 0.0)),
            Kind::ShearY => return moved(Affine::shear(0.0, strength(self.shear))),
            Kind::Rotate => return moved(Affine::rotate(strength(self.rotate), width, height)),
            Kind::TranslateX => return moved(Affine::translate(pixels(width), 0)),
            Kind::TranslateY => return moved(Affine::translate(0, pixels(height))),
            Kind::Brightness => Operation::Brightness(factor()),
            Kind::Colour => Operation::Colour(factor()),
            Kind::Contrast => Operation::Contrast(factor()),
            Kind::Sharpness => Operation::Sharpness(factor()),
            Kind::Posterize => Operation::Posterize(bits(self.posterize, bins, bin)),
            Kind::Solarize => {
                // Levels from this threshold on, which is no integer.
                let threshold = 255.0 * f64::from(linspace(1.0, 0.0, bins, bin));
                Operation::Solarize(threshold.ceil() as u16)
            }
            Kind::AutoContrast => Operation::AutoContrast,
            Kind::Equalize => Operation::Equalize,
        })
    }

    /// Draws a kind, then a bin by `bin`, then a sign.
    pub fn draw<R: Rng + ?Sized>(
        &self,
        bin: impl FnOnce(&mut R) -> u32,
        bins: u32,
        fill: [u8; 3],
        size: Size,
        rng: &mut R,
    ) -> Option<Operation> {
        let kind = *Kind::ALL.choose(rng)?;
        let bin = bin(rng);
        let is_negative = kind.is_signed() && coin(0.5, rng);
        self.operation(kind, (bin, bins), is_negative, fill, size)
    }
}

/// torchvision's `RandAugment`: `operations` times one of 14 kinds, all at the strength of bin
/// `magnitude` of `bins`.
pub fn rand_augment<R: Rng + ?Sized>(
    operations: u32,
    (magnitude, bins): (u32, u32),
    fill: [u8; 3],
    size: Size,
    rng: &mut R,
) -> Vec<Operation> {
    let draw = |_| Space::RAND_AUGMENT.draw(|_| magnitude, bins, fill, size, rng);
    (0..operations).filter_map(draw).collect()
}

/// torchvision's `TrivialAugmentWide`: one of 14 kinds at the strength of one of `bins`.
pub fn trivial_augment<R: Rng + ?Sized>(
    bins: u32,
    fill: [u8; 3],
    size: Size,
    rng: &mut R,
) -> Option<Operation> {
    let bin = |rng: &mut R| rng.random_range(0..bins);
    Space::TRIVIAL_AUGMENT.draw(bin, bins, fill, size, rng)
}

/// The kinds of operations of timm's `RandAugment`, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimmKind {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Colour,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

impl TimmKind {
    pub const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Colour,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];
}

/// timm's `RandAugment`. Strengths are levels from 0 to 10, or to `largest`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timm {
    /// Number of kinds that are drawn for an image.
    pub operations: u32,
    /// The probability that a drawn operation is carried out.
    pub probability: f64,
    /// The mean level.
    pub magnitude: f64,
    /// The standard deviation of the level; above 100 it is uniform from 0 to `magnitude`.
    pub magnitude_std: f64,
    /// The largest level.
    pub largest: f64,
    /// Whether all operations change more at higher levels (`inc1`).
    pub increasing: bool,
    /// The colour of what lies outside the image.
    pub fill: [u8; 3],
}

impl Timm {
    /// Draws the operations for an image.
    pub fn draw<R: Rng + ?Sized>(&self, size: Size, rng: &mut R) -> Vec<Operation> {
        let mut drawn = Vec::new();
        for _ in 0..self.operations {
            let kind = TimmKind::ALL[rng.random_range(0..TimmKind::ALL.len())];
            if !coin(self.probability, rng) {
                continue;
            }
            let level = self.level(rng);
            let is_negative = coin(0.5, rng);
            let sampling = if coin(0.5, rng) {
                Sampling::Bilinear
            } else {
                Sampling::Bicubic
            };
            drawn.extend(self.operation(kind, level, is_negative, sampling, size));
        }
        drawn
    }

    fn level<R: Rng + ?Sized>(&self, rng: &mut R) -> f64 {
        let level = if self.magnitude_std > 100.0 {
            self.magnitude * rng.random::<f64>()
        } else {
            self.magnitude + self.magnitude_std * rng.sample::<f64, _>(StandardNormal)
        };
        level.clamp(0.0, self.largest)
    }

    /// The operation of a kind at a level; `None` if it changes nothing. Kinds without a sign ignore
    /// `is_negative`, and those that move no pixels ignore `sampling`.
    #[must_use]
    pub fn operation(
        &self,
        kind: TimmKind,
        level: f64,
        is_negative: bool,
        sampling: Sampling,
        (width, height): Size,
    ) -> Option<Operation> {
        let level = level / 10.0;
        let signed = |strength: f64| if is_negative { -strength } else { strength };
        let factor = || match self.increasing {
            true => (1.0 + signed(level * 0.9)).max(0.1) as f32,
            false => (level * 1.8 + 0.1) as f32,
        };
        let moved = |matrix| Affine {
            matrix,
            sampling,
            fill: self.fill,
        };
        let (shear, shift) = (signed(level * 0.3), signed(level * 0.45));
        let affine = match kind {
            TimmKind::AutoContrast => return Some(Operation::AutoContrast),
            TimmKind::Equalize => return Some(Operation::Equalize),
            TimmKind::Invert => return Some(Operation::Invert),
            TimmKind::Posterize => {
                // Nothing is kept at the highest level, for which timm fails with Pillow 13.
                let bits = (level * 4.0) as u8;
                let bits = if self.increasing {
                    4_u8.saturating_sub(bits)
                } else {
                    bits
                };
                return Some(Operation::Posterize(bits));
            }
            TimmKind::Solarize => {
                let from = ((level * 256.0) as u16).min(256);
                let from = if self.increasing { 256 - from } else { from };
                return Some(Operation::Solarize(from));
            }
            TimmKind::SolarizeAdd => {
                return Some(Operation::SolarizeAdd(((level * 110.0) as u8).min(128)));
            }
            TimmKind::Colour => return Some(Operation::Colour(factor())),
            TimmKind::Contrast => return Some(Operation::Contrast(factor())),
            TimmKind::Brightness => return Some(Operation::Brightness(factor())),
            TimmKind::Sharpness => return Some(Operation::Sharpness(factor())),
            _ if level == 0.0 => return None,
            TimmKind::Rotate => {
                let rotation = Affine::rotate(signed(level * 30.0), width, height);
                moved(rotation.matrix)
            }
            TimmKind::ShearX => moved([1.0, shear, 0.0, 0.0, 1.0, 0.0]),
            TimmKind::ShearY => moved([1.0, 0.0, 0.0, shear, 1.0, 0.0]),
            TimmKind::TranslateX => moved([1.0, 0.0, shift * f64::from(width), 0.0, 1.0, 0.0]),
            TimmKind::TranslateY => moved([1.0, 0.0, 0.0, 0.0, 1.0, shift * f64::from(height)]),
        };
        Some(Operation::Affine(affine))
    }
}

/// torchvision's `ColorJitter`: factors drawn uniformly from `1 - x..1 + x`, not below 0, and a hue from
/// `-x..x`, in a random order. What is 0 is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
    /// In circles, at most 0.5.
    pub hue: f64,
}

impl Jitter {
    /// Draws the operations for an image.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> Vec<Operation> {
        use rand::seq::SliceRandom as _;
        let mut between = |from: f64, to: f64| from + (to - from) * rng.random::<f64>();
        let mut factor = |x: f64| between((1.0 - x).max(0.0), 1.0 + x) as f32;
        let (brightness, contrast) = (factor(self.brightness), factor(self.contrast));
        let saturation = factor(self.saturation);
        let hue = between(-self.hue, self.hue);
        let drawn = [
            (self.brightness, Operation::Brightness(brightness)),
            (self.contrast, Operation::Contrast(contrast)),
            (self.saturation, Operation::Colour(saturation)),
            (self.hue, Operation::Hue(hue_shift(hue))),
        ];
        let mut drawn = drawn.into_iter().filter(|(range, _)| *range > 0.0);
        let mut drawn: Vec<Operation> = drawn.by_ref().map(|(_, operation)| operation).collect();
        drawn.shuffle(rng);
        drawn
    }
}

/// The shift of torchvision's `adjust_hue` on Pillow images, for a part of the circle from -0.5 to 0.5.
#[must_use]
pub fn hue_shift(turns: f64) -> u8 {
    (turns * 255.0) as i32 as u8
}
