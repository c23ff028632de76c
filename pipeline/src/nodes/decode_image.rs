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
use crate::images::{EncodedImage, Extraneous, LazyImage};
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
    /// How much of each file is checked for damage, at least, after the first epoch. In the first epoch
    /// it is all of it. What is decoded always is: of most JPEGs the crop, of other files the whole image.
    #[serde(default)]
    verify: VerifyDamage,
    /// What becomes of JPEGs with bytes that are neither blocks nor segments. Most often they are
    /// harmless leftovers of the program that wrote the file.
    #[serde(default)]
    extraneous_bytes: ExtraneousBytes,
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

/// What becomes of JPEGs with extraneous bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
enum ExtraneousBytes {
    /// The bytes are skipped, as libjpeg does, and counted in the log.
    #[default]
    Skip,
    /// The image is damaged. The whole file is read for it, in every epoch.
    Refuse,
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
        Ok(Stage::map(Decoding {
            by: self.preprocess(),
            verify: self.verify,
            extraneous: match self.extraneous_bytes {
                ExtraneousBytes::Skip => Extraneous::default(),
                ExtraneousBytes::Refuse => Extraneous::Refuse,
            },
            on_error: self.on_error.into(),
        }))
    }
}

struct Decoding {
    by: Preprocess,
    verify: VerifyDamage,
    extraneous: Extraneous,
    on_error: OnError,
}

impl Decoding {
    /// Damage anywhere in the files is found in the first epoch, whatever the crops need. For crops as
    /// `RandomResizedCrop` draws them that costs 8 % of decoding, so later epochs do without.
    fn verify(&self, epoch: u64) -> Verify {
        let is_first = epoch == 0;
        match (self.verify, &self.extraneous) {
            (VerifyDamage::Region, Extraneous::Count(_)) if !is_first => Verify::Region,
            _ => Verify::Full,
        }
    }
}

impl Map for Decoding {
    type In = EncodedImage;
    type Out = LazyImage;

    fn apply(&self, encoded: EncodedImage, context: &Context) -> Result<LazyImage> {
        let (header, orientation) = preprocess::open(&self.by, &encoded.bytes)?;
        Ok(LazyImage {
            header,
            orientation,
            encoded,
            verify: self.verify(context.key.epoch),
            extraneous: self.extraneous.clone(),
            meter: context.meter.clone(),
        })
    }

    fn on_error(&self) -> OnError {
        self.on_error
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
