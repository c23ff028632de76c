//! `RandomErasing`: a rectangle of the crop is overwritten.

use anyhow::Result;
use rand::{Rng as _, RngExt as _};
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_probability, incoming, input, output};
use crate::images::Crop;
use crate::pixels::augment::{self, Erase, Operation};

/// Overwrites a random rectangle of some crops, before they are resized, the same for all resolutions:
/// Random Erasing (Zhong et al. 2020). The rectangle is drawn as by torchvision's `RandomErasing` and by
/// timm, but of the crop, whose pixels are 8-bit levels; they erase images that are normalized, where 0 is
/// the mean colour.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomErasing {
    /// The crops.
    input: Input,
    /// The probability that a crop is changed.
    #[serde(default = "default_probability")]
    probability: f64,
    /// The range of the rectangle's area, as a fraction of the crop's.
    #[serde(default = "default_scale")]
    scale: (f64, f64),
    /// The range of the rectangle's aspect ratio, height divided by width.
    #[serde(default = "default_ratio")]
    ratio: (f64, f64),
    /// What the rectangle is filled with.
    #[serde(default)]
    fill: Fill,
}

/// What an erased rectangle is filled with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
enum Fill {
    /// Red, green and blue, from 0 to 255. The default is ImageNet's mean colour, `Colour(124, 116, 104)`,
    /// which is 0 once it is normalized.
    Colour(u8, u8, u8),
    /// Each level of each pixel is drawn from 0 to 255 with equal probability, as in the paper (RE-R).
    /// torchvision's `random` is normally distributed around the mean instead.
    Noise,
}

impl Default for Fill {
    fn default() -> Self {
        Self::Colour(124, 116, 104)
    }
}

fn default_probability() -> f64 {
    0.25
}

fn default_scale() -> (f64, f64) {
    (0.02, 0.33)
}

fn default_ratio() -> (f64, f64) {
    (0.3, 3.3)
}

impl Node for RandomErasing {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_probability("probability", self.probability, report);
        let in_order = |(from, to): (f64, f64)| from > 0.0 && from <= to && to.is_finite();
        if !in_order(self.scale) || self.scale.1 > 1.0 {
            report.parameter(
                "scale",
                "`scale` must be a range of area fractions above 0 and at most 1",
                "such as (0.02, 0.33)",
            );
        }
        if !in_order(self.ratio) {
            report.parameter(
                "ratio",
                "`ratio` must be a range of positive aspect ratios",
                "such as (0.3, 3.3)",
            );
        }
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for RandomErasing {
    type In = Crop;
    type Out = Crop;

    fn apply(&self, mut crop: Crop, context: &Context) -> Result<Crop> {
        let random = &mut context.random("rectangle");
        if random.random::<f64>() >= self.probability {
            return Ok(crop);
        }
        let (width, height) = crop.size();
        let rect = augment::rectangle(width, height, self.scale, self.ratio, random);
        let fill = match self.fill {
            Fill::Colour(r, g, b) => augment::Fill::Colour([r, g, b]),
            Fill::Noise => augment::Fill::Noise(random.next_u64()),
        };
        let erased = rect.map(|rect| Operation::Erase(Erase { rect, fill }));
        crop.augment(erased, context);
        Ok(crop)
    }
}

impl NodeKind for RandomErasing {
    const NAME: &'static str = "RandomErasing";
    const SUMMARY: &'static str = "overwrites a random rectangle of some crops";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str = r#"RandomErasing(input: "train_crops", probability: 0.25)"#;
}
