//! `Resize`: a crop at many resolutions.

use anyhow::Result;
use rand::RngExt as _;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{check_flip, check_sizes, incoming, input, output};
use crate::images::{Crop, Outputs, SizedImages};
use crate::pixels::crop;

/// Resizes each crop to every size, always from the crop itself: bilinear, antialiased, as Pillow; the
/// filter reads no pixel outside the crop. Each size is flipped independently.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The crops.
    input: Input,
    /// Sides of the square outputs in pixels, from the largest to the smallest by convention. With
    /// top-down distillation each size is taught by those before it.
    sizes: Vec<u32>,
    /// The probability of a horizontal flip, drawn for each size independently.
    #[serde(default)]
    flip: f64,
}

impl Node for Resize {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
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

impl Map for Resize {
    type In = Crop;
    type Out = SizedImages;

    fn apply(&self, crop: Crop, context: &Context) -> Result<SizedImages> {
        let Crop {
            image,
            region,
            augmentations,
        } = crop;
        let mut random = context.random("flip");
        let sizes = self.sizes.iter();
        let renditions = sizes
            .map(|&size| crop::training(region, size, random.random_bool(self.flip)))
            .collect();
        Ok(SizedImages {
            outputs: Outputs::Rendered(renditions),
            image,
            region,
            augmentations,
            lighting: vec![],
            meter: context.meter.clone(),
        })
    }
}

impl NodeKind for Resize {
    const NAME: &'static str = "Resize";
    const SUMMARY: &'static str = "resizes each crop to many sizes";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str =
        r#"Resize(input: "train_crops", sizes: [224, 192, 160, 128, 96], flip: 0.5)"#;
    const TUNING_HINT: &'static str = "fewer or smaller `NODE.sizes` help";
}
