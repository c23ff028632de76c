//! The data nodes: one kind, one file.

mod batch;
mod cascaded_center_crop;
mod cascaded_random_crop;
mod center_crop;
mod color_jitter;
mod decode_image;
mod image_folder;
mod image_tar;
mod imagenet_archives;
mod lighting;
mod listed;
mod named;
mod policy;
mod preprocessed;
mod rand_augment;
mod random_erasing;
mod random_flip;
mod random_resized_crop;
mod resize;
mod resize_and_center_crop;
mod shapes_folder;
mod trivial_augment;

pub use batch::Batch;
pub use cascaded_center_crop::CascadedCenterCrop;
pub use cascaded_random_crop::CascadedRandomCrop;
pub use color_jitter::ColorJitter;
pub use decode_image::DecodeImage;
pub use image_folder::ImageFolder;
pub use image_tar::ImageTar;
pub use imagenet_archives::ImageNetArchives;
pub use lighting::Lighting;
pub use named::NamedImages;
pub use policy::Damage;
pub use preprocessed::Preprocessed;
pub use rand_augment::RandAugment;
pub use random_erasing::RandomErasing;
pub use random_flip::RandomFlip;
pub use random_resized_crop::RandomResizedCrop;
pub use resize::Resize;
pub use resize_and_center_crop::ResizeAndCenterCrop;
pub use shapes_folder::ShapesFolder;
pub use trivial_augment::TrivialAugment;

use std::path::Path;

use rsflow_base::home;
use rsflow_graph::{Build, Incoming, MAX_SIZE, Port, Preprocess, Report, Schema, repeated};
use schemars::JsonSchema;
use serde::Deserialize;

/// The one output of a data node.
const fn output(carries: &'static str) -> Port {
    Port {
        name: "out",
        carries,
    }
}

/// The one input of a data node.
const fn input(carries: &'static str) -> Port {
    Port {
        name: "input",
        carries,
    }
}

/// What the one input of a data node brings.
fn incoming(inputs: &[Incoming]) -> Schema {
    let input = inputs.first();
    input.map_or_else(Schema::default, |input| input.schema.clone())
}

/// Part of an image set.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
enum Split {
    /// The training set.
    Train,
    /// The validation set.
    Val,
}

/// Checks a parameter that is the path of a folder or file.
fn check_path(field: &str, example: &str, path: &Path, report: &mut Report) {
    let help = format!("such as `{field}: {example:?}`");
    if path.as_os_str().is_empty() {
        report.parameter(field, format!("`{field}` must not be empty"), help);
    } else if let Err(error) = home::expand(path) {
        report.parameter(field, error.to_string(), help);
    }
}

/// Checks the parameter `sizes`.
fn check_sizes(sizes: &[u32], report: &mut Report) {
    if sizes.is_empty() {
        report.parameter(
            "sizes",
            "`sizes` must not be empty",
            "such as `sizes: [224, 192, 160, 128, 96]`",
        );
    }
    // Of many mistakes in one list the first few say enough.
    const REPORTED: usize = 3;
    if sizes.contains(&0) {
        report.parameter(
            "sizes",
            "`sizes` must not contain 0",
            "sizes are at least 1 pixel",
        );
    }
    for size in sizes.iter().filter(|&&size| size > MAX_SIZE).take(REPORTED) {
        report.parameter(
            "sizes",
            format!("size {size} is too large"),
            format!("sizes are at most {MAX_SIZE} pixels"),
        );
    }
    let valid = |size: &u32| (1..=MAX_SIZE).contains(size);
    // There are not more sizes than this.
    let first = &sizes[..sizes.len().min(MAX_SIZE as usize + 1)];
    for size in repeated(first).into_iter().filter(valid).take(REPORTED) {
        report.parameter(
            "sizes",
            format!("size {size} is listed twice"),
            "remove one",
        );
    }
}

/// The parameter `sizes` of a node for validation, checked; the resolutions of the training batches where it is
/// left out. Empty as long as these are not known.
fn validation_sizes(sizes: Option<&[u32]>, report: &mut Report) -> Vec<u32> {
    if let Some(sizes) = sizes {
        check_sizes(sizes, report);
        return sizes.to_vec();
    }
    let training = report.training_resolutions();
    if training.is_none() {
        report.parameter(
            "sizes",
            "`sizes` is missing, and no trainer validates on these images",
            "such as `sizes: [224, 192, 160, 128, 96]`",
        );
    }
    training.unwrap_or_default().to_vec()
}

/// The sizes of a node with one output, given or those of the training batches.
fn planned_sizes(build: &Build) -> Vec<u32> {
    let output = build.outputs.first();
    output.map_or_else(Vec::new, |schema| schema.resolutions.clone())
}

/// Checks the parameters `scale` and `ratio` of a random crop.
fn check_crop(scale: (f64, f64), ratio: (f64, f64), report: &mut Report) {
    let in_order = |(from, to): (f64, f64)| from > 0.0 && from <= to && to.is_finite();
    if !in_order(scale) || scale.1 > 1.0 {
        report.parameter(
            "scale",
            "`scale` must be a range of area fractions above 0 and at most 1",
            "such as (0.08, 1.0)",
        );
    }
    if !in_order(ratio) {
        report.parameter(
            "ratio",
            "`ratio` must be a range of positive aspect ratios",
            "such as (0.75, 1.3333333)",
        );
    }
}

/// The parameter `scale` of a random crop.
fn default_scale() -> (f64, f64) {
    (0.08, 1.0)
}

/// Checks the parameter `flip`.
fn check_flip(flip: f64, report: &mut Report) {
    check_probability("flip", flip, report);
}

/// Checks a parameter that is a probability.
fn check_probability(field: &str, probability: f64, report: &mut Report) {
    if !(0.0..=1.0).contains(&probability) {
        // Of `policy.probability` the last part is the field.
        let name = field.rsplit('.').next().unwrap_or(field);
        report.parameter(
            field,
            format!("`{name}` must be a probability from 0 to 1"),
            format!("such as `{name}: 0.5`"),
        );
    }
}

/// Checks the parameter `fraction`.
fn check_fraction(fraction: f64, report: &mut Report) {
    if !(fraction > 0.0 && fraction <= 1.0) {
        report.parameter(
            "fraction",
            "`fraction` must be above 0 and at most 1",
            "such as 0.875",
        );
    }
}

/// The parameter `fraction`.
fn default_fraction() -> f64 {
    Preprocess::default().fraction
}

/// The side of the picture that a cascade samples its sizes from: the parameter `from`, or the largest
/// of `sizes`.
fn picture_side(from: Option<u32>, sizes: &[u32]) -> u32 {
    from.unwrap_or_else(|| sizes.iter().copied().max().unwrap_or(0))
}

/// The parameter `from` of a cascade.
fn check_from(from: Option<u32>, sizes: &[u32], report: &mut Report) {
    let largest = picture_side(None, sizes);
    if from.is_some_and(|side| !(largest..=MAX_SIZE).contains(&side)) {
        report.parameter(
            "from",
            format!(
                "`from` must be at least the largest of `sizes`, {largest}, and at most {MAX_SIZE}"
            ),
            format!("leave it out for {largest}"),
        );
    }
}
