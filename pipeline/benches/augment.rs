//! Speed of augmentations of one image on one core: microseconds per image, the best of some rounds.
//!
//! Each operation includes the copy of the crop that comes before the first one, which is listed too.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rsflow_pipeline::pixels::augment::policy::{Kind, Space, Timm, TimmKind};
use rsflow_pipeline::pixels::augment::{Augmenter, Erase, Fill, Operation, Sampling};
use rsflow_pipeline::pixels::{Pixels, Rect};

const SIZES: [(u32, u32); 2] = [(224, 224), (500, 375)];
const ROUNDS: usize = 9;
/// The time of a round, at least.
const ROUND: Duration = Duration::from_millis(20);

/// A smooth image with some noise, as a photograph has.
fn picture((width, height): (u32, u32)) -> Vec<u8> {
    let mut noise = 1_u32;
    let mut bytes = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 1..4 {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let wave = ((x * channel) as f64 / 90.0 + y as f64 / 70.0).sin();
                bytes.push((120.0 + 90.0 * wave) as u8 + (noise >> 28) as u8);
            }
        }
    }
    bytes
}

fn operations(size: (u32, u32)) -> Vec<(String, Option<Operation>)> {
    let rect = Rect {
        x: size.0 / 4,
        y: size.1 / 4,
        width: size.0 / 2,
        height: size.1 / 2,
    };
    let erase = |fill| Some(Operation::Erase(Erase { rect, fill }));
    let mut all = vec![("copy".to_owned(), None)];
    for kind in Kind::ALL {
        let operation = Space::RAND_AUGMENT.operation(kind, (20, 31), false, [0; 3], size);
        all.push((format!("{kind:?}"), operation));
    }
    all.push(("Hue".to_owned(), Some(Operation::Hue(30))));
    all.push(("FlipHorizontal".to_owned(), Some(Operation::FlipHorizontal)));
    all.push(("FlipVertical".to_owned(), Some(Operation::FlipVertical)));
    all.push((
        "Erase colour".to_owned(),
        erase(Fill::Colour([124, 116, 104])),
    ));
    all.push(("Erase noise".to_owned(), erase(Fill::Noise(1))));
    let timm = Timm {
        operations: 2,
        probability: 1.0,
        magnitude: 6.0,
        magnitude_std: 0.0,
        largest: 10.0,
        increasing: true,
        fill: [124, 116, 104],
    };
    for sampling in [Sampling::Bilinear, Sampling::Bicubic] {
        let operation = timm.operation(TimmKind::Rotate, 6.0, false, sampling, size);
        all.push((format!("Rotate {sampling:?}"), operation));
    }
    all
}

fn main() {
    println!("microseconds per image");
    for size in SIZES {
        let bytes = picture(size);
        let rect = Rect::whole(size.0, size.1);
        let mut augmenter = Augmenter::new();
        for (name, operation) in operations(size) {
            let mut once = || {
                let pixels = Pixels::new(&bytes, rect).expect("the length is right");
                augmenter.load(black_box(pixels), rect).expect("memory");
                if let Some(operation) = &operation {
                    augmenter.apply(black_box(operation)).expect("memory");
                }
                black_box(augmenter.pixels());
            };
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                let (start, mut count) = (Instant::now(), 0);
                while start.elapsed() < ROUND {
                    once();
                    count += 1;
                }
                best = best.min(start.elapsed().as_secs_f64() / f64::from(count));
            }
            println!("{:>9.1}  {}x{} {name}", best * 1e6, size.0, size.1);
        }
    }
}
