//! A small image set that anyone can make: real JPEG files in class folders, so that a first
//! training run needs no download.
//!
//! A picture shows a bright pattern (bands, checks, discs or rings) on a dark, cluttered ground, and
//! what is bright is either plain or finely hatched or finely dotted; a class is one pattern with one
//! filling. Colours, size, turn and ground are random, and a plain filling is on average as bright as
//! a fine one. The pattern covers the picture, so every crop shows it, and has no handedness that a
//! flip would change. The pattern is seen at every resolution; the filling is a few pixels fine and
//! blurs away at a low one. That is what makes resolutions worth comparing on this set.

use std::f32::consts::TAU;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use thiserror::Error;

/// The largest number of classes.
pub const MOST_CLASSES: usize = CLASSES.len();

/// Says with which parameters a set was made; written last, so it also says that the set is whole.
const MARKER: &str = "shapes.txt";

const QUALITY: u8 = 92;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapesParameters {
    /// Number of classes, 2 to [`MOST_CLASSES`].
    pub classes: usize,
    /// Number of training images, over all classes; at least one for each.
    pub train_images: usize,
    /// Number of validation images, over all classes; at least one for each.
    pub val_images: usize,
    /// Width and height of the images in pixels, 32 to 512. Patterns have the same size in
    /// pixels whatever it is.
    pub side: u32,
    /// Other seeds give other pictures. With the same seed a larger set begins with the pictures of
    /// the smaller.
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
        if !(2..=MOST_CLASSES).contains(&self.classes) {
            return wrong(format!("{} classes, not 2 to {MOST_CLASSES}", self.classes));
        }
        if !(32..=512).contains(&self.side) {
            return wrong(format!("a side of {} pixels, not 32 to 512", self.side));
        }
        if self.train_images.min(self.val_images) < self.classes {
            return wrong(format!("fewer images than the {} classes", self.classes));
        }
        Ok(())
    }

    /// The marker's text. Its first line is for whoever finds the file.
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

/// Why there is no set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShapesError {
    /// The parameters are out of range.
    #[error("cannot make a set of {0}")]
    Parameters(String),
    /// There is a set made with other parameters.
    #[error(
        "{} holds a generated set with {found} where {wanted} was asked for; delete that folder or \
         choose another",
        root.display()
    )]
    OtherSet {
        /// The folder.
        root: PathBuf,
        /// The first parameter that differs, as it was.
        found: String,
        /// The same, as it should be.
        wanted: String,
    },
    /// There is something else.
    #[error(
        "{} exists and is not a generated set; choose another folder for one",
        root.display()
    )]
    InTheWay {
        /// The folder.
        root: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

/// Whether a set was made or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    /// The set was not there before.
    Made,
    /// The same set was there.
    Found,
}

/// Makes the set in `root`, as `root/train/CLASS/NUMBER.jpg` and `root/val/CLASS/NUMBER.jpg`, unless
/// it is there.
///
/// The pictures are a function of the parameters. The set is written into a folder beside `root` and
/// renamed when it is whole: an interrupted run leaves no `root` behind. `progress` is told the
/// number of pictures written and of all, and is not called if there is nothing to do.
///
/// # Errors
/// Parameters out of range; a `root` that holds anything but this set (it is left as it is); a file
/// system that refuses.
pub fn generate(
    root: &Path,
    parameters: &ShapesParameters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Generated, ShapesError> {
    parameters.check()?;
    if is_there(root, parameters)? {
        return Ok(Generated::Found);
    }
    let name = root
        .file_name()
        .ok_or_else(|| ShapesError::InTheWay { root: root.into() })?;
    let mut partial_name = std::ffi::OsString::from(".");
    partial_name.push(name);
    // Two at once, in one process or in several, each have their own.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    partial_name.push(format!(".partial-{}-{call}", std::process::id()));
    let partial = Partial(root.with_file_name(partial_name));
    // Left by a process that had our number and was killed.
    let _ = fs::remove_dir_all(&partial.0);
    write_set(&partial.0, parameters, progress)?;
    // An empty folder may be replaced by one; Windows wants it gone.
    let _ = fs::remove_dir(root);
    match fs::rename(&partial.0, root) {
        Ok(()) => Ok(Generated::Made),
        // Another process may have been faster.
        Err(_) if is_there(root, parameters)? => Ok(Generated::Found),
        Err(source) => Err(ShapesError::Write {
            path: root.into(),
            source,
        }),
    }
}

/// A folder that goes away unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_there(root: &Path, parameters: &ShapesParameters) -> Result<bool, ShapesError> {
    let wanted = parameters.describe();
    match fs::read_to_string(root.join(MARKER)) {
        Ok(found) if found == wanted => Ok(true),
        Ok(found) => {
            let differs = wanted
                .lines()
                .zip(found.lines().chain(std::iter::repeat("nothing")))
                .find(|(wanted, found)| wanted != found);
            let (wanted, found) = differs.unwrap_or(("nothing more", "something more"));
            Err(ShapesError::OtherSet {
                root: root.into(),
                found: found.into(),
                wanted: wanted.into(),
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
                Err(ShapesError::InTheWay { root: root.into() })
            }
        }
    }
}

fn write_set(
    root: &Path,
    parameters: &ShapesParameters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ShapesError> {
    fn written<T>(path: &Path, result: io::Result<T>) -> Result<T, ShapesError> {
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
            written(&folder, fs::create_dir_all(&folder))?;
        }
        for image in 0..images {
            let class = image % parameters.classes;
            let number = image / parameters.classes;
            // Every picture has a random stream of its own, wherever in the set it stands.
            let mut key = parameters.seed;
            for part in [split_number, class as u64, number as u64] {
                key = mix(key ^ part);
            }
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(key);
            let (name, pattern, filling) = CLASSES[class];
            let rgb = paint(pattern, filling, parameters.side, &mut rng);
            let path = root.join(split).join(name).join(format!("{number:05}.jpg"));
            written(
                &path,
                encode(&rgb, parameters.side).and_then(|jpeg| fs::write(&path, jpeg)),
            )?;
            done += 1;
            progress(done, total);
        }
    }
    let marker = root.join(MARKER);
    written(&marker, fs::write(&marker, parameters.describe()))
}

/// SplitMix64's step: every bit of the result depends on every bit of `value`.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn encode(rgb: &[u8], side: u32) -> io::Result<Vec<u8>> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    let side = u16::try_from(side).map_err(io::Error::other)?;
    encoder
        .encode(rgb, side, side, ColorType::Rgb)
        .map_err(io::Error::other)?;
    Ok(jpeg)
}

