//! Crop geometry: exactly torchvision's, or that of the quantized reference, LQ-Nets' TensorFlow code
//! ([`inception_crop`], [`short_side_center_crop`]).

use rand::{Rng, RngExt};

use super::{Filter, Rect, ResizePlan};

/// Number of draws before the fallback.
const ATTEMPTS: usize = 10;

/// Draws the crop of torchvision's `RandomResizedCrop`.
///
/// `scale` is the range of the crop's area as a fraction of the image's, drawn uniformly; `ratio` is the
/// range of width divided by height, drawn log-uniformly. Sides are rounded half to even. The first of
/// ten draws that fits is placed uniformly, including the far edges; if none fits, the result is the
/// largest central crop within `ratio`.
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
    let area = f64::from(width) * f64::from(height);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..ATTEMPTS {
        let target = area * uniform(scale, rng);
        let aspect = uniform(log_ratio, rng).exp();
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

/// Draws the crop of the quantized reference, which names it after GoogLeNet.
///
/// `scale` is the range of the crop's area as a fraction of the image's and `ratio` that of its sides,
/// both drawn uniformly; which side is the width is drawn too. Sides are rounded half up. The first of
/// ten draws that fits is placed uniformly, but touches the right or the lower edge only if it fills the
/// image in that direction. `None` if none fits; the reference then uses the whole image, see
/// [`short_side_center_crop`].
///
/// Ranges are `[from, to)` with `0 < from <= to`; a range of one value, or one that is not in order,
/// gives its first value. The crop has at least one pixel (where the reference fails on tiny images) and
/// is within the image, whose sides must be at least 1.
pub fn inception_crop<R: Rng + ?Sized>(
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut R,
) -> Option<Rect> {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..ATTEMPTS {
        let target = area * uniform(scale, rng);
        let aspect = uniform(ratio, rng);
        let mut w = ((target * aspect).sqrt() + 0.5) as u32;
        let mut h = ((target / aspect).sqrt() + 0.5) as u32;
        if rng.random() {
            (w, h) = (h, w);
        }
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let mut place = |room: u32| {
                if room == 0 {
                    0
                } else {
                    rng.random_range(0..room)
                }
            };
            return Some(Rect {
                x: place(width - w),
                y: place(height - h),
                width: w,
                height: h,
            });
        }
    }
    None
}

/// A uniform draw from `[range.0, range.1)`.
pub(super) fn uniform<R: Rng + ?Sized>(range: (f64, f64), rng: &mut R) -> f64 {
    let draw: f64 = rng.random();
    range.0 + (range.1 - range.0).max(0.0) * draw
}

/// Resizes a training crop to `size` by `size`.
#[must_use]
pub fn training(crop: Rect, size: u32, flip: bool) -> ResizePlan {
    ResizePlan {
        source: crop,
        scaled: (size, size),
        window: (0, 0),
        size,
        flip,
        filter: Filter::Bilinear,
    }
}

/// Validation preprocessing, as torchvision's `Resize` and `CenterCrop`: resizes the short side to
/// `size / fraction`, then crops the centre.
///
/// Both sides are truncated to integers (with a fraction of 0.875, the short side is 256, 219, 182, 146,
/// 109 for 224, 192, 160, 128, 96); the offsets of the crop are rounded half to even. A fraction outside
/// of (0, 1] is replaced by 1.
#[must_use]
pub fn validation(width: u32, height: u32, size: u32, fraction: f64) -> ResizePlan {
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
    ResizePlan {
        source: Rect::whole(width, height),
        scaled,
        window: (offset(scaled.0), offset(scaled.1)),
        size,
        flip: false,
        filter: Filter::Bilinear,
    }
}

/// The quantized reference's bicubic resize of the short side to `short`, then a centre crop. Used for
/// validation, and for training with `short == size` where no [`inception_crop`] fits.
///
/// The long side is rounded half up, the offsets of the crop are rounded down. A `short` below `size` is
/// replaced by `size`.
#[must_use]
pub fn short_side_center_crop(width: u32, height: u32, short: u32, size: u32) -> ResizePlan {
    let short = short.max(size);
    let scale = f64::from(short) / f64::from(width.min(height));
    let long = |side: u32| (f64::from(side) * scale + 0.5) as u32;
    let scaled = if width <= height {
        (short, long(height))
    } else {
        (long(width), short)
    };
    ResizePlan {
        source: Rect::whole(width, height),
        scaled,
        window: ((scaled.0 - size) / 2, (scaled.1 - size) / 2),
        size,
        flip: false,
        filter: Filter::Cubic,
    }
}

