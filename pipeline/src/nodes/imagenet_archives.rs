//! `ImageNetArchives`: ImageNet's archives as they are downloaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::home;
use rsflow_base::home::cache_folder;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Build, Incoming, Input, ListedImages, Node, NodeKind, NotThere, Payload, Port, Report, Schema,
    Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::listed::{Listed, Reading, lists};
use super::policy::{Damage, check_source, default_read_timeout, read_timeout};
use super::{Split, check_path, output};
use crate::files::first_few;
use crate::imagenet::Labels;
use crate::images::EncodedImage;
use crate::listing::{Archive, Index, Listing, Part, Within};

const DEVKIT: &str = "ILSVRC2012_devkit_t12.tar.gz";

/// ImageNet (ILSVRC 2012) from the archives that image-net.org offers, without unpacking. Classes
/// and order are those of the unpacked images in class folders (`n01440764/n01440764_10026.JPEG`).
/// The first use indexes an archive and keeps the index beside it as `NAME.tar.rsflow-index` (or in
/// the user's cache folder if that cannot be written); an archive that has changed is indexed anew.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageNetArchives {
    /// The folder that holds `ILSVRC2012_img_train.tar` (for `Train`), or `ILSVRC2012_img_val.tar`
    /// and `ILSVRC2012_devkit_t12.tar.gz`, which has the labels (for `Val`).
    root: PathBuf,
    /// `Train` or `Val`.
    split: Split,
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

impl ImageNetArchives {
    /// The archive of the training images.
    pub const TRAIN: &'static str = "ILSVRC2012_img_train.tar";
    /// The archive of the validation images.
    pub const VAL: &'static str = "ILSVRC2012_img_val.tar";

    pub(super) fn listing(&self) -> Result<Listing> {
        let root = home::expand(&self.root)?;
        Self::listing_of(&root, self.split == Split::Train)?.part(self.part)
    }

    /// The training images in a folder of archives, or those for validation.
    pub(crate) fn listing_of(root: &Path, is_training: bool) -> Result<Listing> {
        match is_training {
            true => train(root),
            false => val(root),
        }
    }
}

impl Node for ImageNetArchives {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        Vec::new()
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_path("root", "data/imagenet", &self.root, report);
        check_source(self.on_error, self.read_timeout, report);
        self.part.check(report);
        vec![Schema::default()]
    }

    fn lists(&self) -> Option<ListedImages> {
        let archive = match self.split {
            Split::Train => Self::TRAIN,
            Split::Val => Self::VAL,
        };
        lists(("root", &self.root), archive, self.part)
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

/// The help for an archive that does not exist.
fn way_out(what: &str) -> String {
    format!("it has {what} of ILSVRC 2012 and is offered by image-net.org under this name")
}

/// A tar of one tar for each class, named after it.
fn train(root: &Path) -> Result<Listing> {
    let archive = Archive::open(
        &root.join(ImageNetArchives::TRAIN),
        Some(&way_out("the training images")),
    )?;
    let index = archive.index(Within::Tars, cache_folder().as_deref(), SystemTime::now())?;
    Listing::of_archive(archive, &index, Some(""))
}

/// A tar without folders; the devkit has the classes.
fn val(root: &Path) -> Result<Listing> {
    let archive = Archive::open(
        &root.join(ImageNetArchives::VAL),
        Some(&way_out("the validation images")),
    )?;
    let devkit = root.join(DEVKIT);
    ensure!(
        devkit.exists(),
        NotThere(format!(
            "there is no file {}; {}",
            devkit.shown(),
            way_out("the classes of the validation images")
        ))
    );
    let labels = Labels::from_devkit_archive(&devkit)?;
    let index = archive.index(Within::Files, cache_folder().as_deref(), SystemTime::now())?;
    let index = into_classes(&index, &labels, &root.join(ImageNetArchives::VAL))?;
    Listing::of_archive(archive, &index, Some(""))
}

/// Puts each image into its class's folder.
fn into_classes(index: &Index, labels: &Labels, archive: &Path) -> Result<Index> {
    let (place, file) = (archive.shown(), labels.file.shown());
    let images = labels.images.iter();
    let mut classes: HashMap<&str, &str> = images
        .map(|label| (label.name.as_str(), label.class.as_str()))
        .collect();
    let index = index.renamed(|name| {
        let shown = String::from_utf8_lossy(name);
        let stem = shown.split('.').next().unwrap_or_default();
        let class = classes.remove(stem).with_context(|| {
            format!(
                "{place} has the image {shown}, to which {file} gives no class, or which is in it \
                 twice; download both again"
            )
        })?;
        Ok((class.as_bytes().to_vec(), name.to_vec()))
    })?;
    let mut missing: Vec<&str> = classes.into_keys().collect();
    missing.sort_unstable();
    ensure!(
        missing.is_empty(),
        "{place} lacks {} of the {} images of {file}: {}; download it again",
        missing.len(),
        labels.images.len(),
        first_few(&missing)
    );
    Ok(index)
}

impl NodeKind for ImageNetArchives {
    const NAME: &'static str = "ImageNetArchives";
    const SUMMARY: &'static str = "reads ImageNet's archives as downloaded, without unpacking them";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[output(EncodedImage::NAME)];
    const EXAMPLE: &'static str =
        r#"ImageNetArchives(root: "data/imagenet", split: Train, shuffle: true)"#;
    const REMOVED: &'static [(&'static str, &'static str)] = super::listed::REMOVED;
    const TUNING_HINT: &'static str = super::listed::TUNING_HINT;
}
