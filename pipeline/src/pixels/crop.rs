//! Which rectangle of an image is used, to the letter of torchvision.

use rand::{Rng, RngExt};

use super::{Rect, Rendition};

/// How often a rectangle is drawn before the centre is taken.
const ATTEMPTS: usize = 10;

/// Draws the crop of torchvision's `RandomResizedCrop`.
///
/// `scale` is the range of the crop's area as a fraction of the image's, drawn uniformly; `ratio`
/// the range of its width divided by its height, drawn uniformly in the logarithm. Sides are rounded
/// half to even. The first of ten draws that fits is placed uniformly, touching the far edges
/// included; if none fits, the largest central crop within `ratio` is taken.
///
/// Ranges are `(from, to)` with `0 < from <= to`; a range of one value, or one that is not in order,
/// gives its first value. The result has at least one pixel and lies within the image, whose sides
/// must be at least 1.
pub fn random_resized_crop<R: Rng + ?Sized>(
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut R,
) -> Rect {
    let mut uniform = |range: (f64, f64)| {
        let draw: f64 = rng.random();
        range.0 + (range.1 - range.0).max(0.0) * draw
    };
    let area = f64::from(width) * f64::from(height);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..ATTEMPTS {
        let target = area * uniform(scale);
        let aspect = uniform(log_ratio).exp();
        let w = (target * aspect).sqrt().round_ties_even();
        let h = (target / aspect).sqrt().round_ties_even();
        if w > 0.0 && h > 0.0 && w <= f64::from(width) && h <= f64::from(height) {
            let (w, h) = (w as u32, h as u32);
            let y = rng.random_range(0..=height - h);
            let x = rng.random_range(0..=width - w);
            return Rect {
                x,
                y,
                width: w,
                height: h,
            };
        }
    }
    central_crop(width, height, ratio)
}

/// The largest central rectangle whose ratio of width to height is within `ratio`.
fn central_crop(width: u32, height: u32, ratio: (f64, f64)) -> Rect {
    let (w, h) = (f64::from(width), f64::from(height));
    let within = w / h;
    let (crop_w, crop_h) = if within < ratio.0 {
        (w, (w / ratio.0).round_ties_even())
    } else if within > ratio.1 {
        ((h * ratio.1).round_ties_even(), h)
    } else {
        (w, h)
    };
    let crop_w = (crop_w as u32).clamp(1, width);
    let crop_h = (crop_h as u32).clamp(1, height);
    Rect {
        x: (width - crop_w) / 2,
        y: (height - crop_h) / 2,
        width: crop_w,
        height: crop_h,
    }
}

/// How a training crop becomes one of the resolutions: all of it, scaled to `size` by `size`.
#[must_use]
pub fn training(crop: Rect, size: u32, flip: bool) -> Rendition {
    Rendition {
        source: crop,
        scaled: (size, size),
        window: (0, 0),
        size,
        flip,
    }
}

/// How a whole image becomes a validation image: its short side scaled to `size / fraction`, then
/// the centre cut out.
///
/// That side is truncated to an integer (with a fraction of 0.875: 256, 219, 182, 146, 109 for 224,
/// 192, 160, 128, 96) and so is the long one; the offsets of the centre are rounded half to even.
/// A fraction above 1 (or not above 0) would ask for more than there is, and is taken as 1.
#[must_use]
pub fn validation(width: u32, height: u32, size: u32, fraction: f64) -> Rendition {
    let short = (f64::from(size) / fraction) as u32;
    let short = if fraction > 0.0 {
        short.max(size)
    } else {
        size
    };
    let scaled = if width <= height {
        (short, scale(short, height, width))
    } else {
        (scale(short, width, height), short)
    };
    let offset = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as u32;
    Rendition {
        source: Rect::whole(width, height),
        scaled,
        window: (offset(scaled.0), offset(scaled.1)),
        size,
        flip: false,
    }
}

