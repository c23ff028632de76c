//! Augmentation nodes: what they draw ([`draws`]), what they refuse, and where they act.

use std::fs;
use std::path::Path;

use rsflow_graph::{Batch, Catalogue, Kind, Options, Plan, Recipe, Running, Tap, Text};
use rsflow_pipeline::nodes::{
    self, ColorJitter, DecodeImage, ImageFolder, RandAugment, RandomErasing, RandomFlip,
    RandomResizedCrop, Resize, TrivialAugment,
};
use rsflow_pipeline::pixels::{Decoder, Limits, Pixels, Rect, Resizer, Verify, crop, header};
use tempfile::TempDir;

mod draws;

#[path = "../end/mod.rs"]
mod end;
use end::{Collect, End};

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<RandAugment>(),
    Kind::of::<TrivialAugment>(),
    Kind::of::<ColorJitter>(),
    Kind::of::<RandomErasing>(),
    Kind::of::<RandomFlip>(),
    Kind::of::<Resize>(),
    Kind::of::<nodes::Batch>(),
    Kind::of::<End>(),
]);

const SIZES: [u32; 2] = [24, 17];
const IMAGES: usize = 40;

fn photograph() -> Vec<u8> {
    let path = "../tests/fixtures/images/baseline_444.jpg";
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A folder with the photograph, a few times.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    for index in 0..IMAGES {
        let name = format!("class/{index:02}.jpg");
        fs::write(folder.path().join(name), photograph()).unwrap();
    }
    folder
}

/// A recipe in which `nodes` make `augmented` of `crops`, or the report of its mistakes.
fn planned(folder: &Path, workers: u32, crop: &str, nodes: &str) -> Result<Plan, String> {
    planned_with(folder, workers, crop, nodes, "")
}

/// The same with more fields of `Resize`.
fn planned_with(
    folder: &Path,
    workers: u32,
    crop: &str,
    nodes: &str,
    resize: &str,
) -> Result<Plan, String> {
    let recipe = format!(
        r#"(seed: 5, cpu_workers: {workers}, nodes: {{
            "files": ImageFolder(root: {folder:?}),
            "images": DecodeImage(input: "files"),
            "crops": RandomResizedCrop(input: "images"{crop}),
            {nodes},
            "sizes": Resize(input: "augmented", sizes: {SIZES:?}{resize}),
            "batches": Batch(input: "sizes", size: {IMAGES}),
            "end": End(input: "batches"),
        }})"#
    );
    let recipe = Recipe::parse(Text::new("recipe.ron", recipe), CATALOGUE, &[]);
    let plan = recipe.and_then(Plan::new);
    plan.map_err(|problems| problems.to_string())
}

/// The pixels at each size.
fn run(plan: &Plan) -> Vec<Vec<u8>> {
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
    Running::start(plan, options).unwrap().wait().unwrap();
    let batches = collect.0.lock().unwrap();
    let sizes = 0..SIZES.len();
    sizes
        .map(|position| batches[0].pixels(position).to_vec())
        .collect()
}

#[test]
fn augmented_batches_do_not_depend_on_the_number_of_workers() {
    let chain = r#"
        "flipped":   RandomFlip(input: "crops", horizontal: 0.3, vertical: 0.3),
        "rand":      RandAugment(input: "flipped", fill: (1, 2, 3)),
        "timm":      RandAugment(input: "rand", operations: 3, magnitude: 6,
                         policy: Timm(magnitude_std: 0.5, increasing: true)),
        "trivial":   TrivialAugment(input: "timm"),
        "jittered":  ColorJitter(input: "trivial", brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1),
        "augmented": RandomErasing(input: "jittered", probability: 0.5, fill: Noise)"#;
    let plain = r#""augmented": RandomFlip(input: "crops", vertical: 0.0)"#;
    let folder = folder();
    let made = |workers, nodes| run(&planned(folder.path(), workers, "", nodes).unwrap());
    let alone = made(1, chain);
    assert_eq!(alone, made(4, chain));
    assert_ne!(alone, made(4, plain));
}

/// Each node's work, on whole images.
#[test]
fn operations_act_on_the_crop_for_all_sizes() {
    let bytes = photograph();
    let head = header(&bytes, &Limits::default()).unwrap();
    let (width, height) = (head.width, head.height);
    let mut decoder = Decoder::new();
    let decoded = decoder
        .decode(&bytes, &head, head.whole(), Verify::Full)
        .unwrap();
    let expected = |pixels: &[u8], size: u32| {
        let whole = Rect::whole(width, height);
        let mut out = vec![0; (size * size * 3) as usize];
        let pixels = Pixels::new(pixels, whole).unwrap();
        let plan = crop::training(whole, size, false);
        Resizer::new().resize(pixels, &plan, &mut out).unwrap();
        out
    };
    // The same with the obvious means.
    let (pixels, _) = decoded.bytes().as_chunks::<3>();
    let turned: Vec<[u8; 3]> = pixels.iter().rev().copied().collect();
    let ratio = f64::from(width) / f64::from(height);
    let whole = format!(", scale: (1.0, 1.0), ratio: ({ratio:?}, {ratio:?})");
    let folder = folder();
    let cases = [
        (
            r#""augmented": RandomFlip(input: "crops", horizontal: 1.0, vertical: 1.0)"#,
            turned.into_flattened(),
        ),
        (
            r#""augmented": RandomErasing(input: "crops", probability: 0.0)"#,
            decoded.bytes().to_vec(),
        ),
    ];
    for (nodes, pixels) in cases {
        let made = run(&planned(folder.path(), 2, &whole, nodes).unwrap());
        for (made, size) in made.iter().zip(SIZES) {
            let expected = expected(&pixels, size);
            let mut images = made.chunks_exact(expected.len());
            assert!(images.all(|image| image == expected), "{nodes} {size}");
        }
    }
}

