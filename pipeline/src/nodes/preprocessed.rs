//! `Preprocessed`: what a network sees that is measured as its checkpoint says.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, OnError, Payload, Port, Preprocess,
    Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::center_crop::CenterCrop;
use super::policy::Damage;
use super::{check_sizes, input, output};
use crate::images::{EncodedImage, Extraneous, LazyImage, SizedImages};
use crate::pixels::Verify;
use crate::preprocess;

/// Decodes images and makes every size of their centres, by a description. `rsflow eval` writes it
/// with the description that a checkpoint keeps; a recipe says the same with a decoder and a crop.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocessed {
    /// The files.
    input: Input,
    /// Sides of the square outputs in pixels.
    sizes: Vec<u32>,
    /// What is done to each image.
    by: Preprocess,
    /// What becomes of a damaged image.
    #[serde(default)]
    on_error: Damage,
}

impl Preprocessed {
    fn center_crop(&self) -> CenterCrop {
        CenterCrop {
            by: self.by,
            sizes: self.sizes.clone(),
        }
    }
}

impl Node for Preprocessed {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        self.on_error.check(report);
        if let Err(error) = self.by.check() {
            report.parameter("by", error.to_string(), "see what the checkpoint keeps");
        }
        if let Some(size) = self.sizes.iter().find(|size| !self.by.reaches(**size)) {
            report.parameter(
                "sizes",
                format!("size {size} is larger than the square that sizes are samples of"),
                "leave it out",
            );
        }
        vec![self.center_crop().schema()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(Preprocessing {
            crop: self.center_crop(),
            on_error: self.on_error.into(),
            extraneous: Extraneous::default(),
        }))
    }
}

struct Preprocessing {
    crop: CenterCrop,
    on_error: OnError,
    extraneous: Extraneous,
}

impl Map for Preprocessing {
    type In = EncodedImage;
    type Out = SizedImages;

    fn apply(&self, encoded: EncodedImage, context: &Context) -> Result<SizedImages> {
        let (header, orientation) = preprocess::open(&self.crop.by, &encoded.bytes)?;
        let image = LazyImage {
            header,
            orientation,
            encoded,
            verify: Verify::default(),
            extraneous: self.extraneous.clone(),
            meter: context.meter.clone(),
        };
        self.crop.apply(image, context)
    }

    fn on_error(&self) -> OnError {
        self.on_error
    }
}

impl NodeKind for Preprocessed {
    const NAME: &'static str = "Preprocessed";
    const SUMMARY: &'static str = "prepares images to measure with, by a description";
    const INPUTS: &'static [Port] = &[input(EncodedImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str = r#"Preprocessed(input: "val_files", sizes: [224], by: (max_pixels: 178956970, exif_orientation: false, resize: ShortSide, interpolation: AntialiasedBilinear, fraction: 0.875))"#;
}
