//! Speed of JPEG decoding on one thread: whole images, and the region of a random crop; our decoder and
//! the library `zune-jpeg`.
//!
//! `cargo bench -p rsflow-pipeline --bench decode -- FOLDER` reads up to 500 `.jpg` and `.jpeg` files
//! below FOLDER. The decoders take turns, image by image.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Decoder, Limits, Rect, Verify, crop, header};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

const ROUNDS: u64 = 5;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench");
    let folder = folder.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/reference/pixels"),
        PathBuf::from,
    );
    let images = images(&folder);
    assert!(!images.is_empty(), "no JPEG below {}", folder.display());
    let mut decoder = Decoder::new();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
    let mut spent = [Duration::ZERO; 4];
    for round in 0..=ROUNDS {
        let mut this = [Duration::ZERO; 4];
        for bytes in &images {
            let start = Instant::now();
            let header = header(bytes, &Limits::default()).unwrap();
            let whole = header.whole();
            black_box(decoder.decode(bytes, &header, whole, Verify::Full).unwrap());
            this[0] += start.elapsed();

            let (scale, ratio) = ((0.08, 1.0), (0.75, 4.0 / 3.0));
            let (width, height) = (header.width, header.height);
            let region: Rect = crop::random_resized_crop(width, height, scale, ratio, &mut random);
            for (at, verify) in [(1, Verify::Region), (2, Verify::Full)] {
                let start = Instant::now();
                black_box(decoder.decode(bytes, &header, region, verify).unwrap());
                this[at] += start.elapsed();
            }

            let start = Instant::now();
            black_box(JpegDecoder::new(ZCursor::new(bytes)).decode().unwrap());
            this[3] += start.elapsed();
        }
        // The first round warms up.
        if round > 0 {
            spent
                .iter_mut()
                .zip(this)
                .for_each(|(sum, new)| *sum += new);
        }
    }
    let count = images.len() as f64 * ROUNDS as f64;
    let names = [
        "whole",
        "a random crop",
        "a random crop, the rest verified",
        "whole, zune-jpeg (verifies nothing)",
    ];
    println!("{} images, images/s on one thread", images.len());
    for (name, spent) in names.iter().zip(spent) {
        println!("{:>8.0}  {name}", count / spent.as_secs_f64());
    }
}

fn images(folder: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.extension().unwrap_or_default().to_ascii_lowercase();
            match path.is_dir() {
                true => folders.push(path),
                false if name == "jpg" || name == "jpeg" => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    files
        .iter()
        .take(500)
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}
