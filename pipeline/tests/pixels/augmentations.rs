//! Augmentations, compared with torchvision and timm on Pillow images.
//!
//! `augmentations/generate.py` makes the table and says what a line is.

use std::fs;
use std::path::Path;

use rsflow_pipeline::pixels::augment::policy::{Kind, Space, Timm, TimmKind, hue_shift};
use rsflow_pipeline::pixels::augment::{Affine, Augmenter, Operation, Sampling, linspace};
use rsflow_pipeline::pixels::{Pixels, Rect};

type Size = (u32, u32);

const TINY: [Size; 8] = [
    (1, 1),
    (1, 7),
    (9, 1),
    (2, 2),
    (2, 5),
    (3, 3),
    (5, 4),
    (4, 3),
];
const SMALL: [Size; 6] = [(17, 13), (64, 48), (30, 20), (101, 67), (90, 90), (31, 120)];
const LARGE: [Size; 3] = [(500, 375), (40_000, 2), (3, 33_000)];

/// The images of a group, with their sizes.
fn group(sizes: &[Size], patterns: u32) -> Vec<(Size, Vec<u8>)> {
    let sizes = sizes
        .iter()
        .flat_map(|&size| (0..patterns).map(move |pattern| (size, pattern)));
    sizes
        .map(|(size, pattern)| (size, image(size, pattern)))
        .collect()
}

/// 0 is noise, 1 a smooth image of few levels, 2 one colour.
fn image((width, height): Size, pattern: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 1..4_u32 {
                bytes.push(match pattern {
                    0 => {
                        let mut v = x.wrapping_mul(2_654_435_761)
                            ^ y.wrapping_mul(2_246_822_519)
                            ^ channel.wrapping_mul(3_266_489_917);
                        v ^= v >> 15;
                        v = v.wrapping_mul(2_246_822_519);
                        (v ^ v >> 13) as u8
                    }
                    1 => (25 * channel + (x * channel / 2 + y * 2) % (40 * channel)) as u8,
                    _ => (channel * 67) as u8,
                });
            }
        }
    }
    bytes
}

/// What a line is about, for an image of a size. `None` if nothing changes.
fn operation(words: &[&str], size: Size) -> Option<Operation> {
    let number = |word: &str| word.parse::<f64>().unwrap();
    let factor = |word: &str| number(word) as f32;
    match *words {
        [
            policy @ ("rand" | "trivial" | "coloured"),
            kind,
            bin,
            bins,
            sign,
        ] => {
            let kind = match kind {
                "Color" => "Colour",
                kind => kind,
            };
            let kinds = Kind::ALL;
            let kind = kinds
                .iter()
                .find(|found| format!("{found:?}") == kind)
                .unwrap();
            let (space, fill) = match policy {
                "rand" => (Space::RAND_AUGMENT, [0; 3]),
                "trivial" => (Space::TRIVIAL_AUGMENT, [0; 3]),
                _ => (Space::RAND_AUGMENT, [9, 99, 200]),
            };
            let bin = (bin.parse().unwrap(), bins.parse().unwrap());
            space.operation(*kind, bin, sign == "-", fill, size)
        }
        ["timm", index, level, sign, sampling, increasing] => {
            let timm = Timm {
                operations: 1,
                probability: 1.0,
                magnitude: 0.0,
                magnitude_std: 0.0,
                largest: 10.0,
                increasing: increasing == "true",
                fill: [124, 116, 104],
            };
            let kind = TimmKind::ALL[index.parse::<usize>().unwrap()];
            let sampling = match sampling {
                "bilinear" => Sampling::Bilinear,
                _ => Sampling::Bicubic,
            };
            timm.operation(kind, number(level), sign == "-", sampling, size)
        }
        ["brightness", by] => Some(Operation::Brightness(factor(by))),
        ["contrast", by] => Some(Operation::Contrast(factor(by))),
        ["colour", by] => Some(Operation::Colour(factor(by))),
        ["sharpness", by] => Some(Operation::Sharpness(factor(by))),
        ["hue", turns] => Some(Operation::Hue(hue_shift(number(turns)))),
        ["rotate", degrees] => {
            let rotation = Affine::rotate(number(degrees), size.0, size.1);
            Some(Operation::Affine(rotation))
        }
        ["vertical"] => Some(Operation::FlipVertical),
        ["horizontal"] => Some(Operation::FlipHorizontal),
        ["invert"] => Some(Operation::Invert),
        _ => panic!("{words:?}"),
    }
}

fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut sum = flate2::Crc::new();
    parts.into_iter().for_each(|part| sum.update(part));
    format!("{:08x}", sum.sum())
}

/// Applies what a line is about to images, and sums up all pixels.
fn changed(words: &[&str], images: &[(Size, Vec<u8>)], augmenter: &mut Augmenter) -> String {
    let mut outputs = Vec::new();
    for (size, bytes) in images {
        let rect = Rect::whole(size.0, size.1);
        let pixels = Pixels::new(bytes, rect).unwrap();
        augmenter.load(pixels, rect).unwrap();
        if let Some(operation) = operation(words, *size) {
            augmenter.apply(&operation).unwrap();
        }
        outputs.push(augmenter.pixels().unwrap().bytes().to_vec());
    }
    checksum(outputs.iter().map(Vec::as_slice))
}

/// The strengths of `bins` bins, as bytes.
fn strengths(start: f32, end: f32, bins: u32) -> String {
    let bins = (0..bins).map(|bin| linspace(start, end, bins, bin).to_le_bytes());
    checksum([bins.collect::<Vec<_>>().as_flattened()])
}

#[test]
fn augmented_pixels_are_those_of_torchvision_and_timm() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pixels/augmentations/table.txt");
    let table = fs::read_to_string(path).unwrap();
    let groups = [group(&TINY, 3), group(&SMALL, 3), group(&LARGE, 2)];
    let colours = (0..1_u32 << 24).flat_map(|colour| {
        let [_, r, g, b] = colour.to_be_bytes();
        [r, g, b]
    });
    let every = [((4096, 4096), colours.collect::<Vec<u8>>())];
    let mut augmenter = Augmenter::new();
    let mut failures = Vec::new();
    let mut compared = 0;
    for line in table.lines() {
        let mut columns = line.split('\t');
        let words: Vec<&str> = columns.next().unwrap().split(' ').collect();
        let expected: Vec<&str> = columns.collect();
        let found = match words[..] {
            ["linspace", end, bins] => {
                let end = end.parse::<f64>().unwrap() as f32;
                vec![strengths(0.0, end, bins.parse().unwrap())]
            }
            ["falling", start, bins] => {
                let start = start.parse::<f64>().unwrap() as f32;
                vec![strengths(start, 0.0, bins.parse().unwrap())]
            }
            ["every", ..] => vec![changed(&words[1..], &every, &mut augmenter)],
            _ => {
                let images = groups.iter();
                images
                    .map(|group| changed(&words, group, &mut augmenter))
                    .collect()
            }
        };
        compared += 1;
        if found != expected {
            failures.push(format!("{line}: {found:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 500, "only {compared} lines");
}
