//! `CascadedCenterCrop`: what validation sees where all resolutions are of one picture.

use anyhow::Result;
use rsflow_graph::{
    Build, Incoming, Input, Interpolation, Node, NodeKind, Payload, Port, Preprocess, Report,
    Resize, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::center_crop::CenterCrop;
use super::{
    check_fraction, check_from, default_fraction, incoming, input, output, picture_side,
    planned_sizes, validation_sizes,
};
use crate::images::{LazyImage, SizedImages};

/// Scales each image until its short side is the largest size / fraction (rounded) as OpenCV does,
/// bicubic and not antialiased, then cuts out the centre. The smaller sizes are nearest-neighbour
/// samples of that picture, as in TensorFlow. What LQ-Nets' TensorFlow code validates on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CascadedCenterCrop {
    /// The images.
    input: Input,
    /// Sides of the square outputs in pixels. Default: for images that a trainer validates on, the resolutions
    /// of its training batches.
    #[serde(default)]
    sizes: Option<Vec<u32>>,
    /// The side of the picture that the sizes are samples of; the largest of them if left out.
    #[serde(default)]
    from: Option<u32>,
    /// The share of the short side that is kept.
    #[serde(default = "default_fraction")]
    fraction: f64,
}

impl CascadedCenterCrop {
    /// `input`: what the input brings.
    fn center_crop(&self, input: Schema, sizes: Vec<u32>) -> CenterCrop {
        CenterCrop {
            by: Preprocess {
                resize: Resize::Cascade {
                    side: picture_side(self.from, &sizes),
                },
                interpolation: Interpolation::Bicubic,
                fraction: self.fraction,
                ..input.preprocess.unwrap_or_default()
            },
            sizes,
        }
    }
}

impl Node for CascadedCenterCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let sizes = validation_sizes(self.sizes.as_deref(), report);
        check_from(self.from, &sizes, report);
        check_fraction(self.fraction, report);
        vec![self.center_crop(incoming(inputs), sizes).schema()]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let input = build.schemas.first().map(|(_, schema)| schema.clone());
        let sizes = planned_sizes(build);
        Ok(Stage::map(
            self.center_crop(input.unwrap_or_default(), sizes),
        ))
    }
}

impl NodeKind for CascadedCenterCrop {
    const NAME: &'static str = "CascadedCenterCrop";
    const SUMMARY: &'static str = "cuts out the centre of each scaled image and samples all resolutions from the largest, for validation";
    const INPUTS: &'static [Port] = &[input(LazyImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str =
        r#"CascadedCenterCrop(input: "val_images", sizes: [224, 192, 160, 128, 96])"#;
    const TUNING_HINT: &'static str = "a smaller largest of `NODE.sizes` helps";
}
