//! `ShapesFolder`: the generated image set of the quickstart.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use rsflow_base::home;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Build, Incoming, Input, Node, NodeKind, OnError, PROGRESS, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::listed::{Listed, Reading};
use super::policy::{default_read_timeout, read_timeout};
use super::{Split, check_path, output};
use crate::images::EncodedImage;
use crate::listing::Listing;
use crate::shapes::{self, ShapesParameters};

/// A generated set of real JPEG files, made on first use: bright patterns on a cluttered background.
/// Half of the classes differ only by a fine texture that small resolutions blur away. For a first
/// run without any data.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShapesFolder {
    /// The folder of the set. It is generated if it does not exist, and read as `ImageFolder` reads
    /// `ROOT/train` or `ROOT/val`.
    root: PathBuf,
    /// `Train` or `Val`.
    split: Split,
    /// Shuffle anew for every epoch, from the recipe's seed.
    #[serde(default)]
    shuffle: bool,
    /// Training images, of all classes together.
    #[serde(default = "default_train_images")]
    train_images: usize,
    /// Validation images, of all classes together.
    #[serde(default = "default_val_images")]
    val_images: usize,
}

fn default_train_images() -> usize {
    ShapesParameters::default().train_images
}

fn default_val_images() -> usize {
    ShapesParameters::default().val_images
}

impl ShapesFolder {
    /// The folder of its half of the set.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(match self.split {
            Split::Train => "train",
            Split::Val => "val",
        })
    }

    fn parameters(&self) -> ShapesParameters {
        ShapesParameters {
            train_images: self.train_images,
            val_images: self.val_images,
            ..ShapesParameters::default()
        }
    }
}

/// Upper bound that catches typos.
const MAX_IMAGES: u64 = 1 << 24;

impl Node for ShapesFolder {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        Vec::new()
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_path("root", "data/shapes", &self.root, report);
        for (field, images) in [
            ("train_images", self.train_images),
            ("val_images", self.val_images),
        ] {
            let classes = ShapesParameters::default().classes as u64;
            let help = "the set has at least one image per class";
            report.limit(field, images as u64, classes..=MAX_IMAGES, help);
        }
        vec![Schema::default()]
    }

    fn known_classes(&self) -> Option<usize> {
        Some(ShapesParameters::default().classes)
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let root = home::expand(&self.root)?;
        let mut said = 0;
        shapes::generate(&root, &self.parameters(), &mut |done, total| {
            // A line for every quarter: it takes seconds.
            let quarter = done * 4 / total.max(1);
            if quarter > said || done == 1 {
                said = quarter;
                let root = root.shown();
                tracing::info!(
                    target: PROGRESS,
                    "making the image set in {root}: {done} of {total}"
                );
            }
        })?;
        let listing = Listing::of_folder(&home::expand(&self.folder())?, None, SystemTime::now())?;
        Ok(Listed::stage(
            build,
            listing,
            Reading {
                shuffle: self.shuffle,
                on_error: OnError::Refuse,
                read_timeout: read_timeout(default_read_timeout()),
            },
        ))
    }
}

impl NodeKind for ShapesFolder {
    const NAME: &'static str = "ShapesFolder";
    const SUMMARY: &'static str = "makes a small image set on first use and reads it";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[output(EncodedImage::NAME)];
    const EXAMPLE: &'static str =
        r#"ShapesFolder(root: "data/shapes", split: Train, shuffle: true)"#;
    const TUNING_HINT: &'static str = super::listed::TUNING_HINT;
}