/// The quantized reference's validation: [`short_side_center_crop`] with a short side of
/// `size / fraction`, rounded half up.
#[must_use]
pub fn cascaded_center_crop(width: u32, height: u32, size: u32, fraction: f64) -> ResizePlan {
    let short = (f64::from(size) / fraction + 0.5) as u32;
    short_side_center_crop(width, height, short, size)
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
    fn inception_crops_obey_their_rules() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        let (side, draws) = (2000_u32, 20_000);
        let (mut wide, mut ratios, mut areas, mut lefts) = (0, 0.0, 0.0, 0.0);
        for _ in 0..draws {
            // Small enough that every draw fits, so that nothing is rejected.
            let crop = inception_crop(side, side, (0.1, 0.5), (0.5, 0.9), &mut rng).unwrap();
            let (w, h) = (f64::from(crop.width), f64::from(crop.height));
            // Without the swap none would be wider than high.
            wide += u32::from(w > h);
            ratios += w.min(h) / w.max(h);
            areas += w * h / f64::from(side * side);
            lefts += f64::from(crop.x) / f64::from(side - crop.width);
        }
        let mean = |sum: f64| sum / f64::from(draws);
        assert!((mean(f64::from(wide)) - 0.5).abs() < 0.02, "{wide}");
        // Uniform, where uniform in the logarithm gives 0.681.
        assert!((mean(ratios) - 0.7).abs() < 0.003, "{}", mean(ratios));
        assert!((mean(areas) - 0.3).abs() < 0.005, "{}", mean(areas));
        assert!((mean(lefts) - 0.5).abs() < 0.01, "{}", mean(lefts));
    }

    #[test]
    fn inception_crops_touch_the_far_edge_only_if_they_fill_the_side() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(6);
        let (mut filled, mut places) = ([0; 2], [[0; 7]; 2]);
        for _ in 0..20_000 {
            let crop = inception_crop(7, 6, SCALE, (0.75, 1.333), &mut rng);
            let Some(crop) = crop else { continue };
            let axes = [(crop.x, crop.width, 7), (crop.y, crop.height, 6)];
            for (axis, (at, length, side)) in axes.into_iter().enumerate() {
                assert!((1..=side).contains(&length), "{crop:?}");
                if length == side {
                    assert_eq!(at, 0);
                    filled[axis] += 1;
                } else {
                    assert!(at + length < side, "{crop:?}");
                    places[axis][at as usize] += 1;
                }
            }
        }
        // The shortest crops, of two pixels, reach 4 and 3.
        assert!(filled.iter().all(|&count| count > 100), "{filled:?}");
        assert!(places[0][..5].iter().all(|&count| count > 100));
        assert!(places[1][..4].iter().all(|&count| count > 100));
    }

    #[test]
    fn what_fits_no_inception_crop_is_none() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut none = |width, height, scale| {
            (0..1000)
                .filter(|_| inception_crop(width, height, scale, RATIO, &mut rng).is_none())
                .count()
        };
        assert_eq!(none(1000, 10, SCALE), 1000);
        assert_eq!(none(40, 40, (2.0, 2.0)), 1000);
        assert_eq!(none(2, 2, (0.01, 0.02)), 1000, "no crop without a pixel");
        assert_eq!(none(500, 375, SCALE), 0);
        assert_eq!(none(1, 1, (0.5, 1.0)), 0);
    }

    #[test]
    fn short_side_center_crop_follows_the_quantized_reference() {
        // Image, short side, size, then the scaled size and the offsets (x, y) of its formulas.
        let cases = [
            ((375, 500), 256, 224, (256, 341), (16, 58)),
            ((500, 375), 256, 224, (341, 256), (58, 16)),
            ((333, 251), 256, 224, (340, 256), (58, 16)),
            ((1000, 10), 224, 224, (22400, 224), (11088, 0)),
            ((10, 1000), 96, 96, (96, 9600), (0, 4752)),
            ((1, 1), 32, 32, (32, 32), (0, 0)),
            ((7, 7), 9, 7, (9, 9), (1, 1)),
            ((225, 224), 224, 224, (225, 224), (0, 0)),
            // 241.5, but 224 / 320 is a little less than 0.7.
            ((345, 320), 224, 224, (241, 224), (8, 0)),
            // Less than is wanted.
            ((50, 40), 16, 32, (40, 32), (4, 0)),
        ];
        for ((width, height), short, size, scaled, window) in cases {
            let plan = short_side_center_crop(width, height, short, size);
            let expected = ResizePlan {
                source: Rect::whole(width, height),
                scaled,
                window,
                size,
                flip: false,
                filter: Filter::Cubic,
            };
            assert_eq!(plan, expected, "{width}x{height}");
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
