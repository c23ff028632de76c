//! Where the images for training and validation are in what a user names: a folder or archive of class folders,
//! or one of parts (`train`, `val`) of these.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{counted, first_few};
use rsflow_pipeline::nodes::{ImageNetArchives, ImageTar};
use rsflow_pipeline::{is_hidden, is_image};

use crate::commands::images::{Half, Images, last_part};
use crate::commands::usage::Usage;

/// Names of the training part, the usual one first.
const TRAINING: &[&str] = &["train", "training"];
/// Names of the validation part, the usual one first.
const VALIDATION: &[&str] = &[
    "val",
    "validation",
    "valid",
    "dev",
    "eval",
    "test",
    "testing",
];
/// How many folders that hold a single folder may be around a data set.
const MAX_LEVELS: usize = 8;

/// What was found.
#[derive(Debug, PartialEq)]
pub struct Found {
    pub training: Images,
    /// `None`: some of the training images have to be held out.
    pub validation: Option<Images>,
    /// What is not as it was named, a sentence each.
    pub remarks: Vec<String>,
}

/// Finds the images in one path, or the training and the validation images in two.
pub fn find(data: &[PathBuf]) -> Result<Found> {
    let (training, validation) = match data {
        [all] => return in_path(all, true),
        [training, validation] => (training, validation),
        // The words before and after an option are counted each on their own.
        _ => {
            let named: Vec<String> = data.iter().map(|path| path.shown().into_owned()).collect();
            return Err(Usage(format!(
                "DATA is one folder or archive, or two, the images to train on and those to validate on; {} were \
                 named: {}",
                data.len(),
                named.join(", ")
            ))
            .into());
        }
    };
    if training.exists() && !validation.exists() {
        let place = validation.shown();
        bail!(
            "there is no folder or file {place}, which the second DATA names: the images to validate on\n\
             help: leave it out where {} holds all images; a recipe's name is an option: `rsflow new DATA --out {place}`",
            training.shown()
        );
    }
    let (mut training, validation) = (in_path(training, false)?, in_path(validation, false)?);
    training.remarks.extend(validation.remarks);
    Ok(Found {
        validation: Some(validation.validation.unwrap_or(validation.training)),
        ..training
    })
}

/// `looks_beside`: validation images may be beside the path.
fn in_path(path: &Path, looks_beside: bool) -> Result<Found> {
    if path.is_dir() {
        return in_folder(path, looks_beside);
    }
    let place = path.shown();
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("there is no folder or file {place}"),
        _ => anyhow::Error::new(error).context(format!("cannot read {place}")),
    })?;
    if !metadata.is_file() {
        bail!("{place} is neither a folder nor a file");
    }
    if is_image(path) {
        bail!("{place} is an image; name the folder that holds the class folders");
    }
    if path.extension().is_some_and(|ending| ending == "ron") {
        return Err(Usage(format!(
            "{place} is a recipe: `rsflow run {place}` trains by it"
        ))
        .into());
    }
    in_file(path)
}

/// How images have to lie in a folder or an archive, for the end of a message.
fn layout(place: &str) -> String {
    format!(
        "each class needs a folder with its images: {place}/CLASS/IMAGE.jpg, or \
         {place}/train/CLASS/IMAGE.jpg and {place}/val/CLASS/IMAGE.jpg"
    )
}

/// What is in a folder itself.
#[derive(Default)]
struct Entries {
    /// Names of its folders, sorted.
    folders: Vec<String>,
    images: usize,
    /// Number of other files.
    others: usize,
}

fn entries(folder: &Path) -> Result<Entries> {
    let cannot = || format!("cannot list {}", folder.shown());
    let mut found = Entries::default();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        if is_hidden(name.as_encoded_bytes()) {
            continue;
        }
        let path = folder.join(&name);
        if path.is_dir() {
            found.folders.push(name.to_string_lossy().into_owned());
        } else if is_image(&path) {
            found.images += 1;
        } else {
            found.others += 1;
        }
    }
    found.folders.sort();
    Ok(found)
}

/// The first of `parts` that is one of `names`, in upper or lower case.
fn part<'a>(names: impl Iterator<Item = &'a str> + Clone, parts: &[&str]) -> Option<&'a str> {
    let mut parts = parts.iter();
    parts.find_map(|part| names.clone().find(|name| name.eq_ignore_ascii_case(part)))
}

fn is_part(name: &str, parts: &[&str]) -> bool {
    part(std::iter::once(name), parts).is_some()
}

/// Whether a folder of this name is usually a part of a data set.
pub fn is_part_name(name: &str) -> bool {
    is_part(name, TRAINING) || is_part(name, VALIDATION)
}

