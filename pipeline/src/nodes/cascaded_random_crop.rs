//! `CascadedRandomCrop`: one random crop per image, one flip, and one picture for all resolutions.

use anyhow::Result;
use rand::RngExt as _;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    check_crop, check_flip, check_from, check_sizes, default_scale, incoming, input, output,
    picture_side,
};
use crate::images::{LazyImage, Outputs, SizedImages};
use crate::pixels::{Filter, ResizePlan, crop};

/// Draws one crop per image and resizes it to the largest size as OpenCV does: bicubic, not
/// antialiased. The smaller sizes are nearest-neighbour samples of that picture, as in TensorFlow, and
/// share its flip. Together with `Lighting` this is the training data of LQ-Nets' TensorFlow code.
///
/// Area, ratio and which side is the width are drawn uniformly. If none of ten draws fits into the
/// image, the image is scaled until its short side is the largest size, and its centre is cropped.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CascadedRandomCrop {
    /// The images.
    input: Input,
    /// Sides of the square outputs in pixels, from the largest to the smallest by convention. With
    /// top-down distillation each size is taught by those before it.
    sizes: Vec<u32>,
    /// The side of the picture that the sizes are sampled from. Default: the largest of `sizes`.
    #[serde(default)]
    from: Option<u32>,
    /// The range of the crop's area, as a fraction of the image's.
    #[serde(default = "default_scale")]
    scale: (f64, f64),
    /// The range of the ratio of the crop's sides, before it is drawn which side is the width.
    #[serde(default = "default_ratio")]
    ratio: (f64, f64),
    /// The probability of a horizontal flip, drawn once for all sizes.
    #[serde(default)]
    flip: f64,
}

fn default_ratio() -> (f64, f64) {
    (0.75, 1.333)
}

impl Node for CascadedRandomCrop {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        check_from(self.from, &self.sizes, report);
        check_crop(self.scale, self.ratio, report);
        check_flip(self.flip, report);
        vec![Schema {
            resolutions: self.sizes.clone(),
            ..incoming(inputs)
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for CascadedRandomCrop {
    type In = LazyImage;
    type Out = SizedImages;

    fn apply(&self, image: LazyImage, context: &Context) -> Result<SizedImages> {
        let (width, height) = (image.header.width, image.header.height);
        let random = &mut context.random("crop");
        let size = picture_side(self.from, &self.sizes);
        let picture = match crop::inception_crop(width, height, self.scale, self.ratio, random) {
            Some(region) => crop::training(region, size, false),
            None => crop::short_side_center_crop(width, height, size, size),
        };
        let picture = ResizePlan {
            flip: context.random("flip").random_bool(self.flip),
            filter: Filter::Cubic,
            ..picture
        };
        Ok(SizedImages {
            region: picture.source,
            outputs: Outputs::Sampled {
                picture,
                sizes: self.sizes.clone(),
            },
            image,
            augmentations: vec![],
            lighting: vec![],
            meter: context.meter.clone(),
        })
    }
}

impl NodeKind for CascadedRandomCrop {
    const NAME: &'static str = "CascadedRandomCrop";
    const SUMMARY: &'static str =
        "draws a random crop of each image and samples all resolutions from the largest";
    const INPUTS: &'static [Port] = &[input(LazyImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str =
        r#"CascadedRandomCrop(input: "train_images", sizes: [224, 192, 160, 128, 96], flip: 0.5)"#;
    const TUNING_HINT: &'static str = "a smaller largest of `NODE.sizes` helps";
}
