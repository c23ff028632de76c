//! `ImageFolder`: a folder of class folders, as torchvision's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rand::seq::SliceRandom as _;
use rsflow_graph::{
    Build, Contents, Context, Incoming, Input, Node, NodeKind, OnError, Payload, Port, Report,
    Schema, Source, Stage, random,
};
use schemars::JsonSchema;
use serde::Deserialize;
use walkdir::WalkDir;

use super::{Damage, check_root, output};
use crate::files::{EXTENSIONS, first_few, is_image};
use crate::images::EncodedImage;

/// Images in one folder per class. Classes are the sorted folder names; within a class, images are
/// sorted by path. Each epoch is one pass over all of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFolder {
    /// The folder that holds the class folders.
    root: PathBuf,
    /// Draws a new order for every epoch, from the recipe's seed.
    #[serde(default)]
    shuffle: bool,
    /// What becomes of a file that cannot be read.
    #[serde(default)]
    on_error: Damage,
}

impl Node for ImageFolder {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        Vec::new()
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_root(&self.root, report);
        vec![Schema::default()]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let listing = Listing::read(&self.root)?;
        Ok(Stage::source(Listed {
            listing,
            order: self.shuffle.then(|| (build.seed, build.node.to_owned())),
            on_error: self.on_error.into(),
        }))
    }
}

impl NodeKind for ImageFolder {
    const NAME: &'static str = "ImageFolder";
    const SUMMARY: &'static str = "reads the images of a folder of class folders";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[output(EncodedImage::NAME)];
    const EXAMPLE: &'static str = r#"ImageFolder(root: "data/imagenette/train", shuffle: true)"#;
}

/// Every image of a folder of class folders.
pub(super) struct Listing {
    root: PathBuf,
    classes: Arc<[String]>,
    /// Path below the root, and the class index.
    files: Vec<(PathBuf, u32)>,
}

impl Listing {
    pub fn read(root: &Path) -> Result<Self> {
        let place = root.display();
        ensure!(
            root.is_dir(),
            "there is no folder {place} (relative paths start at the working directory); \
             `--set NODE.root=FOLDER` names another"
        );
        let mut folders: Vec<OsString> = Vec::new();
        for entry in std::fs::read_dir(root).with_context(|| format!("cannot list {place}"))? {
            let entry = entry.with_context(|| format!("cannot list {place}"))?;
            if entry.path().is_dir() {
                folders.push(entry.file_name());
            }
        }
        folders.sort();
        ensure!(
            !folders.is_empty(),
            "{place} holds no class folders; images are expected as {place}/CLASS/IMAGE.jpg"
        );
        let mut files = Vec::new();
        let mut empty = Vec::new();
        for (class, folder) in folders.iter().enumerate() {
            let before = files.len();
            let class = u32::try_from(class).context("too many classes")?;
            list_class(root, Path::new(folder), class, &mut files)?;
            if files.len() == before {
                empty.push(folder.to_string_lossy());
            }
        }
        if !empty.is_empty() {
            bail!(
                "class folders without an image in {place}: {}; fill them or take them out (images end in {})",
                first_few(&empty),
                EXTENSIONS.join(", ")
            );
        }
        ensure!(
            u32::try_from(files.len()).is_ok(),
            "{place} holds more images than can be counted"
        );
        tracing::info!(folder = %place, classes = folders.len(), images = files.len(), "listed");
        Ok(Listing {
            root: root.to_owned(),
            classes: folders
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            files,
        })
    }
}

/// Adds the images of one class, folder by folder, sorted, as Python's `sorted(os.walk(...))`.
fn list_class(
    root: &Path,
    folder: &Path,
    class: u32,
    files: &mut Vec<(PathBuf, u32)>,
) -> Result<()> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root.join(folder)).follow_links(true) {
        let entry = entry.context("cannot list the images")?;
        if is_image(entry.path()) && entry.file_type().is_file() {
            let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
            found.push(below.to_owned());
        }
    }
    found.sort_by(|a, b| {
        let key = |path: &PathBuf| {
            let parent = path.parent().map(|parent| parent.as_os_str().to_owned());
            (parent, path.file_name().map(ToOwned::to_owned))
        };
        key(a).cmp(&key(b))
    });
    files.extend(found.into_iter().map(|path| (path, class)));
    Ok(())
}

/// A listing at work.
pub(super) struct Listed {
    pub listing: Listing,
    /// Seed and node name, if each epoch is shuffled.
    pub order: Option<(u64, String)>,
    pub on_error: OnError,
}

impl Source for Listed {
    type Out = EncodedImage;

    fn contents(&self) -> Contents {
        Contents {
            items_per_epoch: self.listing.files.len() as u64,
            classes: Arc::clone(&self.listing.classes),
            last_group: 1,
            origin: self.listing.root.display().to_string(),
        }
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.listing.files.len() as u32).collect();
        if let Some((seed, node)) = &self.order {
            order.shuffle(&mut random(*seed, node, "shuffle", &[epoch]));
        }
        order
    }

    fn fetch(&self, sample: u32, _: &Context) -> Result<EncodedImage> {
        let (path, class) = &self.listing.files[sample as usize];
        let bytes = std::fs::read(self.listing.root.join(path)).context("cannot read the file")?;
        Ok(EncodedImage {
            bytes: Arc::new(bytes),
            label: i64::from(*class),
        })
    }

    fn describe(&self, sample: u32) -> String {
        let file = self.listing.files.get(sample as usize);
        file.map_or_else(String::new, |(path, _)| {
            self.listing.root.join(path).display().to_string()
        })
    }

    fn on_error(&self) -> OnError {
        self.on_error
    }
}