/// One filter is drawn for each image, and all are.
#[test]
fn the_filter_is_drawn_for_each_image_and_is_that_of_all_sizes() {
    let folder = folder();
    let nodes = r#""augmented": RandomFlip(input: "crops", vertical: 0.0)"#;
    let made = |workers, filters: &str| {
        let resize = format!(", filters: [{filters}]");
        run(&planned_with(folder.path(), workers, "", nodes, &resize).unwrap())
    };
    let drawn = made(1, "Box, Bilinear, Bicubic, Lanczos");
    assert_eq!(drawn, made(4, "Box, Bilinear, Bicubic, Lanczos"));
    let alone = ["Box", "Bilinear", "Bicubic", "Lanczos"].map(|filter| made(2, filter));
    assert_eq!(
        alone[1],
        run(&planned(folder.path(), 2, "", nodes).unwrap())
    );
    let mut counts = [0; 4];
    for index in 0..IMAGES {
        let is_drawn = |made: &[Vec<u8>]| {
            (0..SIZES.len()).all(|position| {
                let length = (SIZES[position] * SIZES[position] * 3) as usize;
                let image = |pixels: &[u8]| pixels[index * length..][..length].to_vec();
                image(&made[position]) == image(&drawn[position])
            })
        };
        let of = alone.iter().position(|made| is_drawn(made));
        counts[of.unwrap_or_else(|| panic!("image {index} has several filters"))] += 1;
    }
    assert!(counts.iter().all(|&count| count > 3), "{counts:?}");
    for (filters, expected) in [
        ("", "`filters` must not be empty"),
        ("Box, Lanczos, Box", "Box is listed twice"),
    ] {
        let resize = format!(", filters: [{filters}]");
        let plan = planned_with(Path::new("x"), 1, "", nodes, &resize);
        let found = plan.err().unwrap_or_default();
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let cases = [
        (
            "RandAugment",
            "operations: 0",
            "`operations` must be at least 1",
        ),
        (
            "RandAugment",
            "operations: 65",
            "`operations` must be at most 64",
        ),
        (
            "RandAugment",
            "magnitude: 31",
            "`magnitude` must be less than `bins`, 31, not 31",
        ),
        (
            "RandAugment",
            "bins: 9",
            "`magnitude` must be less than `bins`, 9, not 9",
        ),
        (
            "RandAugment",
            "magnitude: 0, bins: 1",
            "`bins` must be at least 2",
        ),
        (
            "RandAugment",
            "bins: 31, policy: Timm()",
            "`bins` is for `policy: Torchvision`",
        ),
        (
            "RandAugment",
            "magnitude: 11, policy: Timm()",
            "`magnitude` must be at most 10, not 11",
        ),
        (
            "RandAugment",
            "policy: Timm(probability: 1.5)",
            "`probability` must be a probability from 0 to 1",
        ),
        (
            "RandAugment",
            "policy: Timm(magnitude_std: -0.5)",
            "`magnitude_std` must be 0 or above, not -0.5",
        ),
        (
            "RandAugment",
            "policy: Timm(max_magnitude: 31)",
            "`policy.max_magnitude` must be at most 30",
        ),
        ("TrivialAugment", "bins: 1", "`bins` must be at least 2"),
        (
            "TrivialAugment",
            "bins: 1025",
            "`bins` must be at most 1024",
        ),
        (
            "ColorJitter",
            "hue: 0.6",
            "`hue` must be from 0 to 0.5, not 0.6",
        ),
        (
            "ColorJitter",
            "contrast: -1.0",
            "`contrast` must be from 0 to 10, not -1",
        ),
        (
            "RandomErasing",
            "probability: -0.1",
            "`probability` must be a probability from 0 to 1",
        ),
        (
            "RandomErasing",
            "scale: (0.5, 1.1)",
            "`scale` must be a range of area fractions",
        ),
        (
            "RandomErasing",
            "scale: (0.0, 0.3)",
            "`scale` must be a range of area fractions",
        ),
        (
            "RandomErasing",
            "ratio: (3.3, 0.3)",
            "`ratio` must be a range of positive aspect ratios",
        ),
        (
            "RandomFlip",
            "vertical: 2.0",
            "`vertical` must be a probability from 0 to 1",
        ),
        (
            "RandomFlip",
            "horizontal: -1.0",
            "`horizontal` must be a probability from 0 to 1",
        ),
    ];
    for (kind, fields, expected) in cases {
        let nodes = format!(r#""augmented": {kind}(input: "crops", {fields})"#);
        let found = planned(Path::new("x"), 1, "", &nodes)
            .err()
            .unwrap_or_default();
        assert!(found.contains(expected), "{nodes}: {found}");
    }
    let sound = [
        "RandAugment(input: \"crops\", magnitude: 30)",
        "RandAugment(input: \"crops\", magnitude: 12, policy: Timm(max_magnitude: 15))",
        "RandomErasing(input: \"crops\", fill: Colour(0, 0, 255))",
        "ColorJitter(input: \"crops\")",
    ];
    for node in sound {
        let nodes = format!(r#""augmented": {node}"#);
        let plan = planned(Path::new("x"), 1, "", &nodes);
        assert!(plan.is_ok(), "{nodes}: {}", plan.err().unwrap_or_default());
    }
}
