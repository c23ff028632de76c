//! One description of preprocessing: what nodes say of themselves is what they do, and what an image
//! alone, or another node, does by the same description.

use std::fs;
use std::path::Path;

use rsflow_graph::{
    Batch, Catalogue, Interpolation, Kind, Options, Plan, Preprocess, Recipe, Resize, Running, Tap,
    Text,
};
use rsflow_pipeline::nodes::{
    self, CascadedCenterCrop, DecodeImage, ImageFolder, Lighting, Preprocessed, RandomResizedCrop,
    ResizeAndCenterCrop,
};
use rsflow_pipeline::preprocess::pixels;
use tempfile::TempDir;

mod end;
use end::{Collect, End};

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<ResizeAndCenterCrop>(),
    Kind::of::<CascadedCenterCrop>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<nodes::Resize>(),
    Kind::of::<Lighting>(),
    Kind::of::<Preprocessed>(),
    Kind::of::<nodes::Batch>(),
    Kind::of::<End>(),
]);

const SIZES: [u32; 2] = [24, 17];

/// A photograph that says it lies on its side.
fn photograph() -> Vec<u8> {
    let path = "../tests/fixtures/images/baseline_444.jpg";
    let mut bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let lying =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    bytes.splice(2..2, lying.iter().copied());
    bytes
}

/// A folder with that photograph.
fn folder() -> TempDir {
    folder_with(&photograph())
}

fn folder_with(jpeg: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    fs::write(folder.path().join("class/1.jpg"), jpeg).unwrap();
    folder
}

fn planned(folder: &TempDir, nodes: &str) -> Plan {
    let recipe = format!(
        r#"(seed: 5, cpu_workers: 1, nodes: {{
            "files": ImageFolder(root: {:?}),
            {nodes},
            "batches": Batch(input: "sizes", size: 1),
            "end": End(input: "batches"),
        }})"#,
        folder.path().display().to_string()
    );
    let recipe = Recipe::parse(Text::new("recipe.ron", recipe), CATALOGUE, &[]);
    let plan = Plan::new(recipe.unwrap_or_else(|problems| panic!("{problems}")));
    plan.unwrap_or_else(|problems| panic!("{problems}"))
}

/// What batches say of their images.
fn described(plan: &Plan) -> Option<Preprocess> {
    let mut nodes = plan.nodes().iter();
    let batches = nodes.find(|node| node.id.name == "batches").unwrap();
    batches.outputs[0].preprocess
}

/// What the nodes make of the photograph, or why they cannot.
fn run(plan: &Plan) -> Result<Vec<Vec<u8>>, String> {
    let collect = Collect::<Batch>::default();
    let options = Options {
        taps: vec![Tap {
            node: "batches".to_owned(),
            output: 0,
            sink: Box::new(collect.clone()),
            name: "test",
        }],
        epochs: Some(1),
        ..Options::default()
    };
    let running = Running::start(plan, options).map_err(|error| format!("{error:#}"))?;
    running.wait().map_err(|error| format!("{error:#}"))?;
    let batches = collect.0.lock().unwrap();
    Ok((0..SIZES.len())
        .map(|position| batches[0].pixels(position).to_vec())
        .collect())
}

