use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::*;

/// An image whose red is the column and whose green is the row.
fn picture(width: u32, height: u32) -> Vec<u8> {
    (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7]))
        .collect()
}

fn render(plan: &ResizePlan, width: u32, height: u32) -> Vec<u8> {
    let bytes = picture(width, height);
    let pixels = Pixels::new(&bytes, Rect::whole(width, height)).unwrap();
    let mut out = vec![0; plan.output_bytes()];
    Resizer::new().resize(pixels, plan, &mut out).unwrap();
    out
}

fn plan(source: (u32, u32, u32, u32), scaled: (u32, u32), window: (u32, u32)) -> ResizePlan {
    let (x, y, width, height) = source;
    ResizePlan {
        source: Rect {
            x,
            y,
            width,
            height,
        },
        scaled,
        window,
        size: 4,
        flip: false,
        filter: Filter::Bilinear,
    }
}

#[test]
fn the_same_size_is_a_copy_and_a_flip_reverses_columns() {
    let mut plan = plan((3, 2, 4, 4), (4, 4), (0, 0));
    let straight = render(&plan, 9, 8);
    assert_eq!(straight[..12], [3, 2, 7, 4, 2, 7, 5, 2, 7, 6, 2, 7]);
    plan.flip = true;
    let flipped = render(&plan, 9, 8);
    assert_eq!(flipped[..12], [6, 2, 7, 5, 2, 7, 4, 2, 7, 3, 2, 7]);
    assert_eq!(flipped[36..39], [6, 5, 7]);
}

#[test]
fn a_window_is_cropped_from_the_whole_resized_image() {
    let whole = ResizePlan {
        size: 20,
        ..plan((1, 1, 50, 50), (20, 20), (0, 0))
    };
    let expected = render(&whole, 60, 55);
    for (x, y) in [(0, 0), (5, 3), (16, 16)] {
        let part = render(&plan((1, 1, 50, 50), (20, 20), (x, y)), 60, 55);
        for (row, found) in part.chunks_exact(12).enumerate() {
            let start = ((y as usize + row) * 20 + x as usize) * 3;
            assert_eq!(found, &expected[start..start + 12], "window ({x}, {y})");
        }
    }
}

#[test]
fn pixels_of_a_part_of_the_image_are_found_by_image_coordinates() {
    let bytes = picture(10, 10);
    let covers = Rect {
        x: 100,
        y: 200,
        width: 10,
        height: 10,
    };
    let pixels = Pixels::new(&bytes, covers).unwrap();
    let mut out = vec![0; 48];
    let inside = plan((103, 202, 4, 4), (4, 4), (0, 0));
    Resizer::new().resize(pixels, &inside, &mut out).unwrap();
    assert_eq!(out[..3], [3, 2, 7]);
}

#[test]
fn plans_that_do_not_fit_are_errors() {
    let bytes = picture(10, 10);
    let pixels = Pixels::new(&bytes, Rect::whole(10, 10)).unwrap();
    let cases = [
        (plan((7, 0, 4, 4), (4, 4), (0, 0)), 48, "is not within"),
        (plan((0, 0, 0, 4), (4, 4), (0, 0)), 48, "is not within"),
        (plan((0, 0, 4, 4), (4, 4), (1, 0)), 48, "output at (1, 0)"),
        (plan((0, 0, 4, 4), (0, 4), (0, 0)), 48, "resized to 0x4"),
        (
            plan((0, 0, 4, 4), (4, 4), (0, 0)),
            47,
            "47 bytes, expected 48",
        ),
    ];
    for (plan, length, expected) in cases {
        let mut out = vec![9; length];
        let error = Resizer::new().resize(pixels, &plan, &mut out).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(out.iter().all(|&byte| byte == 9));
    }
}

const FILTERS: [Filter; 5] = [
    Filter::Bilinear,
    Filter::Box,
    Filter::Bicubic,
    Filter::Lanczos,
    Filter::Cubic,
];

/// All kernels of this machine on random plans of one source: the result depends neither on the
/// kernel nor on the content of the scratch memory.
#[test]
fn every_kernel_gives_the_same_bytes() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut bytes = vec![0; 3 * 4000 * 60];
    rng.fill_bytes(&mut bytes);
    let mut resizers: Vec<Resizer> = Kernel::all()
        .into_iter()
        .map(|kernel| Resizer {
            kernel,
            ..Resizer::new()
        })
        .collect();
    // One in four sides is extreme, the others are those of small photographs.
    let side = |rng: &mut Xoshiro256PlusPlus, large| match rng.random_range(0..8) {
        0 => rng.random_range(1..4),
        1 => rng.random_range(1..=large),
        _ => rng.random_range(1..60),
    };
    for _ in 0..2000 {
        let (mut width, mut height) = (side(&mut rng, 4000), side(&mut rng, 60));
        if rng.random() {
            (width, height) = (height, width);
        }
        let covers = Rect::whole(width, height);
        let pixels = Pixels::new(&bytes[..(width * height * 3) as usize], covers).unwrap();
        let (x, y) = (rng.random_range(0..width), rng.random_range(0..height));
        let source = Rect {
            x,
            y,
            width: rng.random_range(1..=width - x),
            height: rng.random_range(1..=height - y),
        };
        let plans: Vec<ResizePlan> = (0..rng.random_range(1..4))
            .map(|_| {
                let scaled = (side(&mut rng, 300), side(&mut rng, 300));
                let size = rng.random_range(1..=scaled.0.min(scaled.1));
                let window = (
                    rng.random_range(0..=scaled.0 - size),
                    rng.random_range(0..=scaled.1 - size),
                );
                ResizePlan {
                    source,
                    scaled,
                    window,
                    size,
                    flip: rng.random(),
                    filter: FILTERS[rng.random_range(0..FILTERS.len())],
                }
            })
            .collect();
        let mut expected: Option<Vec<Vec<u8>>> = None;
        for resizer in &mut resizers {
            let mut outputs: Vec<Vec<u8>> = plans
                .iter()
                .map(|plan| vec![0; plan.output_bytes()])
                .collect();
            for (plan, out) in plans.iter().zip(&mut outputs) {
                resizer.resize(pixels, plan, out).unwrap();
            }
            match &expected {
                None => expected = Some(outputs),
                Some(expected) => {
                    assert!(*expected == outputs, "{:?}: {plans:?}", resizer.kernel);
                }
            }
        }
    }
}
