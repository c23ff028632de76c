//! `RandomFlip`: mirrors crops at random.

use anyhow::Result;
use rand::RngExt as _;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{check_probability, incoming, input, output};
use crate::images::Crop;
use crate::pixels::augment::Operation;

/// Mirrors crops at random, before they are resized, the same for all resolutions. `Resize` can flip each
/// size horizontally of its own, at less cost.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomFlip {
    /// The crops.
    input: Input,
    /// The probability that left and right are exchanged.
    #[serde(default)]
    horizontal: f64,
    /// The probability that top and bottom are exchanged, drawn independently.
    #[serde(default = "default_vertical")]
    vertical: f64,
}

fn default_vertical() -> f64 {
    0.5
}

impl Node for RandomFlip {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_probability("horizontal", self.horizontal, report);
        check_probability("vertical", self.vertical, report);
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for RandomFlip {
    type In = Crop;
    type Out = Crop;

    fn apply(&self, mut crop: Crop, context: &Context) -> Result<Crop> {
        let mut random = context.random("flip");
        let drawn = [
            (self.horizontal, Operation::FlipHorizontal),
            (self.vertical, Operation::FlipVertical),
        ];
        let drawn = drawn
            .into_iter()
            .filter(|(probability, _)| random.random_bool(*probability));
        crop.augment(drawn.map(|(_, flip)| flip), context);
        Ok(crop)
    }
}

impl NodeKind for RandomFlip {
    const NAME: &'static str = "RandomFlip";
    const SUMMARY: &'static str = "mirrors crops at random";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str = r#"RandomFlip(input: "train_crops", vertical: 0.5)"#;
}
