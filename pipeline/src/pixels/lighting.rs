//! Lighting: AlexNet's colour augmentation along the principal components of ImageNet's RGB values.

use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;

/// Standard deviations of the components in ImageNet, for RGB values from 0 to 1.
const EIGENVALUES: [f64; 3] = [0.2175, 0.0188, 0.0045];
/// Rows are red, green and blue; columns are components.
const EIGENVECTORS: [[f64; 3]; 3] = [
    [-0.5675, 0.7192, 0.4009],
    [-0.5808, -0.0045, -0.8140],
    [-0.5836, -0.6948, 0.4203],
];

/// Draws the coefficient of each component from a normal distribution with mean 0 and standard deviation
/// `std`.
pub fn draw<R: Rng + ?Sized>(std: f64, rng: &mut R) -> [f64; 3] {
    [(); 3].map(|()| std * rng.sample::<f64, _>(StandardNormal))
}

/// The increments of red, green and blue for these coefficients, in units of 8-bit values.
#[must_use]
pub fn increments(alphas: [f64; 3]) -> [f64; 3] {
    EIGENVECTORS.map(|row| {
        let components = row.iter().zip(EIGENVALUES).zip(alphas);
        components
            .map(|((part, eigenvalue), alpha)| part * (eigenvalue * 255.0 * alpha))
            .sum()
    })
}

/// Adds increments to red, green and blue of RGB pixels. Sums are clipped to 0..=255, then truncated.
pub fn add(increments: [f64; 3], pixels: &mut [u8]) {
    let tables = increments.map(|increment| {
        std::array::from_fn::<u8, 256, _>(|level| {
            (level as f64 + increment).clamp(0.0, 255.0) as u8
        })
    });
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for pixel in pixels {
        for (level, table) in pixel.iter_mut().zip(&tables) {
            *level = table[usize::from(*level)];
        }
    }
}
