use rand::{Rng, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::*;
use crate::pixels::resize::instructions::{ALL, LIMIT};

/// All operations, some with several strengths, for an image of a size.
fn operations(width: u32, height: u32) -> Vec<Operation> {
    let mut all = vec![
        Operation::FlipHorizontal,
        Operation::FlipVertical,
        Operation::Hue(30),
        Operation::Posterize(3),
        Operation::Solarize(100),
        Operation::Solarize(256),
        Operation::SolarizeAdd(66),
        Operation::Invert,
        Operation::AutoContrast,
        Operation::Equalize,
        Operation::Erase(Erase {
            rect: Rect::whole(width.div_ceil(2), height),
            fill: Fill::Noise(3),
        }),
    ];
    for factor in [0.3, 1.7] {
        all.extend([
            Operation::Brightness(factor),
            Operation::Colour(factor),
            Operation::Contrast(factor),
            Operation::Sharpness(factor),
        ]);
    }
    for sampling in [Sampling::Nearest, Sampling::Bilinear, Sampling::Bicubic] {
        for affine in [
            Affine::rotate(33.0, width, height),
            Affine::rotate(-170.0, width, height),
            Affine::shear(0.2, 0.0),
            Affine::shear(0.0, -0.4),
            Affine::translate(3, -2),
        ] {
            let fill = [9, 99, 200];
            all.push(Operation::Affine(Affine {
                sampling,
                fill,
                ..affine
            }));
        }
    }
    all
}

/// Every processor computes the same bytes, of a part of an image as of a copy of that part.
#[test]
fn augmented_pixels_do_not_depend_on_the_processor() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let mut augmenter = Augmenter::new();
    for (width, height) in [
        (1, 1),
        (2, 3),
        (7, 5),
        (33, 20),
        (65, 9),
        (300, 41),
        (20, 300),
    ] {
        let all = Rect::whole(width + 3, height + 4);
        let mut bytes = vec![0; (all.width * all.height * 3) as usize];
        rng.fill_bytes(&mut bytes);
        let pixels = Pixels::new(&bytes, all).unwrap();
        let region = Rect {
            x: 2,
            y: 3,
            width,
            height,
        };
        for operation in operations(width, height) {
            LIMIT.set(ALL[0]);
            augmenter.load(pixels, region).unwrap();
            augmenter.apply(&operation).unwrap();
            let expected = augmenter.pixels().unwrap().bytes().to_vec();
            for instructions in ALL {
                LIMIT.set(*instructions);
                augmenter.load_changed(pixels, region, &operation).unwrap();
                let found = augmenter.pixels().unwrap().bytes();
                assert!(
                    found == expected,
                    "{operation:?} of {width}x{height} with {instructions:?}"
                );
            }
        }
    }
}
