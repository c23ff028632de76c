//! Plans which image goes to which class folder, and executes the plan.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;

use super::place;
use super::{Label, Labels};
use crate::files::{EXTENSIONS, first_few, is_image};

#[derive(Clone, Debug)]
pub struct Task {
    /// The folder of the images. Other files in it are ignored.
    pub images: PathBuf,
    /// The parent of the class folders; may be the same folder.
    pub classes: PathBuf,
    pub how: How,
    /// Continue although images of the list do not exist.
    pub allow_missing: bool,
}

/// How an image gets into its class folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Move,
    /// The class folder gets a hard link, or a symbolic one where hard links are not possible.
    Link,
}

#[derive(Debug)]
pub struct Sorting {
    /// One for each image that is not in its class folder yet, in the order of the list.
    pub steps: Vec<Step>,
    /// Number of images that are in their class folders already.
    pub there: usize,
    /// Number of images of the list that do not exist.
    pub missing: usize,
    /// Number of class folders with at least one image after the last step.
    pub classes: usize,
}

#[derive(Debug)]
pub struct Step {
    pub action: Action,
    /// Path in the folder of images.
    pub from: PathBuf,
    /// Path in its class folder.
    pub to: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Move,
    Link,
    /// Removes a duplicate: the class folder has the same content already, as after an interrupted
    /// move.
    Drop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.shown(), self.to.shown());
        match self.action {
            Action::Move => write!(f, "move {from} to {to}"),
            Action::Link => write!(f, "link {from} to {to}"),
            Action::Drop => write!(f, "remove {from}, the same as {to}"),
        }
    }
}

/// Plans a sorting, without changing anything.
///
/// # Errors
/// Images that are not in the list, are in the list but do not exist (unless that is allowed), are in
/// another class's folder, or whose target path is occupied.
pub fn plan(task: &Task, labels: &Labels) -> Result<Sorting> {
    let Found { flat, sorted } = find(task, labels)?;
    let mut steps = Vec::new();
    let (mut there, mut missing) = (0, Vec::new());
    let mut classes = BTreeSet::new();
    for label in &labels.images {
        let name = label.name.as_str();
        let image = match (flat.get(name), sorted.get(name)) {
            (Some(image), Some(other)) if image != other => {
                return Err(two_images(labels, label, image, other));
            }
            (Some(image), _) | (None, Some(image)) => image,
            (None, None) => {
                missing.push(name);
                continue;
            }
        };
        classes.insert(&label.class);
        there += usize::from(sorted.contains_key(name));
        if flat.contains_key(name) {
            let from = task.images.join(image);
            let to = task.classes.join(&label.class).join(image);
            let action = if sorted.contains_key(name) {
                check_duplicate(&from, &to)?;
                match task.how {
                    How::Move => Action::Drop,
                    How::Link => continue,
                }
            } else {
                check_free(&from, &to)?;
                match task.how {
                    How::Move => Action::Move,
                    How::Link => Action::Link,
                }
            };
            steps.push(Step { action, from, to });
        }
    }
    let known = labels.images.len();
    ensure!(
        missing.len() < known,
        "{} holds none of the {known} images of {} (their names end in {})",
        task.images.shown(),
        labels.file.shown(),
        EXTENSIONS.join(", ")
    );
    ensure!(
        missing.is_empty() || task.allow_missing,
        "{} lacks {} of the {known} images of {}: {}; --allow-missing continues without them",
        task.images.shown(),
        missing.len(),
        labels.file.shown(),
        first_few(&missing)
    );
    Ok(Sorting {
        steps,
        there,
        missing: missing.len(),
        classes: classes.len(),
    })
}

/// Executes the plan. `progress` is called with the number of completed steps.
///
/// # Errors
/// I/O errors. Completed steps are kept; a new plan has the remaining ones.
pub fn carry_out(sorting: &Sorting, progress: &mut dyn FnMut(usize)) -> Result<()> {
    for (done, step) in (1..).zip(&sorting.steps) {
        let (from, to) = (&step.from, &step.to);
        let folder = to.parent().map_or(Ok(()), fs::create_dir_all);
        folder
            .and_then(|()| match step.action {
                Action::Move => place::move_to(from, to),
                Action::Link => place::link_to(from, to),
                Action::Drop => place::remove_duplicate(from, to),
            })
            .with_context(|| {
                format!(
                    "cannot {step}; nothing is lost, and the same command continues from here ({} of {} were done)",
                    done - 1,
                    sorting.steps.len()
                )
            })?;
        progress(done);
    }
    Ok(())
}

/// The file names of the existing images, by their names in the list.
#[derive(Default)]
struct Found<'a> {
    /// Images in the folder of images.
    flat: HashMap<&'a str, String>,
    /// Images in their class folders.
    sorted: HashMap<&'a str, String>,
}

