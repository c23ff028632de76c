//! The images of a source node by their names, without running a graph.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rsflow_base::home;
use rsflow_base::shown::Shown as _;
use rsflow_graph::Planned;

use super::{ImageFolder, ImageNetArchives, ImageTar, ShapesFolder};
use crate::files::read_image;
use crate::listing::Listing;

/// The images of a source, by the names `CLASS/IMAGE` that predictions have.
pub struct NamedImages(Place);

enum Place {
    /// Files in this folder, which need no listing.
    Folder(PathBuf),
    Archive(Box<Listing>, HashMap<String, u32>),
}

impl NamedImages {
    /// Those of a source node. Makes no images: a generated set has to be there.
    ///
    /// # Errors
    /// The folder or archive is not there or cannot be read; the node is no source of images.
    pub fn of(planned: &Planned) -> Result<Self> {
        let folder = |root: &Path| -> Result<Self> {
            let root = home::expand(root)?;
            ensure!(root.is_dir(), "there is no folder {}", root.shown());
            Ok(NamedImages(Place::Folder(root)))
        };
        if let Some(node) = planned.node::<ImageFolder>() {
            return folder(node.root());
        }
        if let Some(node) = planned.node::<ShapesFolder>() {
            return folder(&node.folder());
        }
        let tar = planned.node::<ImageTar>().map(ImageTar::listing);
        let archives = || planned.node::<ImageNetArchives>();
        let listing = tar.or_else(|| archives().map(ImageNetArchives::listing));
        let listing =
            listing.with_context(|| format!("{} reads no image files", planned.id.kind))??;
        let names = (0..listing.len()).map(|image| (listing.name_text(image), image));
        let names = names.collect();
        Ok(NamedImages(Place::Archive(Box::new(listing), names)))
    }

    /// The bytes of an image's file.
    ///
    /// # Errors
    /// There is no such image, or it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        match &self.0 {
            Place::Folder(root) => {
                let path = Path::new(name);
                // A name from a file of predictions must not lead out of the folder.
                let is_inside = |part: Component| matches!(part, Component::Normal(_));
                ensure!(
                    path.components().all(is_inside),
                    "{} is not the name of an image",
                    name.shown()
                );
                read_image(&root.join(path))
            }
            Place::Archive(listing, names) => {
                let image = names.get(name);
                let image = image.with_context(|| {
                    format!("{} has no image {}", listing.origin.shown(), name.shown())
                })?;
                listing.read(*image)
            }
        }
    }
}
