//! `CascadedCenterCrop`: what validation sees where all resolutions are of one picture.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    check_fraction, check_from, check_sizes, default_fraction, input, output, picture_side,
};
use crate::images::{LazyImage, Outputs, SizedImages};
use crate::pixels::crop;

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
    /// The side of the picture that all sizes are samples of, in pixels.
    pub fn picture_side(&self) -> u32 {
        picture_side(self.from, &self.sizes)
    }

    /// The share of an image's short side that is kept.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }
}

impl Node for CascadedCenterCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        check_from(self.from, &self.sizes, report);
        check_fraction(self.fraction, report);
        vec![Schema {
            resolutions: self.sizes.clone(),
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for CascadedCenterCrop {
    type In = LazyImage;
    type Out = SizedImages;

    fn apply(&self, image: LazyImage, context: &Context) -> Result<SizedImages> {
        let (width, height) = (image.header.width, image.header.height);
        Ok(SizedImages {
            outputs: Outputs::Sampled {
                picture: crop::cascaded_center_crop(
                    width,
                    height,
                    self.picture_side(),
                    self.fraction,
                ),
                sizes: self.sizes.clone(),
            },
            region: image.header.whole(),
            image,
            lighting: vec![],
            meter: context.meter.clone(),
        })
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
