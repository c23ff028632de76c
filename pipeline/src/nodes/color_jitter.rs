//! `ColorJitter`: random brightness, contrast, saturation and hue.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{incoming, input, output};
use crate::images::Crop;
use crate::pixels::augment::policy::Jitter;

/// Changes brightness, contrast, saturation and hue of each crop at random, in a random order, before it
/// is resized, the same for all resolutions. As torchvision's `ColorJitter` on Pillow images.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// The crops.
    input: Input,
    /// The factor of the brightness is uniform from `1 - brightness`, at least 0, to `1 + brightness`.
    #[serde(default)]
    brightness: f64,
    /// The factor of the contrast, likewise.
    #[serde(default)]
    contrast: f64,
    /// The factor of the saturation, likewise.
    #[serde(default)]
    saturation: f64,
    /// The hue is shifted by up to this part of the colour circle in either direction, at most 0.5.
    #[serde(default)]
    hue: f64,
}

/// An upper bound that catches typos.
const MAX_FACTOR: f64 = 10.0;

impl Node for ColorJitter {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let fields = [
            ("brightness", self.brightness, MAX_FACTOR),
            ("contrast", self.contrast, MAX_FACTOR),
            ("saturation", self.saturation, MAX_FACTOR),
            ("hue", self.hue, 0.5),
        ];
        for (field, value, most) in fields {
            if !(0.0..=most).contains(&value) {
                report.parameter(
                    field,
                    format!("`{field}` must be from 0 to {most}, not {value}"),
                    format!(
                        "such as `{field}: {}`",
                        if field == "hue" { 0.1 } else { 0.4 }
                    ),
                );
            }
        }
        if fields.iter().all(|(_, value, _)| *value == 0.0) {
            report.warning(
                "brightness",
                "this node changes nothing: all its fields are 0",
                "such as `brightness: 0.4, contrast: 0.4, saturation: 0.4`",
            );
        }
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for ColorJitter {
    type In = Crop;
    type Out = Crop;

    fn apply(&self, mut crop: Crop, context: &Context) -> Result<Crop> {
        let jitter = Jitter {
            brightness: self.brightness,
            contrast: self.contrast,
            saturation: self.saturation,
            hue: self.hue,
        };
        crop.augment(jitter.draw(&mut context.random("jitter")), context);
        Ok(crop)
    }
}

impl NodeKind for ColorJitter {
    const NAME: &'static str = "ColorJitter";
    const SUMMARY: &'static str =
        "changes brightness, contrast, saturation and hue of each crop at random";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str = r#"ColorJitter(input: "train_crops", brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1)"#;
}
