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
    check_fraction, check_from, check_sizes, default_fraction, incoming, input, output,
    picture_side,
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
    /// Sides of the square outputs in pixels.
    sizes: Vec<u32>,
    /// The side of the picture that the sizes are samples of; the largest of them if left out.
    #[serde(default)]
    from: Option<u32>,
    /// The share of the short side that is kept.
    #[serde(default = "default_fraction")]
    fraction: f64,
}

impl CascadedCenterCrop {
    /// `input`: what the input brings.
    fn center_crop(&self, input: Schema) -> CenterCrop {
        CenterCrop {
            by: Preprocess {
                resize: Resize::Cascade {
                    side: picture_side(self.from, &self.sizes),
                },
                interpolation: Interpolation::Bicubic,
                fraction: self.fraction,
                ..input.preprocess.unwrap_or_default()
            },
            sizes: self.sizes.clone(),
        }
    }
}

impl Node for CascadedCenterCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        check_from(self.from, &self.sizes, report);
        check_fraction(self.fraction, report);
        vec![self.center_crop(incoming(inputs)).schema()]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let input = build.schemas.first().map(|(_, schema)| schema.clone());
        Ok(Stage::map(self.center_crop(input.unwrap_or_default())))
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
