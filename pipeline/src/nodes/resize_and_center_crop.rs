//! `ResizeAndCenterCrop`: what validation sees.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{check_fraction, check_sizes, default_fraction, input, output};
use crate::images::{LazyImage, Outputs, SizedImages};
use crate::pixels::crop;

/// For every size: scales the image until its short side is size / fraction (truncated), then cuts
/// out the centre. As torchvision's `Resize` and `CenterCrop`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeAndCenterCrop {
    /// The images.
    input: Input,
    /// Sides of the square outputs in pixels.
    sizes: Vec<u32>,
    /// The share of the short side that is kept.
    #[serde(default = "default_fraction")]
    fraction: f64,
}

impl ResizeAndCenterCrop {
    /// The share of an image's short side that is kept.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }
}

impl Node for ResizeAndCenterCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        check_fraction(self.fraction, report);
        vec![Schema {
            resolutions: self.sizes.clone(),
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for ResizeAndCenterCrop {
    type In = LazyImage;
    type Out = SizedImages;

    fn apply(&self, image: LazyImage, context: &Context) -> Result<SizedImages> {
        let (width, height) = (image.header.width, image.header.height);
        let sizes = self.sizes.iter();
        let renditions = sizes
            .map(|&size| crop::validation(width, height, size, self.fraction))
            .collect();
        Ok(SizedImages {
            outputs: Outputs::Rendered(renditions),
            region: image.header.whole(),
            image,
            lighting: vec![],
            meter: context.meter.clone(),
        })
    }
}

impl NodeKind for ResizeAndCenterCrop {
    const NAME: &'static str = "ResizeAndCenterCrop";
    const SUMMARY: &'static str =
        "scales each image to many sizes and cuts out the centres, for validation";
    const INPUTS: &'static [Port] = &[input(LazyImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str =
        r#"ResizeAndCenterCrop(input: "val_images", sizes: [224, 192, 160, 128, 96])"#;
    const TUNING_HINT: &'static str = "fewer or smaller `NODE.sizes` help";
}
