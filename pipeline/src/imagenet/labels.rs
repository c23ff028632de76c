//! The class of each image: from the devkit's ground truth, or from a list of names and classes.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;

use super::meta_mat;

/// The devkit's files, relative to its folder.
const META: &str = "data/meta.mat";
const GROUND_TRUTH: &str = "data/ILSVRC2012_validation_ground_truth.txt";

/// Upper bound of these files in bytes, which have 1 MB: a small archive must not fill the memory.
const MAX_FILE: u64 = 64 << 20;
/// Upper bound of the unpacked devkit, which has 5 MB.
const MAX_DEVKIT: u64 = 128 << 20;
/// Upper bound of a list; one of all images of ImageNet has 50 MB.
const MAX_LIST: u64 = 256 << 20;

#[derive(Debug)]
pub struct Labels {
    /// The file that they were read from.
    pub file: PathBuf,
    /// Names are unique.
    pub images: Vec<Label>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Label {
    /// Its file name. Without an extension it matches a file with any image extension.
    pub name: String,
    /// The name of its class folder.
    pub class: String,
    /// The line of [`Labels::file`], from 1.
    pub line: usize,
}

impl Labels {
    /// Reads the ground truth of the extracted devkit `ILSVRC2012_devkit_t12`: line `n` of
    /// `data/ILSVRC2012_validation_ground_truth.txt` is the class ID of `ILSVRC2012_val_0000000n`, and
    /// `data/meta.mat` maps class IDs to folder names.
    ///
    /// # Errors
    /// A missing, damaged or wrong file; an unknown class ID.
    pub fn from_devkit(devkit: &Path) -> Result<Labels> {
        let read = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
            let file = devkit.join(name);
            let bytes = input_file::read(&file, MAX_FILE).with_context(|| {
                format!(
                    "cannot read {}; the devkit is the folder that \
                     ILSVRC2012_devkit_t12.tar.gz unpacks to",
                    file.shown()
                )
            });
            Ok((file, bytes?))
        };
        Labels::from_devkit_files(read(META)?, read(GROUND_TRUTH)?, "unpack the devkit again")
    }

    /// As [`Labels::from_devkit`], from the downloaded archive `ILSVRC2012_devkit_t12.tar.gz`.
    ///
    /// # Errors
    /// A missing, damaged or wrong file; an unknown class ID.
    pub fn from_devkit_archive(devkit: &Path) -> Result<Labels> {
        let place = devkit.shown();
        let (mut meta, mut truth) = (None, None);
        let file = input_file::open(devkit).with_context(|| format!("cannot open {place}"))?;
        let damaged = || format!("cannot read {place}; download the devkit again");
        let mut tar = tar::Archive::new(MultiGzDecoder::new(file).take(MAX_DEVKIT));
        for entry in tar.entries().with_context(damaged)? {
            let mut entry = entry.with_context(damaged)?;
            let path = entry.path().with_context(damaged)?.into_owned();
            let found = match () {
                () if path.ends_with(META) => &mut meta,
                () if path.ends_with(GROUND_TRUTH) => &mut truth,
                () => continue,
            };
            let mut bytes = Vec::new();
            let mut entry = entry.by_ref().take(MAX_FILE);
            entry.read_to_end(&mut bytes).with_context(damaged)?;
            *found = Some((devkit.join(path), bytes));
        }
        let missing = |name| format!("{place} holds no {name}; download the devkit again");
        Labels::from_devkit_files(
            meta.with_context(|| missing(META))?,
            truth.with_context(|| missing(GROUND_TRUTH))?,
            "download the devkit again",
        )
    }

