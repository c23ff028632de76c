//! `ImageFolder`: a folder of class folders, as torchvision's.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use rsflow_base::home;
use rsflow_base::home::cache_folder;
use rsflow_graph::{
    Build, Incoming, Input, ListedImages, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::listed::{Listed, Reading, lists};
use super::policy::{Damage, check_source, default_read_timeout, read_timeout};
use super::{check_path, output};
use crate::images::EncodedImage;
use crate::listing::{Listing, Part};

/// Images in one folder per class. Classes are the folder names, sorted as text (1, 10, 2); within a
/// class, images are sorted by path. Each epoch is one pass over all of them. Hidden names (`.x`) and
/// files with other endings than .jpg, .jpeg, .jpe, .jfif, .png, .bmp, .webp, .tif, .tiff, .ppm, .pgm,
/// .pbm, .pnm and .gif are passed over, and counted at the start.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFolder {
    /// The folder that holds the class folders; `~` is the home folder.
    root: PathBuf,
    /// Shuffle anew for every epoch, from the recipe's seed.
    #[serde(default)]
    shuffle: bool,
    /// All images, or one of two parts, of which the other is for validation: for data without validation
    /// images of its own.
    #[serde(default)]
    part: Part,
    /// The policy for a file that cannot be read.
    #[serde(default)]
    on_error: Damage,
    /// Keep the listing in the user's cache folder. The next start then only compares every folder's
    /// inode, size and times, and lists anew if one has changed. `false` always lists anew.
    #[serde(default = "yes")]
    listing_cache: bool,
    /// Timeout for reading one file, in seconds. A file that takes longer counts as unreadable, so a
    /// disk that hangs does not hang the run; it is not read again in the run. `None` for no limit.
    #[serde(default = "default_read_timeout")]
    read_timeout: Option<f64>,
}

fn yes() -> bool {
    true
}

impl ImageFolder {
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

impl Node for ImageFolder {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        Vec::new()
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_path("root", "data/imagenette/train", &self.root, report);
        check_source(self.on_error, self.read_timeout, report);
        self.part.check(report);
        vec![Schema::default()]
    }

    fn lists(&self) -> Option<ListedImages> {
        lists(("root", &self.root), "", self.part)
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let cache = self.listing_cache.then(cache_folder).flatten();
        let root = home::expand(&self.root)?;
        let listing = Listing::of_folder(&root, cache.as_deref(), SystemTime::now())?;
        Ok(Listed::stage(
            build,
            listing.part(self.part)?,
            Reading {
                shuffle: self.shuffle,
                on_error: self.on_error.into(),
                read_timeout: read_timeout(self.read_timeout),
            },
        ))
    }
}

impl NodeKind for ImageFolder {
    const NAME: &'static str = "ImageFolder";
    const SUMMARY: &'static str = "reads the images of a folder of class folders";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[output(EncodedImage::NAME)];
    const EXAMPLE: &'static str = r#"ImageFolder(root: "data/imagenette/train", shuffle: true)"#;
    const REMOVED: &'static [(&'static str, &'static str)] = super::listed::REMOVED;
    const TUNING_HINT: &'static str = super::listed::TUNING_HINT;
}
