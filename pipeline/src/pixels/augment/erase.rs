//! Random erasing: a rectangle of the image is overwritten.

use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Rect;
use crate::pixels::crop::uniform;

/// Number of draws before the image stays as it is.
const ATTEMPTS: usize = 10;

/// A rectangle, and what it is overwritten with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erase {
    /// Counted from the image's upper left corner, and within the image.
    pub rect: Rect,
    pub fill: Fill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Red, green and blue.
    Colour([u8; 3]),
    /// Independent levels, uniform in 0..=255, from a generator with this seed.
    Noise(u64),
}

/// Draws the rectangle of torchvision's and timm's random erasing.
///
/// `scale` is the range of its area as a fraction of the image's, drawn uniformly; `ratio` is the range
/// of height divided by width, drawn log-uniformly. Sides are rounded half to even. The first of ten
/// draws that is smaller than the image in both directions is placed uniformly; `None` if there is none,
/// or if it has no pixel.
pub fn rectangle<R: Rng + ?Sized>(
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut R,
) -> Option<Rect> {
    let area = f64::from(width) * f64::from(height);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..ATTEMPTS {
        let target = area * uniform(scale, rng);
        let aspect = uniform(log_ratio, rng).exp();
        let h = (target * aspect).sqrt().round_ties_even();
        let w = (target / aspect).sqrt().round_ties_even();
        if h < f64::from(height) && w < f64::from(width) {
            let rect = Rect {
                width: w as u32,
                height: h as u32,
                y: rng.random_range(0..=height - h as u32),
                x: rng.random_range(0..=width - w as u32),
            };
            return (rect.width > 0 && rect.height > 0).then_some(rect);
        }
    }
    None
}

impl Erase {
    pub(super) fn apply(&self, (width, height): (usize, usize), bytes: &mut [u8]) {
        let rect = self.rect;
        let image = Rect::whole(width as u32, height as u32);
        assert!(image.contains(&rect), "{rect:?} is not within {image:?}");
        let rows = bytes.chunks_exact_mut(width * 3);
        let rows = rows.skip(rect.y as usize).take(rect.height as usize);
        let rows = rows.map(|row| &mut row[rect.x as usize * 3..][..rect.width as usize * 3]);
        match self.fill {
            Fill::Colour(colour) => rows.for_each(|row| row.as_chunks_mut::<3>().0.fill(colour)),
            Fill::Noise(seed) => {
                let mut noise = Xoshiro256PlusPlus::seed_from_u64(seed);
                rows.for_each(|row| noise.fill_bytes(row));
            }
        }
    }
}
