//! The generated image set of the quickstart: JPEG files in class folders, so that a first training run
//! needs no download.

mod picture;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rsflow_base::keyed;
use rsflow_base::shown::Shown as _;
use thiserror::Error;

use self::picture::{CLASSES, paint};

pub const MAX_CLASSES: usize = CLASSES.len();

/// Holds the parameters of a set. Written last, so its presence means that the set is complete.
const MARKER: &str = "shapes.txt";

const JPEG_QUALITY: u8 = 92;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapesParameters {
    /// Number of classes, 2 to [`MAX_CLASSES`].
    pub classes: usize,
    /// Number of training images of all classes; at least one for each.
    pub train_images: usize,
    /// Number of validation images of all classes; at least one for each.
    pub val_images: usize,
    /// Width and height of the images in pixels, 32 to 512. Does not scale the patterns.
    pub side: u32,
    /// Another seed gives other images. With the same seed, a larger set includes the images of a
    /// smaller one.
    pub seed: u64,
}

impl Default for ShapesParameters {
    fn default() -> Self {
        Self {
            classes: 8,
            train_images: 2_000,
            val_images: 400,
            side: 96,
            seed: 0,
        }
    }
}

impl ShapesParameters {
    fn check(&self) -> Result<(), ShapesError> {
        let wrong = |what: String| Err(ShapesError::Parameters(what));
        if !(2..=MAX_CLASSES).contains(&self.classes) {
            return wrong(format!(
                "`classes` is {}, must be 2 to {MAX_CLASSES}",
                self.classes
            ));
        }
        if !(32..=512).contains(&self.side) {
            return wrong(format!("`side` is {}, must be 32 to 512", self.side));
        }
        if self.train_images.min(self.val_images) < self.classes {
            return wrong(format!(
                "each split needs at least {} images, one per class",
                self.classes
            ));
        }
        Ok(())
    }

    /// The content of the marker. The first line explains the file to users.
    fn describe(&self) -> String {
        let Self {
            classes,
            train_images,
            val_images,
            side,
            seed,
        } = self;
        format!(
            "Generated pictures, version 1: delete this folder to have it made anew.\n\
             classes {classes}\ntrain_images {train_images}\nval_images {val_images}\n\
             side {side}\nseed {seed}\n"
        )
    }
}

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShapesError {
    #[error("invalid parameters of a generated image set: {0}")]
    Parameters(String),
    /// The folder has a set with other parameters; the first that differs.
    #[error(
        "{} holds a generated image set with {found}, expected {expected}; delete that folder or \
         choose another",
        root.shown()
    )]
    OtherSet {
        root: PathBuf,
        found: String,
        expected: String,
    },
    #[error(
        "{} exists and is not a generated image set; choose another folder",
        root.shown()
    )]
    NotASet { root: PathBuf },
    #[error("cannot write {}", path.shown())]
    Write { path: PathBuf, source: io::Error },
}

/// Whether a set was generated or existed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    Made,
    Found,
}