/// What a description alone makes of it.
fn alone(by: &Preprocess) -> Result<Vec<Vec<u8>>, String> {
    let sizes = SIZES.iter();
    let pixels = sizes.map(|&size| pixels(by, &photograph(), size));
    pixels
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// The node that does what a description says.
fn preprocessed(by: &Preprocess) -> String {
    let by = ron::to_string(by).unwrap();
    format!(r#""sizes": Preprocessed(input: "files", sizes: {SIZES:?}, by: {by})"#)
}

#[test]
fn every_field_is_kept_and_makes_other_pixels() {
    let usual = Preprocess::default();
    let cascade = Preprocess {
        resize: Resize::Cascade { side: 24 },
        ..usual
    };
    // A name, a description, and one that differs from it in one field.
    let cases: [(&str, Preprocess, Preprocess); 8] = [
        (
            "fraction",
            Preprocess {
                fraction: 1.0,
                ..usual
            },
            usual,
        ),
        (
            "interpolation",
            Preprocess {
                interpolation: Interpolation::Bicubic,
                ..usual
            },
            usual,
        ),
        (
            "antialiased interpolation",
            Preprocess {
                interpolation: Interpolation::AntialiasedBicubic,
                ..usual
            },
            usual,
        ),
        (
            "exif_orientation",
            Preprocess {
                exif_orientation: true,
                ..usual
            },
            usual,
        ),
        (
            "max_pixels",
            Preprocess {
                max_pixels: 99,
                ..usual
            },
            usual,
        ),
        ("resize", cascade, usual),
        (
            "side",
            Preprocess {
                resize: Resize::Cascade { side: 32 },
                ..usual
            },
            cascade,
        ),
        (
            "interpolation of a cascade",
            Preprocess {
                interpolation: Interpolation::Bicubic,
                ..cascade
            },
            cascade,
        ),
    ];
    let folder = folder();
    for (name, by, other) in cases {
        let json = serde_json::to_string(&by).unwrap();
        assert_eq!(serde_json::from_str::<Preprocess>(&json).unwrap(), by);
        by.check().unwrap();
        assert_ne!(alone(&by), alone(&other), "{name}");
        let plan = planned(&folder, &preprocessed(&by));
        assert_eq!(described(&plan), Some(by), "{name}");
        match (run(&plan), alone(&by)) {
            (Err(run), Err(alone)) => {
                assert_eq!(name, "max_pixels");
                assert!(run.contains(&alone), "{alone:?} is not in {run}");
            }
            (run, alone) => assert_eq!(run, alone, "{name}"),
        }
    }
}

#[test]
fn nodes_do_what_they_say() {
    let usual = Preprocess::default();
    let cases = [
        (
            r#""images": DecodeImage(input: "files"),
               "sizes": ResizeAndCenterCrop(input: "images", sizes: [24, 17])"#,
            usual,
        ),
        (
            r#""images": DecodeImage(input: "files", exif_orientation: true, max_pixels: 1000000),
               "sizes": ResizeAndCenterCrop(input: "images", sizes: [24, 17], fraction: 0.6)"#,
            Preprocess {
                exif_orientation: true,
                max_pixels: 1_000_000,
                fraction: 0.6,
                ..usual
            },
        ),
        (
            r#""images": DecodeImage(input: "files"),
               "sizes": ResizeAndCenterCrop(input: "images", sizes: [24, 17], interpolation: AntialiasedBicubic)"#,
            Preprocess {
                interpolation: Interpolation::AntialiasedBicubic,
                ..usual
            },
        ),
        (
            r#""images": DecodeImage(input: "files"),
               "sizes": CascadedCenterCrop(input: "images", sizes: [24, 17])"#,
            Preprocess {
                resize: Resize::Cascade { side: 24 },
                interpolation: Interpolation::Bicubic,
                ..usual
            },
        ),
        (
            r#""images": DecodeImage(input: "files", exif_orientation: true),
               "sizes": CascadedCenterCrop(input: "images", sizes: [24, 17], from: 40, fraction: 0.7)"#,
            Preprocess {
                exif_orientation: true,
                resize: Resize::Cascade { side: 40 },
                interpolation: Interpolation::Bicubic,
                fraction: 0.7,
                ..usual
            },
        ),
    ];
    let folder = folder();
    for (nodes, expected) in cases {
        let plan = planned(&folder, nodes);
        assert_eq!(described(&plan), Some(expected), "{nodes}");
        let made = run(&plan).unwrap();
        assert_eq!(made, alone(&expected).unwrap(), "{nodes}");
        let other = planned(&folder, &preprocessed(&expected));
        assert_eq!(made, run(&other).unwrap(), "{nodes}");
    }
    // What is drawn at random is not described, what was done before it is.
    let random = r#"
        "images": DecodeImage(input: "files", exif_orientation: true),
        "crops": RandomResizedCrop(input: "images"),
        "resized": Resize(input: "crops", sizes: [24, 17]),
        "sizes": Lighting(input: "resized")"#;
    let expected = Preprocess {
        exif_orientation: true,
        ..usual
    };
    assert_eq!(described(&planned(&folder, random)), Some(expected));
}

#[test]
fn what_no_image_can_be_made_by_is_refused() {
    let usual = Preprocess::default();
    let side = |side| Preprocess {
        resize: Resize::Cascade { side },
        ..usual
    };
    let fraction = |fraction| Preprocess { fraction, ..usual };
    let no_pixels = Preprocess {
        max_pixels: 0,
        ..usual
    };
    for (by, field) in [
        (no_pixels, "`max_pixels`"),
        (fraction(0.0), "`fraction`"),
        (fraction(1.01), "`fraction`"),
        (fraction(f64::NAN), "`fraction`"),
        (side(0), "`side`"),
        (side(u32::MAX), "`side`"),
    ] {
        let error = by.check().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    assert!(side(24).reaches(24) && !side(24).reaches(25) && usual.reaches(4096));
}

/// A crop that never reaches the damage does not hide it.
#[test]
fn the_first_epoch_finds_all_damage() {
    let (width, height) = (64, 600);
    let noise: Vec<u8> = (0..width * height)
        .map(|i: u32| (i * i / 7) as u8)
        .collect();
    let mut jpeg = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut jpeg, 80);
    let colour = jpeg_encoder::ColorType::Luma;
    encoder
        .encode(&noise, width as u16, height as u16, colour)
        .unwrap();
    let end = jpeg.len() - 2;
    jpeg.drain(end - 40..end);
    let folder = folder_with(&jpeg);
    // 7 by 7 pixels somewhere in the first 500 rows.
    let nodes = r#"
        "images": DecodeImage(input: "files"),
        "crops": RandomResizedCrop(input: "images", scale: (0.001, 0.0012)),
        "sizes": Resize(input: "crops", sizes: [24, 17])"#;
    let error = run(&planned(&folder, nodes)).unwrap_err();
    let reason = "JPEG data ends before the last block";
    assert!(error.contains(reason), "{error}");
}

#[test]
fn extraneous_bytes_are_skipped_or_refused() {
    let mut jpeg = photograph();
    jpeg.splice(jpeg.len() - 2..jpeg.len() - 2, [0x12, 0x34, 0x56]);
    let folder = folder_with(&jpeg);
    let nodes = |field: &str| {
        format!(
            r#""images": DecodeImage(input: "files"{field}),
               "sizes": ResizeAndCenterCrop(input: "images", sizes: [24, 17])"#
        )
    };
    let expected = alone(&Preprocess::default());
    for field in ["", ", extraneous_bytes: Skip"] {
        assert_eq!(run(&planned(&folder, &nodes(field))), expected, "{field}");
    }
    let error = run(&planned(&folder, &nodes(", extraneous_bytes: Refuse"))).unwrap_err();
    let reason = "3 bytes in the JPEG are neither blocks nor segments";
    assert!(error.contains(reason), "{error}");
}
