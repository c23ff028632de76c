//! `Lighting`: AlexNet's colour augmentation along ImageNet's principal components.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{input, output};
use crate::images::{self, SizedImages};
use crate::pixels::lighting;

/// Adds one random colour to all pixels of an image, the same at all resolutions: a weighted sum of
/// the three principal components of ImageNet's colours, as for AlexNet and in LQ-Nets' TensorFlow
/// code. Values are clipped to 0..255, then rounded down.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lighting {
    /// The images.
    input: Input,
    /// Standard deviation of the three normally distributed factors (mean 0) of the components.
    #[serde(default = "default_std")]
    std: f64,
}

fn default_std() -> f64 {
    0.1
}

impl Node for Lighting {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        if !(self.std >= 0.0 && self.std.is_finite()) {
            report.parameter("std", "`std` must be 0 or above", "such as `std: 0.1`");
        }
        inputs.iter().map(|input| input.schema.clone()).collect()
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for Lighting {
    type In = SizedImages;
    type Out = SizedImages;

    fn apply(&self, mut images: SizedImages, context: &Context) -> Result<SizedImages> {
        let alphas = lighting::draw(self.std, &mut context.random("lighting"));
        images.lighting.push(images::Lighting {
            increments: lighting::increments(alphas),
            meter: context.meter.clone(),
        });
        Ok(images)
    }
}

impl NodeKind for Lighting {
    const NAME: &'static str = "Lighting";
    const SUMMARY: &'static str = "adds a random colour to each image, along ImageNet's components";
    const INPUTS: &'static [Port] = &[input(SizedImages::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str = r#"Lighting(input: "train_sizes", std: 0.1)"#;
}