    /// Labels from the two files, each given by its path (for messages) and content.
    fn from_devkit_files(
        (meta, content): (PathBuf, Vec<u8>),
        (file, text): (PathBuf, Vec<u8>),
        way_out: &str,
    ) -> Result<Labels> {
        let classes =
            classes(&content).with_context(|| format!("cannot use {}; {way_out}", meta.shown()))?;
        let text = String::from_utf8(text)
            .with_context(|| format!("cannot use {}; {way_out}", file.shown()))?;
        let images = (1..).zip(text.trim_end().lines()).map(|(line, words)| {
            let class = words.trim().parse().ok().and_then(|id| classes.get(&id));
            let class = class.with_context(|| {
                format!(
                    "{}:{line}: `{}` is not the number of one of the {} classes in meta.mat; \
                     {way_out}",
                    file.shown(),
                    words.trim(),
                    classes.len()
                )
            })?;
            Ok(Label {
                name: format!("ILSVRC2012_val_{line:08}"),
                class: class.clone(),
                line,
            })
        });
        let images = images.collect::<Result<_>>()?;
        Ok(Labels { file, images })
    }

    /// Reads a list of file names and classes: `NAME CLASS` or `NAME,CLASS` in each line.
    ///
    /// Bounding boxes may follow (`NAME,CLASS X1 Y1 X2 Y2 CLASS X1 ...`, as in Kaggle's
    /// `LOC_val_solution.csv`). Skips empty lines, lines that begin with `#` and a header line.
    ///
    /// # Errors
    /// A file that cannot be read or lists nothing; a line in another format; a duplicate name; a name
    /// or class that is not a valid file name.
    pub fn from_list(file: &Path) -> Result<Labels> {
        let text = input_file::read_to_string(file, MAX_LIST)
            .with_context(|| format!("cannot read the list {}", file.shown()))?;
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut lines = lines
            .filter(|(_, words)| !words.is_empty() && !words.starts_with('#'))
            .peekable();
        lines.next_if(|(_, words)| is_heading(words));
        let mut images = Vec::new();
        let mut seen = HashMap::new();
        for (line, words) in lines {
            let label = label(line, words).with_context(|| format!("{}:{line}", file.shown()))?;
            if let Some(before) = seen.insert(label.name.clone(), line) {
                bail!(
                    "{}:{line}: `{}` is already in line {before}; remove one of them",
                    file.shown(),
                    label.name
                );
            }
            images.push(label);
        }
        ensure!(
            !images.is_empty(),
            "{} lists no image; its lines should be `NAME CLASS`",
            file.shown()
        );
        let file = file.to_owned();
        Ok(Labels { file, images })
    }
}

/// Folder names by class ID.
fn classes(meta: &[u8]) -> Result<HashMap<u32, String>> {
    let mut classes = HashMap::new();
    for synset in meta_mat::read(meta)? {
        check_name(&synset.wnid)?;
        // A synset with children is a group of classes and never a label.
        if synset.children == 0 {
            classes.insert(synset.id, synset.wnid);
        }
    }
    Ok(classes)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| char == ',' || char.is_whitespace())
        .filter(|word| !word.is_empty())
}

/// Whether the line is a header.
fn is_heading(line: &str) -> bool {
    const HEADINGS: [&str; 6] = ["imageid", "image", "name", "file", "filename", "path"];
    let first = words(line).next().map(str::to_lowercase);
    first.is_some_and(|first| HEADINGS.contains(&first.as_str()))
}

fn label(line: usize, text: &str) -> Result<Label> {
    let mut words = words(text);
    let (Some(name), Some(class)) = (words.next(), words.next()) else {
        bail!("`{text}` should be `NAME CLASS`");
    };
    check_name(name)?;
    check_name(class)?;
    // A class of two words, or another format, must not be taken for bounding boxes.
    let is_box = |word: &str| word == class || word.parse::<f64>().is_ok();
    if let Some(word) = words.find(|word| !is_box(word)) {
        bail!(
            "`{word}` follows the class `{class}`; a line is `NAME CLASS`, and names and classes \
             have no spaces or commas"
        );
    }
    Ok(Label {
        name: name.to_owned(),
        class: class.to_owned(),
        line,
    })
}

/// Checks that a name has no path separator and is not hidden (hidden names are temporary files).
fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']),
        "`{}` cannot be the name of an image or a class: it must not begin with `.` and must have \
         no `/` or `\\`",
        name.escape_debug()
    );
    Ok(())
}
