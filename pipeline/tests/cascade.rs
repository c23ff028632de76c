//! Recipes whose resolutions are samples of one image, and recipes with lighting.

use std::fs;
use std::path::Path;

use rsflow_graph::{Batch, Catalogue, Kind, Options, Plan, Recipe, Running, Tap, Text};
use rsflow_pipeline::nodes::{
    self, CascadedCenterCrop, CascadedRandomCrop, DecodeImage, ImageFolder, Lighting,
    ResizeAndCenterCrop,
};
use rsflow_pipeline::pixels::{Pixels, Rect, ResizePlan, Resizer, crop};
use tempfile::TempDir;

mod end;
use end::{Collect, End};

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<ResizeAndCenterCrop>(),
    Kind::of::<CascadedRandomCrop>(),
    Kind::of::<CascadedCenterCrop>(),
    Kind::of::<Lighting>(),
    Kind::of::<nodes::Batch>(),
    Kind::of::<End>(),
]);

/// An image at each resolution, in the order of the recipe.
type Sizes = Vec<Vec<u8>>;

/// The output of the nodes `sizes` for the images of a folder in two epochs.
fn stream(folder: &TempDir, workers: usize, sizes: &str) -> Vec<Sizes> {
    let recipe = format!(
        r#"(seed: 5, cpu_workers: {workers}, nodes: {{
            "files": ImageFolder(root: {:?}),
            "images": DecodeImage(input: "files"),
            {sizes},
            "batches": Batch(input: "sizes", size: 5),
            "end": End(input: "batches"),
        }})"#,
        folder.path().display().to_string()
    );
    let recipe = Recipe::parse(Text::new("recipe.ron", recipe), CATALOGUE, &[]);
    let plan = Plan::new(recipe.unwrap_or_else(|problems| panic!("{problems}")));
    let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
    let collect = Collect::<Batch>::default();
    let options = Options {
        taps: vec![Tap {
            node: "batches".to_owned(),
            output: 0,
            sink: Box::new(collect.clone()),
            name: "test",
        }],
        epochs: Some(2),
        ..Options::default()
    };
    Running::start(&plan, options).unwrap().wait().unwrap();
    let mut images = Vec::new();
    for batch in &*collect.0.lock().unwrap() {
        for slot in 0..batch.labels().len() {
            let sizes = batch.resolutions().enumerate();
            let pixels = sizes.map(|(position, size)| {
                let bytes = (size * size * 3) as usize;
                batch.pixels(position)[slot * bytes..][..bytes].to_vec()
            });
            images.push(pixels.collect());
        }
    }
    images
}

/// Width, height and pixels.
type Image = (u32, u32, Vec<u8>);

/// A folder of images, read in this order.
fn folder(images: &[Image]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    for (index, (width, height, pixels)) in images.iter().enumerate() {
        write(
            &class.join(format!("{index:03}.ppm")),
            *width,
            *height,
            pixels,
        );
    }
    folder
}

fn write(path: &Path, width: u32, height: u32, pixels: &[u8]) {
    let mut bytes = format!("P6 {width} {height} 255\n").into_bytes();
    bytes.extend_from_slice(pixels);
    fs::write(path, bytes).unwrap();
}

/// Images of many shapes, some of which no crop fits; neighbouring pixels of an image differ.
fn images() -> Vec<Image> {
    let sides = [(50, 40), (33, 61), (90, 3), (1, 1), (24, 24), (2, 70)];
    (0..30)
        .map(|index| {
            let (width, height) = sides[index % sides.len()];
            let pixels = (0..width * height).flat_map(|at| {
                let at = at + 7 * index as u32;
                [
                    (at % 251) as u8,
                    (at / 7 % 256) as u8,
                    (at * 97 % 255) as u8,
                ]
            });
            (width, height, pixels.collect())
        })
        .collect()
}

/// One pixel of a picture.
fn pixel(picture: &[u8], size: usize, x: usize, y: usize) -> [u8; 3] {
    let at = (y * size + x) * 3;
    [picture[at], picture[at + 1], picture[at + 2]]
}

const TRAIN: &str = r#"
    "crops": CascadedRandomCrop(input: "images", sizes: [20, 32, 7, 24], flip: 0.5),
    "sizes": Lighting(input: "crops", std: 0.5)"#;

