//! The images behind a path of the command line: a folder, a tar or ImageNet's archives.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Recipe, Text};
use rsflow_model::checkpoint::Metadata;
use rsflow_pipeline::nodes::{ImageNetArchives, ImageTar};

use crate::catalogue::CATALOGUE;
use crate::commands::usage::Usage;

/// Half of an image set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Half {
    Train,
    Val,
}

impl Half {
    /// The folder that it is in, by custom.
    fn folder(self) -> &'static str {
        match self {
            Half::Train => "train",
            Half::Val => "val",
        }
    }

    /// The archive that it is in, of ImageNet's.
    fn archive(self) -> &'static str {
        match self {
            Half::Train => ImageNetArchives::TRAIN,
            Half::Val => ImageNetArchives::VAL,
        }
    }
}

/// Images, each of a class.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// In class folders of this folder.
    Folder(PathBuf),
    /// In class folders of a folder in a tar; its top is the empty path.
    Tar { path: PathBuf, folder: String },
    /// In an archive of ImageNet's, which is in this folder.
    ImageNet { root: PathBuf, half: Half },
    /// Those of a run: the sources of its recipe.
    OfRun {
        validated: String,
        trained: Option<String>,
    },
}

impl Images {
    /// Finds one half of what `path` names; `option` is the one that it was given to.
    pub fn find(path: &Path, half: Half, option: &str) -> Result<Self> {
        let wrong = |found: &str| {
            format!(
                "{option}: {found}; it takes a folder of class folders (or one with val/ and train/), a tar of \
                 such a folder, or ImageNet's archives ({} and the others beside it)",
                Half::Val.archive()
            )
        };
        let place = path.shown();
        if path.is_dir() {
            let inside = path.join(half.folder());
            if inside.is_dir() {
                return Ok(Images::Folder(inside));
            }
            let root = path.to_owned();
            if path.join(half.archive()).is_file() {
                return Ok(Images::ImageNet { root, half });
            }
            let entries = std::fs::read_dir(path);
            let mut entries = entries.with_context(|| format!("cannot read {place}"))?;
            if entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())) {
                return Ok(Images::Folder(root));
            }
            let found = format!("{place} is a folder without folders or archives of images in it");
            bail!(wrong(&found));
        }
        if !path.is_file() {
            let found = match path.exists() {
                true => format!("{place} is neither a folder nor a file"),
                false => format!("there is no folder or file {place}"),
            };
            bail!(wrong(&found));
        }
        if path.extension().is_some_and(|ending| ending == "ron") {
            let found = format!(
                "{place} is a recipe, not images; `rsflow eval RUN_DIR` finds those that its run was validated on"
            );
            bail!(Usage(wrong(&found)));
        }
        let name = path.file_name().unwrap_or_default();
        if let Some(half) = [Half::Train, Half::Val]
            .into_iter()
            .find(|half| name == half.archive())
        {
            let root = path.parent().filter(|root| *root != Path::new(""));
            let root = root.unwrap_or(Path::new(".")).to_owned();
            return Ok(Images::ImageNet { root, half });
        }
        let folders = ImageTar::class_folders(path);
        let folders = folders
            .with_context(|| wrong(&format!("{place} is a file, but not a tar of images")))?;
        let is_half = |folder: &&String| last_part(folder) == half.folder();
        let mut halves = folders.iter().filter(is_half);
        let folder = match (folders.as_slice(), halves.next(), halves.next()) {
            ([only], ..) => only,
            (_, Some(one), None) => one,
            _ => {
                let found = match folders.as_slice() {
                    [] => format!("{place} is a tar without class folders"),
                    several => format!(
                        "{place} is a tar with class folders in {}, of which {} is named {}/",
                        several.join(", "),
                        match folders.iter().any(|folder| is_half(&folder)) {
                            true => "more than one",
                            false => "none",
                        },
                        half.folder()
                    ),
                };
                bail!(wrong(&found));
            }
        };
        Ok(Images::Tar {
            path: path.to_owned(),
            folder: folder.clone(),
        })
    }

    /// Those that a checkpoint's run was validated on.
    ///
    /// # Errors
    /// Its recipe does not say.
    pub fn of_run(metadata: &Metadata) -> Result<Self> {
        let recipe = metadata.recipe.as_str();
        let text = Text::new("the checkpoint's recipe", recipe);
        let recipe = Recipe::parse(text, CATALOGUE, &[]).ok();
        let source = |port: &str| Some(recipe.as_ref()?.source_of(port)?.to_owned());
        let validated = source("validate").with_context(|| {
            Usage(
                "--data: name the images; the checkpoint does not say which its run was validated on"
                    .to_owned(),
            )
        })?;
        Ok(Images::OfRun {
            validated,
            trained: source("train"),
        })
    }

    /// The training images that lie beside these.
    pub fn training_beside(&self) -> Option<Self> {
        let half = Half::Train;
        match self {
            Images::Folder(folder) => {
                // Canonical: the parent of `.` has no name.
                let folder = folder.canonicalize().ok()?;
                let train = folder.parent()?.join(half.folder());
                train.is_dir().then_some(Images::Folder(train))
            }
            Images::Tar { path, folder } => {
                let folders = ImageTar::class_folders(path).ok()?;
                let up = |folder: &str| folder.len() - last_part(folder).len();
                let train = format!("{}{}", &folder[..up(folder)], half.folder());
                folders.contains(&train).then(|| Images::Tar {
                    path: path.clone(),
                    folder: train,
                })
            }
            Images::ImageNet { root, .. } => {
                let is_there = root.join(half.archive()).is_file();
                let root = root.clone();
                is_there.then_some(Images::ImageNet { root, half })
            }
            Images::OfRun { trained, .. } => Some(Images::OfRun {
                validated: trained.clone()?,
                trained: None,
            }),
        }
    }

    /// The node that reads them.
    pub fn node(&self, shuffle: bool) -> String {
        let shuffle = format!("shuffle: {shuffle}");
        self.node_with(&format!("{:?}", self.path()), &[&shuffle])
    }

    /// The node that reads them, with a value for its path and its other fields as a recipe has them.
    pub fn node_with(&self, path: &str, fields: &[&str]) -> String {
        let (kind, first) = match self {
            Images::Folder(_) => ("ImageFolder", format!("root: {path}")),
            Images::Tar { folder, .. } => ("ImageTar", format!("path: {path}, folder: {folder:?}")),
            Images::ImageNet { half, .. } => {
                ("ImageNetArchives", format!("root: {path}, split: {half:?}"))
            }
            Images::OfRun { validated, .. } => return validated.clone(),
        };
        let fields = [&[first.as_str()], fields].concat();
        format!("{kind}({})", fields.join(", "))
    }

    /// The folder or file that they are in.
    pub fn path(&self) -> &Path {
        match self {
            Images::Folder(root) | Images::ImageNet { root, .. } => root,
            Images::Tar { path, .. } => path,
            Images::OfRun { .. } => Path::new(""),
        }
    }
}

/// The name of a folder, without those that it is in.
pub fn last_part(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap_or_default()
}

impl fmt::Display for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Images::Folder(root) => write!(f, "{}", root.shown()),
            Images::Tar { path, folder } => write!(f, "{}: {folder}", path.shown()),
            Images::ImageNet { root, half } => {
                write!(f, "{}", root.join(half.archive()).shown())
            }
            Images::OfRun { validated, .. } => f.write_str(validated),
        }
    }
}
