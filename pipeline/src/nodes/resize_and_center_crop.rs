//! `ResizeAndCenterCrop`: what validation sees.

use anyhow::Result;
use rsflow_graph::{
    Build, Incoming, Input, Interpolation, Node, NodeKind, Payload, Port, Preprocess, Report,
    Resize, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::center_crop::CenterCrop;
use super::{
    check_fraction, default_fraction, incoming, input, output, planned_sizes, validation_sizes,
};
use crate::images::{LazyImage, SizedImages};

/// For every size: scales the image until its short side is size / fraction (truncated), then cuts
/// out the centre. As torchvision's `Resize` and `CenterCrop`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeAndCenterCrop {
    /// The images.
    input: Input,
    /// Sides of the square outputs in pixels. Default: for images that a trainer validates on, the resolutions
    /// of its training batches.
    #[serde(default)]
    sizes: Option<Vec<u32>>,
    /// The share of the short side that is kept.
    #[serde(default = "default_fraction")]
    fraction: f64,
    /// How pixels are interpolated: `AntialiasedBilinear` or `AntialiasedBicubic`, as Pillow does, which most
    /// networks of timm were trained with; or OpenCV's `Bicubic`.
    #[serde(default = "default_interpolation")]
    interpolation: Interpolation,
}

fn default_interpolation() -> Interpolation {
    Preprocess::default().interpolation
}

impl ResizeAndCenterCrop {
    /// `input`: what the input brings.
    fn center_crop(&self, input: Schema, sizes: Vec<u32>) -> CenterCrop {
        CenterCrop {
            by: Preprocess {
                resize: Resize::ShortSide,
                interpolation: self.interpolation,
                fraction: self.fraction,
                ..input.preprocess.unwrap_or_default()
            },
            sizes,
        }
    }
}

impl Node for ResizeAndCenterCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let sizes = validation_sizes(self.sizes.as_deref(), report);
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
