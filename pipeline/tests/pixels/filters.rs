//! The antialiased filters beside bilinear: Pillow's, and `fast_image_resize` as a second opinion.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};
use rsflow_pipeline::pixels::{Filter, Pixels, Rect, ResizePlan, Resizer};

use crate::difference;
use crate::resize::generated;

const FILTERS: [Filter; 3] = [Filter::Box, Filter::Bicubic, Filter::Lanczos];

fn resized(image: (u32, u32), black_and_white: bool, plan: &ResizePlan) -> Vec<u8> {
    let bytes = generated(image.0, image.1, black_and_white);
    let pixels = Pixels::new(&bytes, Rect::whole(image.0, image.1)).unwrap();
    let mut out = vec![0; plan.output_bytes()];
    Resizer::new().resize(pixels, plan, &mut out).unwrap();
    out
}

/// CRC-32 of Pillow 13.0's `resize(scaled, BOX)`, `BICUBIC` and `LANCZOS`, `crop` and a flip. Black and
/// white makes sums of both signs leave the range of a level.
#[test]
fn filtered_pixels_are_those_of_pillow() {
    // Image, scaled, window, size, flip, black and white, checksums.
    #[rustfmt::skip]
    let cases = [
        ((317, 263), (224, 224), (0, 0), 224, false, false, [0x789ff316, 0xdda02907, 0xa6aca1b2]),
        ((317, 263), (96, 96), (0, 0), 96, true, true, [0x1af8caba, 0x16c8c3a7, 0x97c233f4]),
        ((61, 83), (224, 224), (0, 0), 224, false, false, [0x21846a42, 0xfb90ab8c, 0xa1f7749f]),
        ((224, 224), (224, 224), (0, 0), 224, false, true, [0x238de0dc, 0x238de0dc, 0x238de0dc]),
        ((500, 375), (341, 256), (58, 16), 224, false, true, [0x07cd1191, 0x86f61613, 0x4d4816f2]),
        ((375, 500), (109, 145), (6, 24), 96, false, false, [0xfe50030d, 0x1e29100b, 0x5bd54106]),
        ((1, 1), (96, 96), (0, 0), 96, false, false, [0x21ed55f0, 0x21ed55f0, 0x21ed55f0]),
        ((1, 3000), (96, 96), (0, 0), 96, false, true, [0x428db350, 0xdebf1a69, 0xbdd6c2ec]),
        ((3000, 2), (96, 96), (0, 0), 96, true, true, [0x412b4ae8, 0x16975749, 0x49933a60]),
        ((2, 2), (7, 5), (1, 0), 5, true, true, [0x7623924f, 0x690ac95a, 0xf4be3613]),
        ((3, 5), (40, 31), (2, 0), 31, false, true, [0xac1896da, 0xc1c5d747, 0xa5be1025]),
        ((1999, 1501), (13, 11), (1, 0), 10, false, true, [0x77d0e40d, 0x7aa734c7, 0x4568817c]),
        ((640, 480), (1, 1), (0, 0), 1, false, true, [0xc84fd9f9, 0xc84fd9f9, 0xc84fd9f9]),
    ];
    for (image, scaled, window, size, flip, black_and_white, expected) in cases {
        for (filter, expected) in FILTERS.into_iter().zip(expected) {
            let plan = ResizePlan {
                source: Rect::whole(image.0, image.1),
                scaled,
                window,
                size,
                flip,
                filter,
            };
            let mut sum = flate2::Crc::new();
            sum.update(&resized(image, black_and_white, &plan));
            assert_eq!(sum.sum(), expected, "{plan:?}");
        }
    }
}

/// It rounds weights to fewer bits, and disagrees on pixels at the very edge of a box, which these sizes do
/// not have.
#[test]
fn filtered_pixels_are_nearly_those_of_another_library() {
    let names = [
        FilterType::Box,
        FilterType::CatmullRom,
        FilterType::Lanczos3,
    ];
    for (image, size) in [((317, 263), 96), ((40, 50), 45)] {
        for (filter, name) in FILTERS.into_iter().zip(names) {
            let plan = ResizePlan {
                source: Rect::whole(image.0, image.1),
                scaled: (size, size),
                window: (0, 0),
                size,
                flip: false,
                filter,
            };
            let ours = resized(image, false, &plan);
            let bytes = generated(image.0, image.1, false);
            let source = TypedImageRef::<U8x3>::from_buffer(image.0, image.1, &bytes).unwrap();
            let mut out = vec![0; plan.output_bytes()];
            let mut target = TypedImage::<U8x3>::from_buffer(size, size, &mut out).unwrap();
            let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(name));
            let mut resizer = fast_image_resize::Resizer::new();
            resizer
                .resize_typed(&source, &mut target, &options)
                .unwrap();
            let (worst, mean) = difference(&ours, &out);
            assert!(
                worst <= 4 && mean < 0.25,
                "{filter:?} {image:?}: {worst}, {mean}"
            );
        }
    }
}