fn in_folder(named: &Path, looks_beside: bool) -> Result<Found> {
    if named.join(ImageNetArchives::TRAIN).is_file() {
        return Ok(imagenet(named));
    }
    let mut remarks = Vec::new();
    let folder = descend(named.to_owned(), &mut remarks)?;
    let found = entries(&folder)?;
    let names = found.folders.iter().map(String::as_str);
    // Beside other classes, a folder of images is a class, also of trains.
    let is_class = |train: &&str| {
        let others = found.folders.iter().any(|name| !is_part_name(name));
        let inside = entries(&folder.join(train));
        others && inside.is_ok_and(|inside| inside.folders.is_empty() && inside.images > 0)
    };
    if let Some(train) = part(names.clone(), TRAINING).filter(|train| !is_class(train)) {
        let training = descend(folder.join(train), &mut remarks)?;
        check_folder(&training)?;
        let val = part(names.clone(), VALIDATION);
        let validation = val.map(|val| descend(folder.join(val), &mut remarks));
        let unused = names.filter(|name| ![Some(train), val].contains(&Some(*name)));
        let unused: Vec<&str> = unused.collect();
        if !unused.is_empty() {
            let place = folder.shown();
            remarks.push(format!("not used in {place}: {}", first_few(&unused)));
        }
        return Ok(Found {
            training: Images::Folder(training),
            validation: validation.transpose()?.map(Images::Folder),
            remarks,
        });
    }
    if found.folders.iter().all(|name| is_part(name, VALIDATION)) && !found.folders.is_empty() {
        let place = folder.shown();
        bail!(
            "{place} has no training images: it holds {}, but no {}; name the folder of class folders to train \
             on, and after it the one to validate on",
            first_few(&found.folders),
            TRAINING[0]
        );
    }
    check_folder(&folder)?;
    let validation = looks_beside.then(|| validation_beside(&folder)).flatten();
    if let Some(validation) = &validation {
        remarks.push(format!(
            "validation images were found beside the training images, in {}",
            validation.shown()
        ));
    }
    Ok(Found {
        training: Images::Folder(folder),
        validation: validation.map(Images::Folder),
        remarks,
    })
}

/// The classes of some images, by their folders alone: no image is looked at. `None` where it takes more to know them.
pub fn class_names(images: &Images) -> Result<Option<Vec<String>>> {
    match images {
        Images::Folder(root) => Ok(Some(entries(root)?.folders)),
        Images::Tar { path, folder } => Ok(Some(ImageTar::classes(path, folder)?)),
        Images::ImageNet { .. } | Images::OfRun { .. } => Ok(None),
    }
}

/// The folder that is meant where a folder holds nothing but another one, which holds folders.
fn descend(named: PathBuf, remarks: &mut Vec<String>) -> Result<PathBuf> {
    let mut folder = named.clone();
    for _ in 0..MAX_LEVELS {
        let found = entries(&folder)?;
        let [only] = found.folders.as_slice() else {
            break;
        };
        let inner = folder.join(only);
        if is_part(only, TRAINING) {
            break;
        }
        // A single class is of no use, so what is in it may be the classes.
        let is_around = match entries(&inner)? {
            inside if inside.images > 0 => inside.folders.len() > 1,
            inside => !inside.folders.is_empty(),
        };
        if !is_around {
            break;
        }
        folder = inner;
    }
    if folder != named {
        let (named, folder) = (named.shown(), folder.shown());
        remarks.push(format!("{named} holds one folder only: {folder} was taken"));
    }
    Ok(folder)
}

/// Makes sure that a folder has folders in it; else says what it may be.
fn check_folder(folder: &Path) -> Result<()> {
    let found = entries(folder)?;
    if !found.folders.is_empty() {
        return Ok(());
    }
    let place = folder.shown();
    // Canonical: the parent of `.` has no name.
    let canonical = folder.canonicalize().ok();
    let parent = canonical.as_deref().and_then(Path::parent);
    let siblings = parent.and_then(|parent| entries(parent).ok());
    let is_class = siblings.is_some_and(|siblings| siblings.folders.len() > 1);
    Err(anyhow!(match (found.images, parent) {
        (0, _) if found.others == 0 => format!("{place} is empty; {}", layout(&place)),
        (0, _) => format!(
            "{place} holds {}, but neither folders nor images; {}",
            counted(found.others, "file"),
            layout(&place)
        ),
        (images, Some(parent)) if is_class => format!(
            "{place} holds {}, but no class folders: it may be one class itself; if {} is the folder of all \
             classes, name that",
            counted(images, "image"),
            parent.shown()
        ),
        (images, _) => format!(
            "{place} holds {}, but no class folders; {}",
            counted(images, "image"),
            layout(&place)
        ),
    }))
}

/// The validation images beside a folder that is named as training images are.
fn validation_beside(folder: &Path) -> Option<PathBuf> {
    let canonical = folder.canonicalize().ok()?;
    let name = canonical.file_name()?.to_str()?;
    let parent = canonical.parent().filter(|_| is_part(name, TRAINING))?;
    let siblings = entries(parent).ok()?;
    let validation = part(siblings.folders.iter().map(String::as_str), VALIDATION)?;
    let as_named = folder
        .parent()
        .filter(|parent| parent.is_dir() && folder.ends_with(name));
    let validation = as_named.unwrap_or(parent).join(validation);
    check_folder(&validation).is_ok().then_some(validation)
}

