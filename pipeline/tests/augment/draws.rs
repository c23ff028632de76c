//! What is drawn: kinds, strengths, signs, orders and places.

use std::collections::HashMap;

use rand::SeedableRng as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::Rect;
use rsflow_pipeline::pixels::augment::policy::{self, Jitter, Timm};
use rsflow_pipeline::pixels::augment::{Operation, rectangle};

const DRAWS: u32 = 28_000;
/// A size at which every kind of operation changes something.
const SIZE: (u32, u32) = (300, 200);

/// What an operation is, without its numbers; affine transforms by what they do.
fn name(operation: &Operation) -> String {
    let Operation::Affine(affine) = operation else {
        let name = format!("{operation:?}");
        return name.split('(').next().unwrap().to_owned();
    };
    let [a, b, c, d, e, f] = affine.matrix;
    let name = match () {
        () if (a, b, d, e) == (1.0, 0.0, 0.0, 1.0) && f == 0.0 => "TranslateX",
        () if (a, b, d, e) == (1.0, 0.0, 0.0, 1.0) && c == 0.0 => "TranslateY",
        () if (a, d, e) == (1.0, 0.0, 1.0) => "ShearX",
        () if (a, b, e) == (1.0, 0.0, 1.0) => "ShearY",
        () => "Rotate",
    };
    name.to_owned()
}

/// Whether a signed operation moves to the right, down, or up in brightness and so on.
fn is_positive(operation: &Operation) -> Option<bool> {
    match operation {
        Operation::Affine(affine) => {
            let [_, b, c, d, _, f] = affine.matrix;
            let first = match name(operation).as_str() {
                "TranslateX" => -c,
                "TranslateY" => -f,
                "ShearX" | "Rotate" => b,
                _ => d,
            };
            Some(first > 0.0)
        }
        Operation::Brightness(factor)
        | Operation::Colour(factor)
        | Operation::Contrast(factor)
        | Operation::Sharpness(factor) => Some(*factor > 1.0),
        _ => None,
    }
}

/// `count` of `draws` is within five standard deviations of a probability.
fn assert_share(count: u32, draws: u32, probability: f64, what: &str) {
    let draws = f64::from(draws);
    let deviation = (draws * probability * (1.0 - probability)).sqrt();
    let distance = (f64::from(count) - draws * probability).abs();
    assert!(
        distance <= 5.0 * deviation,
        "{what}: {count} of {draws}, expected {probability}"
    );
}

/// Of all signed operations together half are positive.
fn assert_signs(counts: &HashMap<String, (u32, u32)>) {
    let signed = counts.values().filter(|(_, positive)| *positive > 0);
    let (all, positive) = signed.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert_share(positive, all, 0.5, "signs");
}

/// Counts the operations by name, and of the signed ones those that are positive.
fn counted(drawn: &[Operation]) -> HashMap<String, (u32, u32)> {
    let mut counts: HashMap<String, (u32, u32)> = HashMap::new();
    for operation in drawn {
        let count = counts.entry(name(operation)).or_default();
        count.0 += 1;
        count.1 += u32::from(is_positive(operation) == Some(true));
    }
    counts
}

#[test]
fn torchvisions_kinds_signs_and_bins_are_equally_likely() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut rand = Vec::new();
    for _ in 0..DRAWS / 2 {
        rand.extend(policy::rand_augment(2, (9, 31), [0; 3], SIZE, &mut rng));
    }
    let counts = counted(&rand);
    assert_eq!(counts.len(), 13, "{counts:?}");
    assert_signs(&counts);
    for (name, (count, positive)) in &counts {
        assert_share(*count, DRAWS, 1.0 / 14.0, name);
        if *positive > 0 {
            assert_share(*positive, *count, 0.5, name);
        }
    }
    // Every brightness is of bin 9.
    let strengths = rand.iter().filter_map(|operation| match operation {
        Operation::Brightness(factor) => Some((factor - 1.0).abs()),
        _ => None,
    });
    let expected = 0.9 * 9.0 / 30.0;
    assert!(strengths.into_iter().all(|s| (s - expected).abs() < 1e-6));

    let mut bins = [0; 31];
    let mut drawn = 0;
    for _ in 0..31 * 14 * 200 {
        if let Some(Operation::Contrast(factor)) =
            policy::trivial_augment(31, [0; 3], SIZE, &mut rng)
        {
            bins[((factor - 1.0).abs() / 0.99 * 30.0).round() as usize] += 1;
            drawn += 1;
        }
    }
    assert_share(drawn, 31 * 14 * 200, 1.0 / 14.0, "contrast");
    for (bin, count) in bins.into_iter().enumerate() {
        assert_share(count, drawn, 1.0 / 31.0, &format!("bin {bin}"));
    }
}