#[derive(Debug, Clone, Copy)]
enum Pattern {
    Bands,
    Checks,
    Discs,
    Rings,
}

#[derive(Debug, Clone, Copy)]
enum Filling {
    Plain,
    Hatched,
    Dotted,
}

/// The classes in the order in which they are taken.
const CLASSES: [(&str, Pattern, Filling); 12] = [
    ("bands_plain", Pattern::Bands, Filling::Plain),
    ("bands_hatched", Pattern::Bands, Filling::Hatched),
    ("discs_plain", Pattern::Discs, Filling::Plain),
    ("discs_hatched", Pattern::Discs, Filling::Hatched),
    ("checks_plain", Pattern::Checks, Filling::Plain),
    ("checks_hatched", Pattern::Checks, Filling::Hatched),
    ("rings_plain", Pattern::Rings, Filling::Plain),
    ("rings_hatched", Pattern::Rings, Filling::Hatched),
    ("bands_dotted", Pattern::Bands, Filling::Dotted),
    ("discs_dotted", Pattern::Discs, Filling::Dotted),
    ("checks_dotted", Pattern::Checks, Filling::Dotted),
    ("rings_dotted", Pattern::Rings, Filling::Dotted),
];

impl Pattern {
    /// How far a point is outside of what is bright (negative: inside), where the pattern repeats
    /// after 1.
    fn distance(self, x: f32, y: f32) -> f32 {
        // From the nearest middle, -0.5 to 0.5.
        let (u, v) = (x - x.round(), y - y.round());
        match self {
            Self::Bands => u.abs() - 0.25,
            Self::Checks => {
                let inside = (0.25 - u.abs()).abs().min((0.25 - v.abs()).abs());
                if (u.abs() < 0.25) == (v.abs() < 0.25) {
                    -inside
                } else {
                    inside
                }
            }
            Self::Discs => u.hypot(v) - 0.37,
            Self::Rings => (u.hypot(v) - 0.32).abs() - 0.12,
        }
    }
}

impl Filling {
    /// From -1 (darkest) to 1 (brightest), on average 0, where it repeats after 1.
    fn brightness(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Plain => 0.0,
            Self::Hatched => (TAU * x).sin(),
            Self::Dotted => (TAU * x).sin() * (TAU * y).sin() * 1.4,
        }
    }
}