/// Searches for the images of the list, and for unknown or misplaced ones.
fn find<'a>(task: &Task, labels: &'a Labels) -> Result<Found<'a>> {
    let by_name = labels.images.iter();
    let by_name: HashMap<_, _> = by_name.map(|label| (label.name.as_str(), label)).collect();
    let mut found = Found::default();
    let (mut unknown, mut elsewhere) = (Vec::new(), Vec::new());

    for image in images_of(&task.images)? {
        match label_of(&image, &by_name) {
            Some(label) => enter(&mut found.flat, labels, label, image)?,
            None => unknown.push(task.images.join(image).shown().to_string()),
        }
    }
    let classes: BTreeSet<&str> = labels
        .images
        .iter()
        .map(|label| label.class.as_str())
        .collect();
    for class in classes {
        let folder = task.classes.join(class);
        if folder.symlink_metadata().is_err() {
            continue;
        }
        ensure!(
            folder.is_dir(),
            "{} is not a folder, but it has the name of a class folder; remove it",
            folder.shown()
        );
        // Else an image would be its own duplicate.
        ensure!(
            !same_file::is_same_file(&folder, &task.images).unwrap_or(false),
            "the class folder {} is a link to {}; remove the link",
            folder.shown(),
            task.images.shown()
        );
        for image in images_of(&folder)? {
            let path = folder.join(&image).shown().to_string();
            match label_of(&image, &by_name) {
                None => unknown.push(path),
                Some(label) if label.class != class => elsewhere.push((path, label)),
                Some(label) => enter(&mut found.sorted, labels, label, image)?,
            }
        }
    }

    let file = labels.file.shown();
    ensure!(
        unknown.is_empty(),
        "{file} names {} images, but not {} that are here: {}; remove them, or complete the list",
        labels.images.len(),
        unknown.len(),
        first_few(&unknown)
    );
    if let Some((path, label)) = elsewhere.first() {
        bail!(
            "{path} is in another class folder than the `{}` of {file}:{}, the first of {} such \
             images; move them back to {}, or correct the list",
            label.class,
            label.line,
            elsewhere.len(),
            task.images.shown()
        );
    }
    Ok(found)
}

/// The names of the images in a folder, without hidden files.
fn images_of(folder: &Path) -> Result<BTreeSet<String>> {
    let place = || format!("cannot list {}", folder.shown());
    let mut images = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(place)? {
        let path = entry.with_context(place)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') && is_image(&path) && path.is_file() {
            images.insert(name.into_owned());
        }
    }
    Ok(images)
}

/// The label of an image, by its name or by its name without extension. In Hugging Face's copy of
/// ImageNet the class follows the name: `ILSVRC2012_val_00000001_n01751748.JPEG`.
fn label_of<'a>(image: &str, by_name: &HashMap<&str, &'a Label>) -> Option<&'a Label> {
    let by_stem = || {
        let stem = Path::new(image).file_stem()?.to_str()?;
        // `a.png` in the list does not mean a file `a.png.jpg`.
        if is_image(Path::new(stem)) {
            return None;
        }
        let with_class = || {
            let (name, class) = stem.rsplit_once('_')?;
            let whole = format!("{name}{}", &image[stem.len()..]);
            let label = by_name.get(name).or_else(|| by_name.get(whole.as_str()));
            label.filter(|label| label.class == class)
        };
        by_name.get(stem).or_else(with_class)
    };
    by_name.get(image).or_else(by_stem).copied()
}

/// Records the file of a label.
fn enter<'a>(
    found: &mut HashMap<&'a str, String>,
    labels: &Labels,
    label: &'a Label,
    image: String,
) -> Result<()> {
    match found.insert(&label.name, image.clone()) {
        Some(other) => Err(two_images(labels, label, &other, &image)),
        None => Ok(()),
    }
}

fn two_images(labels: &Labels, label: &Label, one: &str, other: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "both `{one}` and `{other}` could be the `{}` of {}:{}; remove one",
        label.name,
        labels.file.shown(),
        label.line
    )
}

/// Checks that the file at the target path has the content of the image.
fn check_duplicate(from: &Path, to: &Path) -> Result<()> {
    let (image, duplicate) = (from.shown(), to.shown());
    let same = place::is_same(from, to)
        .with_context(|| format!("cannot compare {image} with {duplicate}"))?;
    ensure!(
        same,
        "{image} and {duplicate} have the same name but are different files; remove the wrong one"
    );
    Ok(())
}

/// Checks that the target path does not exist.
fn check_free(from: &Path, to: &Path) -> Result<()> {
    ensure!(
        to.symlink_metadata().is_err(),
        "{} is not a file or is a broken link, so {} cannot get this name; remove it",
        to.shown(),
        from.shown()
    );
    Ok(())
}