#[test]
fn timms_kinds_are_drawn_with_their_probability_and_level() {
    let timm = Timm {
        operations: 2,
        probability: 0.5,
        magnitude: 6.0,
        magnitude_std: 0.5,
        largest: 10.0,
        increasing: true,
        fill: [0; 3],
    };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let mut drawn = |timm: Timm| {
        let draws = (0..DRAWS / 2).flat_map(|_| timm.draw(SIZE, &mut rng));
        draws.collect::<Vec<_>>()
    };
    let operations = drawn(timm);
    let counts = counted(&operations);
    assert_eq!(counts.len(), 15, "{counts:?}");
    assert_signs(&counts);
    for (name, (count, positive)) in &counts {
        assert_share(*count, DRAWS, 0.5 / 15.0, name);
        if *positive > 0 {
            assert_share(*positive, *count, 0.5, name);
        }
    }
    let levels = |operations: &[Operation]| {
        let levels = operations.iter().filter_map(|operation| match operation {
            Operation::Affine(affine) if name(operation) == "ShearX" => {
                Some(affine.matrix[1].abs() / 0.03)
            }
            _ => None,
        });
        let levels: Vec<f64> = levels.collect();
        let mean = levels.iter().sum::<f64>() / levels.len() as f64;
        let variance = levels.iter().map(|l| (l - mean).powi(2)).sum::<f64>();
        (mean, (variance / levels.len() as f64).sqrt(), levels)
    };
    let (mean, std, _) = levels(&operations);
    assert!(
        (mean - 6.0).abs() < 0.1 && (std - 0.5).abs() < 0.07,
        "{mean} {std}"
    );
    let (.., constant) = levels(&drawn(Timm {
        magnitude_std: 0.0,
        ..timm
    }));
    assert!(constant.iter().all(|level| (level - 6.0).abs() < 1e-9));
    let (.., capped) = levels(&drawn(Timm {
        magnitude_std: 5.0,
        ..timm
    }));
    assert!(capped.iter().all(|level| *level < 10.0 + 1e-9));
    assert!(capped.iter().any(|level| *level > 10.0 - 1e-9));
    // Uniform from 0 to 6: the standard deviation is 6 / sqrt(12).
    let (mean, std, _) = levels(&drawn(Timm {
        magnitude_std: 101.0,
        ..timm
    }));
    assert!(
        (mean - 3.0).abs() < 0.25 && (std - 1.73).abs() < 0.15,
        "{mean} {std}"
    );
}

#[test]
fn jitter_is_drawn_from_its_ranges_in_every_order() {
    let jitter = Jitter {
        brightness: 0.4,
        contrast: 1.5,
        saturation: 0.0,
        hue: 0.25,
    };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut orders: HashMap<Vec<String>, u32> = HashMap::new();
    let (mut brightness, mut contrast, mut hues) = (0.0, 0.0, [0; 256]);
    for _ in 0..DRAWS {
        let drawn = jitter.draw(&mut rng);
        *orders.entry(drawn.iter().map(name).collect()).or_default() += 1;
        for operation in drawn {
            match operation {
                Operation::Brightness(factor) => {
                    assert!((0.6..=1.4).contains(&factor), "{factor}");
                    brightness += f64::from(factor);
                }
                Operation::Contrast(factor) => {
                    assert!((0.0..=2.5).contains(&factor), "{factor}");
                    contrast += f64::from(factor);
                }
                Operation::Hue(shift) => hues[usize::from(shift.wrapping_add(128))] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(orders.len(), 6);
    for (order, count) in orders {
        assert_share(count, DRAWS, 1.0 / 6.0, &format!("{order:?}"));
    }
    let mean = |sum: f64| sum / f64::from(DRAWS);
    assert!(
        (mean(brightness) - 1.0).abs() < 0.01,
        "{}",
        mean(brightness)
    );
    assert!((mean(contrast) - 1.25).abs() < 0.03, "{}", mean(contrast));
    // 0.25 * 255 is 63.75, so -63 to 63; 0 is what is truncated from either side.
    assert!(
        hues[..65]
            .iter()
            .chain(&hues[192..])
            .all(|&count| count == 0)
    );
    for (shift, &count) in hues.iter().enumerate().take(191).skip(66) {
        let width = if shift == 128 { 2.0 } else { 1.0 };
        assert_share(count, DRAWS, width / 127.5, &format!("hue {shift}"));
    }
}

#[test]
fn erased_rectangles_have_their_area_ratio_and_place() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
    let side = 2000;
    let (mut areas, mut logs, mut lefts, mut tops) = (0.0, 0.0, 0.0, 0.0);
    for _ in 0..DRAWS {
        // Small enough that every draw fits, so that nothing is rejected.
        let rect = rectangle(side, side, (0.02, 0.2), (0.3, 3.3), &mut rng).unwrap();
        assert!(Rect::whole(side, side).contains(&rect), "{rect:?}");
        let (w, h) = (f64::from(rect.width), f64::from(rect.height));
        areas += w * h / f64::from(side * side);
        logs += (h / w).ln();
        lefts += f64::from(rect.x) / f64::from(side - rect.width);
        tops += f64::from(rect.y) / f64::from(side - rect.height);
    }
    let mean = |sum: f64| sum / f64::from(DRAWS);
    assert!((mean(areas) - 0.11).abs() < 0.002, "{}", mean(areas));
    // Height by width, not the reverse: the middle of ln 0.3 and ln 3.3 is -0.005.
    let (low, high) = (f64::ln(0.3), f64::ln(3.3));
    assert!(
        (mean(logs) - (low + high) / 2.0).abs() < 0.02,
        "{}",
        mean(logs)
    );
    assert!((mean(lefts) - 0.5).abs() < 0.01 && (mean(tops) - 0.5).abs() < 0.01);
    let tall = rectangle(side, side, (0.02, 0.02), (2.0, 2.0), &mut rng).unwrap();
    assert_eq!((tall.width, tall.height), (200, 400));
    // A rectangle is smaller than the image in both directions.
    assert_eq!(rectangle(40, 40, (1.0, 1.0), (1.0, 1.0), &mut rng), None);
    assert_eq!(rectangle(1, 1, (0.02, 0.33), (0.3, 3.3), &mut rng), None);
    for _ in 0..2000 {
        let rect = rectangle(5, 3, (0.02, 0.9), (0.3, 3.3), &mut rng);
        assert!(rect.is_none_or(|rect| Rect::whole(5, 3).contains(&rect)));
    }
}
