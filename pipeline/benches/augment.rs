//! Speed of augmentations on one core: microseconds per photograph, the best of some rounds.
//!
//! Each operation includes the copy of the crop that comes before the first one, which is listed too.
//! `cargo xtask bench --only load` puts torchvision and timm beside it, on the same pictures.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rsflow_pipeline::pixels::augment::policy::{Kind, Space, Timm, TimmKind};
use rsflow_pipeline::pixels::augment::{Augmenter, Erase, Fill, Operation, Sampling};
use rsflow_pipeline::pixels::{Decoder, Limits, Pixels, Rect, Verify, header};

/// The middle of each photograph that is large enough.
const SIZES: [(u32, u32); 2] = [(224, 224), (500, 375)];
/// Photographs of each size, at most. More would not stay in a core's cache, where a crop is that was just
/// decoded.
const PHOTOGRAPHS: usize = 2;
const ROUNDS: usize = 9;
/// The time of a round, at least.
const ROUND: Duration = Duration::from_millis(20);

#[derive(Parser)]
struct Arguments {
    /// A folder with JPEG files below it, at any depth
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/reference/pixels"))]
    images: PathBuf,
    /// Write the pictures that are measured to this folder, as PPM files in a folder for each size
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Print a JSON object for each measurement
    #[arg(long)]
    json: bool,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut files = Vec::new();
    find(&arguments.images, &mut files)?;
    files.sort();
    let mut decoder = Decoder::new();
    let mut is_measured = false;
    for size in SIZES {
        let mut pictures = Vec::new();
        for file in &files {
            if pictures.len() < PHOTOGRAPHS {
                pictures.extend(middle(file, size, &mut decoder)?);
            }
        }
        let name = format!("{}x{}", size.0, size.1);
        if pictures.is_empty() {
            eprintln!("no photograph has {name} pixels");
            continue;
        }
        is_measured = true;
        if let Some(folder) = &arguments.pictures {
            write(&folder.join(&name), size, &pictures)?;
        }
        for (operation, steps) in operations(size) {
            let microseconds = measure(size, &pictures, steps.as_ref())?;
            if arguments.json {
                let line = serde_json::json!({
                    "pictures": name,
                    "operation": operation,
                    "by": "rsflow",
                    "microseconds": microseconds,
                });
                println!("{line}");
            } else {
                println!("{microseconds:>9.1} us  {name} {operation}");
            }
        }
    }
    ensure!(
        is_measured,
        "{} has no JPEG that is large enough",
        arguments.images.display()
    );
    Ok(())
}

/// The JPEG files of a folder and of those in it.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        let name = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            find(&path, files)?;
        } else if name == "jpg" || name == "jpeg" {
            files.push(path);
        }
    }
    Ok(())
}

/// The middle of a photograph; `None` if it is smaller.
fn middle(file: &Path, size: (u32, u32), decoder: &mut Decoder) -> Result<Option<Vec<u8>>> {
    let bytes = fs::read(file)?;
    let header = header(&bytes, &Limits::default()).with_context(|| file.display().to_string())?;
    if header.width < size.0 || header.height < size.1 {
        return Ok(None);
    }
    let region = Rect {
        x: (header.width - size.0) / 2,
        y: (header.height - size.1) / 2,
        width: size.0,
        height: size.1,
    };
    let pixels = decoder.decode(&bytes, &header, region, Verify::Region)?;
    let mut copy = Augmenter::new();
    copy.load(pixels, region)?;
    Ok(copy.pixels().map(|pixels| pixels.bytes().to_vec()))
}

fn write(folder: &Path, size: (u32, u32), pictures: &[Vec<u8>]) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (number, picture) in pictures.iter().enumerate() {
        let mut file = format!("P6 {} {} 255\n", size.0, size.1).into_bytes();
        file.extend(picture);
        fs::write(folder.join(format!("{number}.ppm")), file)?;
    }
    Ok(())
}

/// Microseconds per picture.
fn measure(size: (u32, u32), pictures: &[Vec<u8>], operation: Option<&Operation>) -> Result<f64> {
    let rect = Rect::whole(size.0, size.1);
    let mut augmenter = Augmenter::new();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            for bytes in pictures {
                let pixels = Pixels::new(bytes, rect).context("a picture has another size")?;
                match operation {
                    Some(operation) => augmenter.load_changed(pixels, rect, operation)?,
                    None => augmenter.load(pixels, rect)?,
                }
                black_box(augmenter.pixels());
                count += 1;
            }
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(count));
    }
    Ok(best * 1e6)
}

/// All operations by name, at two thirds of torchvision's strength, and then timm's. `None` is the copy
/// alone.
fn operations(size: (u32, u32)) -> Vec<(String, Option<Operation>)> {
    let mut all = vec![("Copy".to_owned(), None)];
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Identity) {
        let operation = Space::RAND_AUGMENT.operation(kind, (20, 31), false, [0; 3], size);
        all.push((format!("{kind:?}"), operation));
    }
    let mut add = |name: &str, operation| all.push((name.to_owned(), Some(operation)));
    add("Hue", Operation::Hue(30));
    add("Invert", Operation::Invert);
    add("SolarizeAdd", Operation::SolarizeAdd(66));
    add("FlipHorizontal", Operation::FlipHorizontal);
    add("FlipVertical", Operation::FlipVertical);
    let rect = Rect {
        x: size.0 / 4,
        y: size.1 / 4,
        width: size.0 / 2,
        height: size.1 / 2,
    };
    let erase = |fill| Operation::Erase(Erase { rect, fill });
    add("Erase colour", erase(Fill::Colour([124, 116, 104])));
    add("Erase noise", erase(Fill::Noise(1)));
    let timm = Timm {
        operations: 2,
        probability: 1.0,
        magnitude: 6.0,
        magnitude_std: 0.0,
        largest: 10.0,
        increasing: true,
        fill: [124, 116, 104],
    };
    for (name, sampling) in [
        ("bilinear", Sampling::Bilinear),
        ("bicubic", Sampling::Bicubic),
    ] {
        for kind in [
            TimmKind::ShearX,
            TimmKind::ShearY,
            TimmKind::TranslateX,
            TimmKind::TranslateY,
            TimmKind::Rotate,
        ] {
            let operation = timm.operation(kind, 6.0, false, sampling, size);
            all.push((format!("{kind:?} {name}"), operation));
        }
    }
    all
}
