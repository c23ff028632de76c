//! `RandomResizedCrop`: one random crop per image, shared by all resolutions.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{check_crop, default_scale, incoming, input, output};
use crate::images::{Crop, LazyImage};
use crate::pixels::crop;

/// Draws one crop per image, of random area and aspect ratio, as torchvision's
/// `RandomResizedCrop`. The `Resize` after it makes every resolution from this one crop.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// The images.
    input: Input,
    /// The range of the crop's area, as a fraction of the image's.
    #[serde(default = "default_scale")]
    scale: (f64, f64),
    /// The range of the crop's aspect ratio, width divided by height.
    #[serde(default = "default_ratio")]
    ratio: (f64, f64),
}

fn default_ratio() -> (f64, f64) {
    (3.0 / 4.0, 4.0 / 3.0)
}

impl Node for RandomResizedCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_crop(self.scale, self.ratio, report);
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for RandomResizedCrop {
    type In = LazyImage;
    type Out = Crop;

    fn apply(&self, image: LazyImage, context: &Context) -> Result<Crop> {
        let (width, height) = (image.header.width, image.header.height);
        let random = &mut context.random("crop");
        Ok(Crop {
            region: crop::random_resized_crop(width, height, self.scale, self.ratio, random),
            image,
            augmentations: vec![],
        })
    }
}

impl NodeKind for RandomResizedCrop {
    const NAME: &'static str = "RandomResizedCrop";
    const SUMMARY: &'static str = "draws a random crop of each image, for all resolutions";
    const INPUTS: &'static [Port] = &[input(LazyImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str = r#"RandomResizedCrop(input: "train_images", scale: (0.08, 1.0))"#;
}