/// A picture, `[side, side, 3]`, RGB.
fn paint(pattern: Pattern, filling: Filling, side: u32, rng: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut picture = Picture {
        side,
        pixels: vec![[0.0; 3]; side as usize * side as usize],
    };
    let extent = side as f32;

    // The ground: a gradient and soft blobs.
    let ground = colour(rng, 15.0, 85.0);
    let drift = colour(rng, -25.0, 25.0);
    let turn = rng.random_range(0.0..TAU);
    picture.fill(|x, y| {
        let along = (x * turn.cos() + y * turn.sin()) / extent;
        std::array::from_fn(|c| ground[c] + drift[c] * along)
    });
    for _ in 0..rng.random_range(3..8) {
        let (x, y) = (rng.random_range(0.0..extent), rng.random_range(0.0..extent));
        let long = rng.random_range(0.12..0.4) * extent;
        let short = rng.random_range(0.1..0.25) * extent;
        let tint = colour(rng, -28.0, 28.0);
        let near: [f32; 3] = std::array::from_fn(|c| ground[c] + tint[c]);
        let soft = rng.random_range(1.0..6.0);
        let blob = Placed::new(x, y, 1.0, rng.random_range(0.0..TAU));
        picture.draw(&blob, |u, v| {
            let outside = ((u / long).hypot(v / short) - 1.0) * long.min(short) / soft;
            (cover(outside) * 0.8, near)
        });
    }

    // The pattern and its filling, each with a place, a size and a turn of its own.
    let ink = colour(rng, 175.0, 255.0);
    let repeat = rng.random_range(24.0..34.0);
    let mut anywhere = |repeat: f32| {
        let (x, y) = (rng.random_range(0.0..extent), rng.random_range(0.0..extent));
        Placed::new(x, y, repeat, rng.random_range(0.0..TAU))
    };
    let placed = anywhere(repeat);
    let fine = anywhere(1.0);
    let fineness = rng.random_range(3.8..5.0);
    let strength = rng.random_range(0.55..0.65);
    let depth = rng.random_range(0.3..0.42);
    picture.draw(&placed, |u, v| {
        let (x, y) = placed.out_of(u, v);
        let (x, y) = fine.within(x, y);
        let bright = filling.brightness(x / fineness, y / fineness);
        let opaque = (strength + depth * bright).clamp(0.0, 1.0);
        (cover(pattern.distance(u, v) * repeat) * opaque, ink)
    });

    let noise = rng.random_range(2.0..8.0);
    picture.into_bytes(|| {
        // Three uniform numbers are near enough to a bell.
        let sum: f32 = (0..3).map(|_| rng.random_range(-1.0_f32..1.0)).sum();
        sum * noise
    })
}

fn colour(rng: &mut Xoshiro256PlusPlus, from: f32, to: f32) -> [f32; 3] {
    std::array::from_fn(|_| rng.random_range(from..to))
}

/// How much of a pixel is covered whose middle is `outside` pixels beyond an edge.
fn cover(outside: f32) -> f32 {
    (0.5 - outside).clamp(0.0, 1.0)
}

/// A frame of reference within the picture: where something is, its size and its turn.
struct Placed {
    x: f32,
    y: f32,
    scale: f32,
    cos: f32,
    sin: f32,
}

impl Placed {
    fn new(x: f32, y: f32, scale: f32, turn: f32) -> Self {
        let (sin, cos) = turn.sin_cos();
        Self {
            x,
            y,
            scale,
            cos,
            sin,
        }
    }

    /// From the picture into this frame.
    fn within(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = ((x - self.x) / self.scale, (y - self.y) / self.scale);
        (dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin)
    }

    /// From this frame into the picture.
    fn out_of(&self, u: f32, v: f32) -> (f32, f32) {
        let x = u * self.cos - v * self.sin;
        let y = u * self.sin + v * self.cos;
        (x * self.scale + self.x, y * self.scale + self.y)
    }
}

struct Picture {
    side: u32,
    pixels: Vec<[f32; 3]>,
}

impl Picture {
    fn fill(&mut self, colour: impl Fn(f32, f32) -> [f32; 3]) {
        let side = self.side as usize;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            *pixel = colour((index % side) as f32, (index / side) as f32);
        }
    }

    /// Blends a colour over every pixel; `ink` gives opacity and colour by the place within `placed`.
    fn draw(&mut self, placed: &Placed, ink: impl Fn(f32, f32) -> (f32, [f32; 3])) {
        let side = self.side as usize;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let (u, v) = placed.within((index % side) as f32, (index / side) as f32);
            let (opaque, ink) = ink(u, v);
            *pixel = std::array::from_fn(|c| pixel[c] + (ink[c] - pixel[c]) * opaque);
        }
    }

    fn into_bytes(self, mut noise: impl FnMut() -> f32) -> Vec<u8> {
        let noisy = |value: f32, noise: f32| (value + noise).round().clamp(0.0, 255.0) as u8;
        let mut bytes = Vec::with_capacity(self.pixels.len() * 3);
        for pixel in self.pixels {
            // Mostly of brightness, as a camera's.
            let common = noise();
            for value in pixel {
                bytes.push(noisy(value, common + 0.3 * noise()));
            }
        }
        bytes
    }
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
        assert_eq!(pictures.len(), large.len(), "no two alike");
        // Nothing is left beside the sets.
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
            error.contains("with side 40 where side 48 was asked for; delete that folder"),
            "{error}"
        );
        assert_eq!(contents(&root), before);

        // A set that lost its marker is not taken for whole, nor touched.
        fs::remove_file(root.join(MARKER)).unwrap();
        let error = generate(&root, &SMALL, &mut |_, _| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not a generated set"), "{error}");

        // An empty folder is in nobody's way.
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
                "1 classes, not 2 to 12",
            ),
            (
                ShapesParameters {
                    classes: 13,
                    ..SMALL
                },
                "13 classes",
            ),
            (ShapesParameters { side: 8, ..SMALL }, "a side of 8 pixels"),
            (
                ShapesParameters {
                    val_images: 9,
                    ..SMALL
                },
                "fewer images than the 10 classes",
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
