//! Which class each image shows: by the devkit's ground truth, or by a list of names and classes.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::MultiGzDecoder;

use super::meta_mat;

/// The devkit's files, below its folder.
const META: &str = "data/meta.mat";
const GROUND_TRUTH: &str = "data/ILSVRC2012_validation_ground_truth.txt";

/// They have 1 MB. A small archive must not fill the memory.
const MAX_FILE: u64 = 64 << 20;

/// What is known of a set of images.
#[derive(Debug)]
pub struct Labels {
    /// The file that says so.
    pub file: PathBuf,
    /// No name stands here twice.
    pub images: Vec<Label>,
}

/// The class of one image.
#[derive(Debug, PartialEq, Eq)]
pub struct Label {
    /// Its file name. Without an image's extension it stands for a file with any.
    pub name: String,
    /// The name of its class folder.
    pub class: String,
    /// The line of the file that says so, from 1.
    pub line: usize,
}

impl Labels {
    /// Reads the ground truth of the devkit `ILSVRC2012_devkit_t12`, unpacked: line `n` of
    /// `data/ILSVRC2012_validation_ground_truth.txt` is the number of the class of
    /// `ILSVRC2012_val_0000000n`, and `data/meta.mat` knows what that class's folder is called.
    ///
    /// # Errors
    /// A file that is not there, is damaged or is another; a number that is no class.
    pub fn from_devkit(devkit: &Path) -> Result<Labels> {
        let read = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
            let file = devkit.join(name);
            let bytes = fs::read(&file).with_context(|| {
                format!(
                    "cannot read {}; the devkit is the folder that \
                     ILSVRC2012_devkit_t12.tar.gz unpacks to",
                    file.display()
                )
            });
            Ok((file, bytes?))
        };
        Labels::from_devkit_files(read(META)?, read(GROUND_TRUTH)?, "unpack the devkit again")
    }

    /// Reads the same of the devkit as it is downloaded, `ILSVRC2012_devkit_t12.tar.gz`.
    ///
    /// # Errors
    /// A file that is not there, is damaged or is another; a number that is no class.
    pub fn from_devkit_archive(devkit: &Path) -> Result<Labels> {
        let place = devkit.display();
        let (mut meta, mut truth) = (None, None);
        let file = fs::File::open(devkit).with_context(|| format!("cannot open {place}"))?;
        let damaged = || format!("cannot read {place}; download the devkit again");
        let mut tar = tar::Archive::new(MultiGzDecoder::new(file));
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

    /// From the content of the two files and their paths, which errors name.
    fn from_devkit_files(
        (meta, content): (PathBuf, Vec<u8>),
        (file, text): (PathBuf, Vec<u8>),
        way_out: &str,
    ) -> Result<Labels> {
        let classes = classes(&content)
            .with_context(|| format!("cannot use {}; {way_out}", meta.display()))?;
        let text = String::from_utf8(text)
            .with_context(|| format!("cannot use {}; {way_out}", file.display()))?;
        let images = (1..).zip(text.trim_end().lines()).map(|(line, words)| {
            let class = words.trim().parse().ok().and_then(|id| classes.get(&id));
            let class = class.with_context(|| {
                format!(
                    "{}:{line}: `{}` is not the number of one of the {} classes in meta.mat; \
                     {way_out}",
                    file.display(),
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
    /// Boxes may follow (`NAME,CLASS X1 Y1 X2 Y2 CLASS X1 ...`, as in Kaggle's
    /// `LOC_val_solution.csv`). Empty lines, lines that begin with `#` and a line of headings are
    /// passed over.
    ///
    /// # Errors
    /// A file that cannot be read or lists nothing; a line that is neither; a name that stands there
    /// twice; a name or a class that no file or folder can have.
    pub fn from_list(file: &Path) -> Result<Labels> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read the list {}", file.display()))?;
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut lines = lines
            .filter(|(_, words)| !words.is_empty() && !words.starts_with('#'))
            .peekable();
        lines.next_if(|(_, words)| is_heading(words));
        let mut images = Vec::new();
        let mut seen = HashMap::new();
        for (line, words) in lines {
            let label = label(line, words).with_context(|| format!("{}:{line}", file.display()))?;
            if let Some(before) = seen.insert(label.name.clone(), line) {
                bail!(
                    "{}:{line}: `{}` is already in line {before}; remove one of them",
                    file.display(),
                    label.name
                );
            }
            images.push(label);
        }
        ensure!(
            !images.is_empty(),
            "{} lists no image; its lines should be `NAME CLASS`",
            file.display()
        );
        let file = file.to_owned();
        Ok(Labels { file, images })
    }
}

/// Folder names by the numbers of the ground truth.
fn classes(meta: &[u8]) -> Result<HashMap<u32, String>> {
    let mut classes = HashMap::new();
    for synset in meta_mat::read(meta)? {
        check_name(&synset.wnid)?;
        // What has children is a group of classes, and no image's label.
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

/// Whether the first column is named rather than filled.
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
    // A class of two words, or another format, must not be taken for boxes.
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

/// A name must not lead out of the folder that it is in; hidden names are for what is not finished.
fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']),
        "`{}` cannot be the name of an image or a class: it must not begin with `.` and must have \
         no `/` or `\\`",
        name.escape_debug()
    );
    Ok(())
}