/// ImageNet's archives in a folder.
fn imagenet(root: &Path) -> Found {
    let of = |half| Images::ImageNet {
        root: root.to_owned(),
        half,
    };
    let has_val = root.join(ImageNetArchives::VAL).is_file();
    Found {
        training: of(Half::Train),
        validation: has_val.then(|| of(Half::Val)),
        remarks: Vec::new(),
    }
}

fn in_file(path: &Path) -> Result<Found> {
    if path
        .file_name()
        .is_some_and(|name| name == ImageNetArchives::TRAIN)
    {
        let root = path.parent().filter(|root| *root != Path::new(""));
        return Ok(imagenet(root.unwrap_or(Path::new("."))));
    }
    let place = path.shown();
    refuse_other_formats(path)?;
    let folders = ImageTar::class_folders(path).with_context(|| {
        format!("cannot read {place} as a tar of images; name a folder or a tar")
    })?;
    let tar = |folder: &str| Images::Tar {
        path: path.to_owned(),
        folder: folder.to_owned(),
    };
    let names = folders.iter().map(|folder| last_part(folder));
    let of = |parts: &[&str]| {
        let name = part(names.clone(), parts)?;
        folders.iter().find(|folder| last_part(folder) == name)
    };
    let training = match (of(TRAINING), of(VALIDATION)) {
        (Some(training), _) => training.clone(),
        (None, Some(_)) if folders.len() == 1 => {
            bail!(
                "{place} has no training images: its class folders are in {}; name the archive to train on, \
                 and after it this one to validate on",
                first_few(&folders)
            );
        }
        // Folders within classes make classes look like folders of classes.
        (None, _) => outermost(path, &folders).ok_or_else(|| {
            anyhow!(match folders.as_slice() {
                [] => format!("{place} has no class folders; {}", layout("ARCHIVE")),
                _ => format!(
                    "{place} has class folders in several folders: {}; call the one to train on `train` and the \
                     one to validate on `val`, or name an archive for each",
                    first_few(&folders)
                ),
            })
        })?,
    };
    let validation = of(VALIDATION).filter(|_| of(TRAINING).is_some());
    let within = |folder: &str, outer: &str| {
        let rest = folder.strip_prefix(outer);
        rest.is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    let used = [Some(&training), validation];
    let is_unused = |folder: &&String| !used.iter().flatten().any(|used| within(folder, used));
    let unused: Vec<&String> = folders.iter().filter(is_unused).collect();
    let mut remarks = Vec::new();
    if !unused.is_empty() {
        remarks.push(format!("not used in {place}: {}", first_few(&unused)));
    }
    Ok(Found {
        training: tar(&training),
        validation: validation.map(|folder| tar(folder)),
        remarks,
    })
}

/// The folder that holds all others; of one that holds nothing but a folder of class folders, the inner one.
fn outermost(path: &Path, folders: &[String]) -> Option<String> {
    let below = |folder: &str, name: &str| match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    };
    let outer = folders.iter().min_by_key(|folder| folder.len())?;
    let prefix = below(outer, "");
    let mut others = folders.iter().filter(|folder| *folder != outer);
    if !others.all(|folder| folder.starts_with(&prefix)) {
        return None;
    }
    let mut outer = outer.clone();
    // A damaged archive is reported when it is looked at.
    while let Ok([only]) = ImageTar::classes(path, &outer).as_deref() {
        let inner = below(&outer, only);
        if !folders.contains(&inner) {
            break;
        }
        outer = inner;
    }
    Some(outer)
}

/// Says what to do with an archive that is no tar.
fn refuse_other_formats(path: &Path) -> Result<()> {
    const START: u64 = 8;
    let place = path.shown();
    let file = input_file::open(path).with_context(|| format!("cannot read {place}"))?;
    let start = input_file::read_all(std::io::Read::take(file, START), START, START);
    let start = start.with_context(|| format!("cannot read {place}"))?;
    let known: [(&[u8], &str, &str); 4] = [
        (b"PK\x03\x04", "a ZIP archive", "unzip"),
        (b"Rar!", "a RAR archive", "unrar x"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x"),
        (b"PAR1", "a Parquet file", ""),
    ];
    let found = known.iter().find(|(mark, ..)| start.starts_with(mark));
    match found {
        None => Ok(()),
        Some((_, what, "")) => bail!(
            "{place} is {what}, which is not read: write its images into class folders, and name these"
        ),
        Some((_, what, program)) => bail!(
            "{place} is {what}, which is not read: unpack it (`{program}`), and name the folder"
        ),
    }
}
