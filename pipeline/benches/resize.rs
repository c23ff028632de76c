//! Speed of resizing a crop to five sizes: our kernel and `fast_image_resize`, in turn. Then a bicubic
//! resize to the largest size, from which the others are sampled.
//!
//! Prints images per second on one core for 200 crops, drawn as training draws them from
//! photographs of 500x375 and 375x500, and the ratio.

use std::hint::black_box;
use std::time::Instant;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Filter, Pixels, Rect, ResizePlan, Resizer, crop};

const SIZES: [u32; 5] = [224, 192, 160, 128, 96];
const CROPS: usize = 200;
const ROUNDS: usize = 7;

/// The pixels of a photograph and a crop of it.
struct Image<'a> {
    bytes: &'a [u8],
    whole: Rect,
    crop: Rect,
}

/// All photographs share one buffer, so that it is in the caches as if just decoded. It holds `noise`,
/// as the time does not depend on the content.
fn images<'a, R: Rng>(noise: &'a [u8], rng: &mut R) -> Vec<Image<'a>> {
    (0..CROPS)
        .map(|index| {
            let (width, height) = if index % 4 == 0 {
                (375, 500)
            } else {
                (500, 375)
            };
            let (scale, ratio) = ((0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0));
            Image {
                bytes: noise,
                whole: Rect::whole(width, height),
                crop: crop::random_resized_crop(width, height, scale, ratio, rng),
            }
        })
        .collect()
}

type Failure = Box<dyn std::error::Error>;

/// Images per second of `resize` over all images.
fn speed(
    images: &[Image<'_>],
    mut resize: impl FnMut(&Image<'_>) -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let start = Instant::now();
    for image in images {
        resize(image)?;
    }
    Ok(images.len() as f64 / start.elapsed().as_secs_f64())
}

fn ours(image: &Image<'_>, resizer: &mut Resizer, outputs: &mut [Vec<u8>]) -> Result<(), Failure> {
    let pixels = Pixels::new(image.bytes, image.whole).ok_or("no pixels")?;
    for (size, output) in SIZES.into_iter().zip(outputs) {
        let plan = crop::training(image.crop, size, false);
        resizer.resize(pixels, &plan, black_box(output))?;
    }
    Ok(())
}

fn cascade(
    image: &Image<'_>,
    resizer: &mut Resizer,
    outputs: &mut [Vec<u8>],
) -> Result<(), Failure> {
    let pixels = Pixels::new(image.bytes, image.whole).ok_or("no pixels")?;
    let plan = ResizePlan {
        filter: Filter::Cubic,
        ..crop::training(image.crop, SIZES[0], false)
    };
    let (picture, outputs) = outputs.split_first_mut().ok_or("no sizes")?;
    resizer.resize(pixels, &plan, black_box(picture))?;
    for (&size, output) in SIZES[1..].iter().zip(outputs) {
        resizer.sample_nearest(picture, SIZES[0], black_box(output), size)?;
    }
    Ok(())
}

fn library(
    image: &Image<'_>,
    resizer: &mut fast_image_resize::Resizer,
    outputs: &mut [Vec<u8>],
) -> Result<(), Failure> {
    let (whole, crop) = (image.whole, image.crop);
    let all = TypedImageRef::<U8x3>::from_buffer(whole.width, whole.height, image.bytes)?;
    let source = TypedCroppedImage::from_ref(&all, crop.x, crop.y, crop.width, crop.height)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    for (size, output) in SIZES.into_iter().zip(outputs) {
        let mut target = TypedImage::<U8x3>::from_buffer(size, size, black_box(output))?;
        resizer.resize_typed(&source, &mut target, &options)?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let mut noise = vec![0; 500 * 375 * 3];
    rng.fill_bytes(&mut noise);
    let images = images(&noise, &mut rng);
    let mut outputs: Vec<Vec<u8>> = SIZES
        .map(|size| vec![0; (size * size * 3) as usize])
        .to_vec();
    let mut resizer = Resizer::new();
    let mut other = fast_image_resize::Resizer::new();
    let mut ratios = Vec::new();
    // The first round warms up.
    for round in 0..=ROUNDS {
        let ours = speed(&images, |image| ours(image, &mut resizer, &mut outputs))?;
        let library = speed(&images, |image| library(image, &mut other, &mut outputs))?;
        if round > 0 {
            ratios.push(ours / library);
            println!(
                "five sizes, round {round}: {ours:.0} images/s, fast_image_resize {library:.0}, ratio {:.2}",
                ours / library
            );
        }
    }
    for round in 0..=ROUNDS {
        let speed = speed(&images, |image| cascade(image, &mut resizer, &mut outputs))?;
        if round > 0 {
            println!("one bicubic and four sampled, round {round}: {speed:.0} images/s");
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
    Ok(())
}
