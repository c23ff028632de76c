//! `ImageTar`: a folder of class folders in a tar, read where it is.

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
use crate::listing::{Archive, Index, Listing, Part, Within};

/// Images in one folder per class, in a tar that is not unpacked: what `ImageFolder` would read after
/// unpacking, in the same order. The first use indexes the archive and keeps the index beside it as
/// `PATH.rsflow-index` (or in the user's cache folder if that cannot be written); an archive that has
/// changed is indexed anew. Symbolic links, and images that are hard links or sparse files, are
/// errors.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageTar {
    /// The archive: ustar, GNU or pax, not compressed.
    path: PathBuf,
    /// The folder in the archive that holds the class folders. Optional if only one does.
    folder: Option<String>,
    /// Shuffle anew for every epoch, from the recipe's seed.
    #[serde(default)]
    shuffle: bool,
    /// All images, or one of two parts, of which the other is for validation: for data without validation
    /// images of its own.
    #[serde(default)]
    part: Part,
    /// The policy for an image that cannot be read.
    #[serde(default)]
    on_error: Damage,
    /// Timeout for reading one image, in seconds; see `ImageFolder`.
    #[serde(default = "default_read_timeout")]
    read_timeout: Option<f64>,
}

impl ImageTar {
    /// The folders in an archive that hold class folders, sorted; its top is the empty one. Indexes
    /// the archive if that was not done before.
    ///
    /// # Errors
    /// A file that is not there, or no tar.
    pub fn class_folders(path: &Path) -> Result<Vec<String>> {
        let index = index(&open(path)?)?;
        let folders = index.candidates().into_iter();
        let folders = folders.map(|folder| String::from_utf8_lossy(folder).into_owned());
        Ok(folders.collect())
    }

    pub(super) fn listing(&self) -> Result<Listing> {
        let path = home::expand(&self.path)?;
        Self::listing_of(&path, self.folder.as_deref())?.part(self.part)
    }

    /// The classes in an archive's `folder`, sorted.
    ///
    /// # Errors
    /// As the node has when it starts.
    pub fn classes(path: &Path, folder: &str) -> Result<Vec<String>> {
        Ok(Self::listing_of(path, Some(folder))?.classes.to_vec())
    }

    /// The images in the class folders of an archive's `folder`, which is optional if there is only one.
    pub(crate) fn listing_of(path: &Path, folder: Option<&str>) -> Result<Listing> {
        let archive = open(path)?;
        let index = index(&archive)?;
        Listing::of_archive(archive, &index, folder)
    }
}

fn open(path: &Path) -> Result<Archive> {
    Archive::open(path, None)
}

fn index(archive: &Archive) -> Result<Index> {
    archive.index(Within::Files, cache_folder().as_deref(), SystemTime::now())
}

impl Node for ImageTar {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        Vec::new()
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_path("path", "data/imagenette2.tar", &self.path, report);
        check_source(self.on_error, self.read_timeout, report);
        self.part.check(report);
        vec![Schema::default()]
    }

    fn lists(&self) -> Option<ListedImages> {
        lists(
            ("path", &self.path),
            self.folder.as_deref().unwrap_or_default(),
            self.part,
        )
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        Ok(Listed::stage(
            build,
            self.listing()?,
            Reading {
                shuffle: self.shuffle,
                on_error: self.on_error.into(),
                read_timeout: read_timeout(self.read_timeout),
            },
        ))
    }
}

impl NodeKind for ImageTar {
    const NAME: &'static str = "ImageTar";
    const SUMMARY: &'static str =
        "reads the images of a tar of class folders, without unpacking it";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[output(EncodedImage::NAME)];
    const EXAMPLE: &'static str =
        r#"ImageTar(path: "data/imagenette2.tar", folder: "imagenette2/train", shuffle: true)"#;
    const REMOVED: &'static [(&'static str, &'static str)] = super::listed::REMOVED;
    const TUNING_HINT: &'static str = super::listed::TUNING_HINT;
}
