//! `TrivialAugment`: one operation of a random kind and strength on each crop.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{incoming, input, output};
use crate::images::Crop;
use crate::pixels::augment::policy;

/// Changes each crop by one operation of a random kind and strength, before it is resized, the same for
/// all resolutions: TrivialAugment (Müller and Hutter 2021) in its wide space. Kinds, strengths and pixels
/// are those of torchvision's `TrivialAugmentWide` on Pillow images. `RandAugment` lists the kinds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrivialAugment {
    /// The crops.
    input: Input,
    /// The number of strengths, of which one is drawn; the first changes nothing.
    #[serde(default = "default_bins")]
    bins: u32,
    /// The colour (red, green, blue) of what a shear, shift or rotation brings in from outside; black if
    /// left out.
    #[serde(default)]
    fill: (u8, u8, u8),
}

fn default_bins() -> u32 {
    31
}

/// An upper bound that catches typos.
const MAX_BINS: u64 = 1 << 10;

impl Node for TrivialAugment {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let bins = self.bins.into();
        report.limit("bins", bins, 2..=MAX_BINS, "leave it out for 31");
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for TrivialAugment {
    type In = Crop;
    type Out = Crop;

    fn apply(&self, mut crop: Crop, context: &Context) -> Result<Crop> {
        let random = &mut context.random("operation");
        let drawn = policy::trivial_augment(self.bins, self.fill.into(), crop.size(), random);
        crop.augment(drawn, context);
        Ok(crop)
    }
}

impl NodeKind for TrivialAugment {
    const NAME: &'static str = "TrivialAugment";
    const SUMMARY: &'static str =
        "changes each crop by one operation of a random kind and strength";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str = r#"TrivialAugment(input: "train_crops")"#;
}