/// `short * long_side / short_side`, truncated; at least `short`.
fn scale(short: u32, long_side: u32, short_side: u32) -> u32 {
    let scaled = u64::from(short) * u64::from(long_side) / u64::from(short_side.max(1));
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    const SCALE: (f64, f64) = (0.08, 1.0);
    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

    #[test]
    fn crops_lie_within_the_image_and_its_ranges() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let sizes = [
            (500, 375),
            (375, 500),
            (96, 96),
            (1, 1),
            (1, 9),
            (2, 3),
            (9, 1),
            (3000, 40),
        ];
        for (width, height) in sizes {
            for _ in 0..2000 {
                let crop = random_resized_crop(width, height, SCALE, RATIO, &mut rng);
                assert!(Rect::whole(width, height).contains(&crop), "{crop:?}");
            }
        }
    }

    #[test]
    fn area_aspect_and_position_are_spread_as_promised() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        let (side, draws) = (2000_u32, 20_000);
        let (mut logs, mut areas, mut lefts) = (0.0, 0.0, 0.0);
        for _ in 0..draws {
            // Small enough that every draw fits, so that nothing is rejected.
            let crop = random_resized_crop(side, side, (0.1, 0.5), RATIO, &mut rng);
            let (w, h) = (f64::from(crop.width), f64::from(crop.height));
            logs += (w / h).ln();
            areas += w * h / f64::from(side * side);
            lefts += f64::from(crop.x) / f64::from(side - crop.width);
        }
        let mean = |sum: f64| sum / f64::from(draws);
        assert!(mean(logs).abs() < 0.01, "{}", mean(logs));
        assert!((mean(areas) - 0.3).abs() < 0.005, "{}", mean(areas));
        assert!((mean(lefts) - 0.5).abs() < 0.01, "{}", mean(lefts));
    }

    #[test]
    fn positions_reach_both_edges() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let crops: Vec<Rect> = (0..1000)
            .map(|_| random_resized_crop(5, 5, (0.3, 0.4), (1.0, 1.0), &mut rng))
            .collect();
        assert!(crops.iter().all(|c| (c.width, c.height) == (3, 3)));
        for edge in [0, 2] {
            assert!(crops.iter().any(|c| c.x == edge) && crops.iter().any(|c| c.y == edge));
        }
    }

    #[test]
    fn what_never_fits_becomes_the_centre() {
        // Width, height, and torchvision's rectangle.
        let cases = [
            ((1000, 10), (493, 0, 13, 10)),
            ((10, 1000), (0, 493, 10, 13)),
            ((1, 100), (0, 49, 1, 1)),
            ((101, 2), (49, 0, 3, 2)),
            ((40, 40), (0, 0, 40, 40)),
        ];
        for ((width, height), (x, y, w, h)) in cases {
            let expected = Rect {
                x,
                y,
                width: w,
                height: h,
            };
            // More than the image's area fits no draw.
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
            let crop = random_resized_crop(width, height, (2.0, 2.0), RATIO, &mut rng);
            assert_eq!(crop, expected, "{width}x{height}");
        }
    }

    #[test]
    fn validation_follows_torchvision() {
        // Image, size, then torchvision's scaled size and offsets (x, y).
        let cases = [
            ((500, 375), 224, (341, 256), (58, 16)),
            ((375, 500), 224, (256, 341), (16, 58)),
            ((500, 375), 192, (292, 219), (50, 14)),
            ((500, 375), 160, (242, 182), (41, 11)),
            ((500, 375), 128, (194, 146), (33, 9)),
            ((500, 375), 96, (145, 109), (24, 6)),
            ((224, 224), 224, (256, 256), (16, 16)),
            ((1, 1000), 224, (256, 256_000), (16, 127_888)),
        ];
        for ((width, height), size, scaled, window) in cases {
            let plan = validation(width, height, size, 0.875);
            assert_eq!(
                (plan.scaled, plan.window),
                (scaled, window),
                "{width}x{height} {size}"
            );
            assert_eq!(plan.source, Rect::whole(width, height));
        }
    }

    #[test]
    fn a_fraction_beyond_the_image_is_the_image() {
        for fraction in [1.0, 1.5, 0.0, -1.0, f64::NAN] {
            let plan = validation(50, 40, 32, fraction);
            assert_eq!((plan.scaled, plan.window), ((40, 32), (4, 0)), "{fraction}");
        }
    }
}