#[test]
fn resolutions_of_any_order_are_samples_of_the_largest() {
    let folder = folder(&images());
    let validate = r#""sizes": CascadedCenterCrop(input: "images", sizes: [20, 32, 7, 24])"#;
    for sizes in [TRAIN, validate] {
        let images = stream(&folder, 2, sizes);
        assert_eq!(images.len(), 60);
        for image in images {
            for (position, size) in [20, 32, 7, 24].into_iter().enumerate() {
                for (x, y) in (0..size * size).map(|at| (at % size, at / size)) {
                    assert_eq!(
                        pixel(&image[position], size, x, y),
                        pixel(&image[1], 32, x * 32 / size, y * 32 / size),
                        "({x}, {y}) of {size} in {sizes}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_cascade_does_not_depend_on_the_workers() {
    let folder = folder(&images());
    let alone = stream(&folder, 1, TRAIN);
    assert!(alone == stream(&folder, 4, TRAIN));
    assert!(alone[..30] != alone[30..], "every epoch has its own draws");
}

#[test]
fn a_flip_is_drawn_for_all_resolutions_at_once() {
    // From left to right it grows darker.
    let pixels: Vec<u8> = (0..40 * 30 * 3)
        .map(|at| 250 - at / 3 % 40 * 6)
        .map(|level| level as u8)
        .collect();
    let folder = folder(&vec![(40, 30, pixels); 100]);
    let sizes = |flip| {
        format!(r#""sizes": CascadedRandomCrop(input: "images", sizes: [32, 16], flip: {flip})"#)
    };
    let mirrored = |flip| {
        let images = stream(&folder, 2, &sizes(flip));
        let mirrored = images.iter().filter(|image| {
            let [large, small] = [(0, 32), (1, 16)]
                .map(|(position, size)| image[position][0] < image[position][(size - 1) * 3]);
            assert_eq!(large, small);
            large
        });
        mirrored.count()
    };
    assert_eq!((mirrored("0.0"), mirrored("1.0")), (0, 200));
    assert!((70..130).contains(&mirrored("0.5")));
}

#[test]
fn what_no_crop_fits_into_is_scaled_as_a_whole() {
    let (width, height, pixels) = &images()[2];
    let folder = folder(&[(*width, *height, pixels.clone())]);
    let sizes = |flip: bool| {
        format!(
            r#""sizes": CascadedRandomCrop(input: "images", sizes: [24, 32], flip: {}.0)"#,
            u8::from(flip)
        )
    };
    for flip in [false, true] {
        let plan = ResizePlan {
            flip,
            ..crop::short_side_center_crop(*width, *height, 32, 32)
        };
        assert_eq!((plan.scaled, plan.window), ((960, 32), (464, 0)));
        let whole = Pixels::new(pixels, Rect::whole(*width, *height)).unwrap();
        let mut expected = vec![0; plan.output_bytes()];
        Resizer::new().resize(whole, &plan, &mut expected).unwrap();
        assert!(stream(&folder, 1, &sizes(flip))[0][1] == expected);
    }
}

#[test]
fn validation_scales_the_short_side_to_the_size_by_the_fraction() {
    let images = images();
    let folder = folder(&images);
    // 36.57 and 45.7, rounded.
    for (fraction, short) in [("0.875", 37), ("0.7", 46), ("1.0", 32)] {
        let sizes = format!(
            r#""sizes": CascadedCenterCrop(input: "images", sizes: [32, 16], fraction: {fraction})"#
        );
        let found = stream(&folder, 2, &sizes);
        for ((width, height, pixels), found) in images.iter().zip(found) {
            let plan = crop::short_side_center_crop(*width, *height, short, 32);
            let pixels = Pixels::new(pixels, Rect::whole(*width, *height)).unwrap();
            let mut expected = vec![0; plan.output_bytes()];
            Resizer::new().resize(pixels, &plan, &mut expected).unwrap();
            assert!(found[0] == expected, "{width}x{height} {fraction}");
        }
    }
}

/// A grey image shows the increments that were added to it.
#[test]
fn lighting_is_one_colour_for_all_of_an_image() {
    let folder = folder(&vec![(12, 9, vec![128; 12 * 9 * 3]); 50]);
    let sizes = |then: &str| {
        format!(r#""centres": ResizeAndCenterCrop(input: "images", sizes: [8, 4]), {then}"#)
    };
    let lit = stream(&folder, 2, &sizes(r#""sizes": Lighting(input: "centres")"#));
    let mut colours = Vec::new();
    for image in &lit {
        let colour = pixel(&image[0], 8, 0, 0);
        assert!(
            image
                .iter()
                .flatten()
                .eq([colour; 8 * 8 + 4 * 4].iter().flatten())
        );
        colours.push(colour);
    }
    let distance = |colour: &[u8; 3]| colour.map(|level| level.abs_diff(128)).into_iter().max();
    let farthest = colours.iter().filter_map(distance).max();
    // The first component's standard deviation is 3.2 levels.
    assert!(
        farthest.is_some_and(|farthest| (6..20).contains(&farthest)),
        "{farthest:?}"
    );
    colours.sort_unstable();
    colours.dedup();
    // Of a hundred.
    assert!(colours.len() > 20, "{colours:?}");

    let off = stream(
        &folder,
        2,
        &sizes(r#""sizes": Lighting(input: "centres", std: 0.0)"#),
    );
    assert!(off.iter().flatten().flatten().all(|&level| level == 128));
    // A second lighting node draws independently.
    let twice = r#""once": Lighting(input: "centres"), "sizes": Lighting(input: "once")"#;
    assert!(stream(&folder, 2, &sizes(twice)) != lit);
}