/// Generates the set in `root`, as `root/train/CLASS/NUMBER.jpg` and `root/val/CLASS/NUMBER.jpg`, unless
/// it exists.
///
/// The images are a function of the parameters. The set is written to a temporary folder beside `root`
/// and renamed when it is complete: an interrupted run leaves no `root`. `progress` is called with the
/// number of images written and their total; not if the set exists.
///
/// # Errors
/// Parameters out of range; a `root` with any other content (which is not changed); I/O errors.
pub fn generate(
    root: &Path,
    parameters: &ShapesParameters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Generated, ShapesError> {
    parameters.check()?;
    if exists(root, parameters)? {
        return Ok(Generated::Found);
    }
    let name = root
        .file_name()
        .ok_or_else(|| ShapesError::NotASet { root: root.into() })?;
    let mut partial_name = std::ffi::OsString::from(".");
    partial_name.push(name);
    // Concurrent calls, in one process or in several, have a temporary folder each.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    partial_name.push(format!(".partial-{}-{call}", std::process::id()));
    let partial = Partial(root.with_file_name(partial_name));
    // Left by a killed process with the same process ID.
    let _ = fs::remove_dir_all(&partial.0);
    write_set(&partial.0, parameters, progress)?;
    // Renaming replaces an empty folder, except on Windows.
    let _ = fs::remove_dir(root);
    match fs::rename(&partial.0, root) {
        Ok(()) => Ok(Generated::Made),
        // Another process may have been faster.
        Err(_) if exists(root, parameters)? => Ok(Generated::Found),
        Err(source) => Err(ShapesError::Write {
            path: root.into(),
            source,
        }),
    }
}

/// A temporary folder, removed on drop unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn exists(root: &Path, parameters: &ShapesParameters) -> Result<bool, ShapesError> {
    let expected = parameters.describe();
    match fs::read_to_string(root.join(MARKER)) {
        Ok(found) if found == expected => Ok(true),
        Ok(found) => {
            let differs = expected
                .lines()
                .zip(found.lines().chain(std::iter::repeat("nothing")))
                .find(|(expected, found)| expected != found);
            let (expected, found) =
                differs.unwrap_or(("no further parameters", "further parameters"));
            Err(ShapesError::OtherSet {
                root: root.into(),
                found: found.into(),
                expected: expected.into(),
            })
        }
        Err(_) => {
            let empty = match fs::read_dir(root) {
                Ok(mut entries) => entries.next().is_none(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if empty {
                Ok(false)
            } else {
                Err(ShapesError::NotASet { root: root.into() })
            }
        }
    }
}

fn write_set(
    root: &Path,
    parameters: &ShapesParameters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ShapesError> {
    fn checked<T>(path: &Path, result: io::Result<T>) -> Result<T, ShapesError> {
        result.map_err(|source| ShapesError::Write {
            path: path.into(),
            source,
        })
    }
    let total = parameters.train_images + parameters.val_images;
    let mut done = 0;
    let splits = [
        ("train", parameters.train_images),
        ("val", parameters.val_images),
    ];
    for (split_number, (split, images)) in (0_u64..).zip(splits) {
        for (name, ..) in &CLASSES[..parameters.classes] {
            let folder = root.join(split).join(name);
            checked(&folder, fs::create_dir_all(&folder))?;
        }
        for image in 0..images {
            let class = image % parameters.classes;
            let number = image / parameters.classes;
            // Every image has its own random stream, keyed by split, class and number.
            let numbers = [split_number, class as u64, number as u64];
            let mut rng = keyed::for_picture(parameters.seed, &numbers);
            let (name, pattern, filling) = CLASSES[class];
            let rgb = paint(pattern, filling, parameters.side, &mut rng);
            let path = root.join(split).join(name).join(format!("{number:05}.jpg"));
            checked(
                &path,
                encode(&rgb, parameters.side).and_then(|jpeg| fs::write(&path, jpeg)),
            )?;
            done += 1;
            progress(done, total);
        }
    }
    let marker = root.join(MARKER);
    checked(&marker, fs::write(&marker, parameters.describe()))
}

fn encode(rgb: &[u8], side: u32) -> io::Result<Vec<u8>> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, JPEG_QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    let side = u16::try_from(side).map_err(io::Error::other)?;
    encoder
        .encode(rgb, side, side, ColorType::Rgb)
        .map_err(io::Error::other)?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ShapesParameters = ShapesParameters {
        classes: 10,
        train_images: 20,
        val_images: 10,
        side: 40,
        seed: 3,
    };

    /// The files below a folder with their bytes, in order.
    fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    found.push((path.strip_prefix(root).unwrap().to_path_buf(), bytes));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_set_is_a_function_of_its_parameters_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let mut steps = Vec::new();
        let mut progress = |done, total| steps.push((done, total));
        assert_eq!(
            generate(&one, &SMALL, &mut progress).unwrap(),
            Generated::Made
        );
        assert_eq!(steps.len(), 30);
        assert_eq!(steps.last(), Some(&(30, 30)));
        let mut none = |_, _| panic!("nothing is to be done");
        assert_eq!(generate(&one, &SMALL, &mut none).unwrap(), Generated::Found);

        let larger = ShapesParameters {
            train_images: 30,
            ..SMALL
        };
        generate(&two, &larger, &mut |_, _| ()).unwrap();
        let (small, large) = (contents(&one), contents(&two));
        assert_eq!(small.len(), 31);
        assert_eq!(large.len(), 41);
        for (path, bytes) in &small {
            let same = large.iter().any(|(p, b)| p == path && b == bytes);
            assert!(same || path == Path::new(MARKER), "{}", path.display());
        }
        let pictures: std::collections::HashSet<_> = large.iter().map(|file| &file.1).collect();
        assert_eq!(pictures.len(), large.len(), "no two are equal");
        // No temporary folder is left beside the sets.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn pictures_are_good_jpegs() {
        use crate::pixels::{Decoder, Limits, Verify, header};
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("set");
        generate(&root, &SMALL, &mut |_, _| ()).unwrap();
        for (path, bytes) in contents(&root) {
            if path.extension().is_some_and(|extension| extension == "jpg") {
                let header = header(&bytes, &Limits::default()).unwrap();
                assert_eq!((header.width, header.height), (40, 40));
                let mut decoder = Decoder::new();
                decoder
                    .decode(&bytes, &header, header.whole(), Verify::Full)
                    .unwrap();
            }
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("set");
        generate(&root, &SMALL, &mut |_, _| ()).unwrap();
        let before = contents(&root);
        let other = ShapesParameters { side: 48, ..SMALL };
        let error = generate(&root, &other, &mut |_, _| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("with side 40, expected side 48; delete that folder"),
            "{error}"
        );
        assert_eq!(contents(&root), before);

        // A set without its marker is incomplete, and is not touched.
        fs::remove_file(root.join(MARKER)).unwrap();
        let error = generate(&root, &SMALL, &mut |_, _| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not a generated image set"), "{error}");

        // An empty folder is replaced.
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert_eq!(
            generate(&empty, &SMALL, &mut |_, _| ()).unwrap(),
            Generated::Made
        );
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (
                ShapesParameters {
                    classes: 1,
                    ..SMALL
                },
                "`classes` is 1, must be 2 to 12",
            ),
            (
                ShapesParameters {
                    classes: 13,
                    ..SMALL
                },
                "`classes` is 13",
            ),
            (ShapesParameters { side: 8, ..SMALL }, "`side` is 8"),
            (
                ShapesParameters {
                    val_images: 9,
                    ..SMALL
                },
                "each split needs at least 10 images",
            ),
        ];
        for (parameters, expected) in cases {
            let root = folder.path().join("set");
            let error = generate(&root, &parameters, &mut |_, _| ()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!root.exists());
        }
    }
}
