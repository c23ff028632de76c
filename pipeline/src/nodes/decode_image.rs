//! `DecodeImage`: the header now, the pixels when it is known which are wanted.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, DEFAULT_MAX_PIXELS, Incoming, Input, Map, Node, NodeKind, OnError, Payload,
    Port, Preprocess, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::Damage;
use super::{input, output};
use crate::images::{EncodedImage, LazyImage};
use crate::pixels::Verify;
use crate::preprocess;

/// Decodes JPEG, PNG, WebP, TIFF, BMP, GIF and Netpbm (PPM, PGM, PBM) to RGB. The format is detected from
/// the first bytes, not from the name; grey, CMYK, YCCK and palettes become RGB as in Pillow, transparency
/// is dropped; of an animation the first frame is read. Decoding is put off until the crop is known.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeImage {
    /// The files.
    input: Input,
    /// How much of each file is checked for damage, at least. What is decoded always is: of most JPEGs
    /// the crop, of other files the whole image.
    #[serde(default)]
    verify: VerifyDamage,
    /// Images with more pixels than this are refused. It bounds the memory of a worker: decoding takes at
    /// most 20 bytes per pixel.
    #[serde(default = "default_max_pixels")]
    max_pixels: u64,
    /// Whether images are turned as their EXIF or XMP orientation says (JPEG, PNG, WebP, TIFF). The
    /// reference ignores it.
    #[serde(default)]
    exif_orientation: bool,
    /// What becomes of a damaged image.
    #[serde(default)]
    on_error: Damage,
}

impl DecodeImage {
    fn preprocess(&self) -> Preprocess {
        Preprocess {
            max_pixels: self.max_pixels,
            exif_orientation: self.exif_orientation,
            ..Preprocess::default()
        }
    }
}

fn default_max_pixels() -> u64 {
    DEFAULT_MAX_PIXELS
}

/// How much of a file is checked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
enum VerifyDamage {
    /// What the crop needs.
    #[default]
    Region,
    /// All of it.
    Full,
}

impl Node for DecodeImage {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        if self.max_pixels == 0 {
            report.parameter(
                "max_pixels",
                "`max_pixels` must be at least 1",
                "leave it out for the default",
            );
        }
        self.on_error.check(report);
        vec![Schema {
            preprocess: Some(self.preprocess()),
            ..Schema::default()
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for DecodeImage {
    type In = EncodedImage;
    type Out = LazyImage;

    fn apply(&self, encoded: EncodedImage, context: &Context) -> Result<LazyImage> {
        let (header, orientation) = preprocess::open(&self.preprocess(), &encoded.bytes)?;
        Ok(LazyImage {
            header,
            orientation,
            encoded,
            verify: match self.verify {
                VerifyDamage::Region => Verify::Region,
                VerifyDamage::Full => Verify::Full,
            },
            meter: context.meter.clone(),
        })
    }

    fn on_error(&self) -> OnError {
        self.on_error.into()
    }
}

impl NodeKind for DecodeImage {
    const NAME: &'static str = "DecodeImage";
    const SUMMARY: &'static str = "decodes images to RGB, once it is known which part is wanted";
    const INPUTS: &'static [Port] = &[input(EncodedImage::NAME)];
    const OUTPUTS: &'static [Port] = &[output(LazyImage::NAME)];
    const EXAMPLE: &'static str = r#"DecodeImage(input: "train_files")"#;
    const ALIASES: &'static [&'static str] = &["DecodeJpeg"];
    const TUNING_HINT: &'static str = "smaller image files help";
}
