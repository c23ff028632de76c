//! A look at a data set before anything is trained on it: how many images of which classes, how large, in which
//! formats, what is passed over, and what is damaged.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use rand::seq::index;
use rsflow_base::home::cache_folder;
use rsflow_base::shown::Shown as _;
use rsflow_graph::random;

use crate::listing::{Listing, Part, PassedOver};
use crate::nodes::{ImageNetArchives, ImageTar};
use crate::pixels::{self, Decoder, Header, Limits, Orientation, Verify};

/// How many headers are read. The median of so many is that of all to some percent.
const SAMPLE: usize = 400;
/// Pixels that are decoded at most, a second's work: of photographs some, of small images all. A time would make other
/// recipes on other machines.
const DECODED_PIXELS: u64 = 100_000_000;
/// How much of a file is read for its header; all of it if that is not enough.
const START_BYTES: u64 = 64 << 10;

/// What a data set holds.
#[derive(Debug)]
pub struct Survey {
    /// The data set in messages.
    pub origin: String,
    /// Number of images of the part.
    pub images: u32,
    /// Number of images of the whole data set.
    pub whole: u32,
    pub classes: Arc<[String]>,
    /// Number of images of each class of the whole data set.
    pub class_sizes: Vec<u32>,
    pub passed_over: PassedOver,
    /// The images whose headers were read, of the whole data set.
    pub sample: Sample,
}

/// What the headers of some images say.
#[derive(Debug, Default)]
pub struct Sample {
    /// Number of images, with those that are unreadable.
    pub images: usize,
    /// Names of the formats and how many images have each, the most frequent first.
    pub formats: Vec<(&'static str, usize)>,
    /// The shorter sides, sorted, in pixels.
    pub shorter_sides: Vec<u32>,
    /// How many of them lie on their side or upside down, but for their EXIF or XMP orientation.
    pub turned: usize,
    /// Images that cannot be read or decoded, and why.
    pub unreadable: Vec<String>,
}

impl Sample {
    /// The median of the shorter sides, in pixels. `None` if no header could be read.
    pub fn median(&self) -> Option<u32> {
        self.shorter_sides
            .get(self.shorter_sides.len() / 2)
            .copied()
    }
}

/// Looks at one part of a folder of class folders.
///
/// # Errors
/// As `ImageFolder` has when it starts.
pub fn of_folder(root: &Path, part: Part) -> Result<Survey> {
    let cache = cache_folder();
    let listing = Listing::of_folder(root, cache.as_deref(), SystemTime::now())?;
    survey(listing, part)
}

/// Looks at one part of a tar's `folder` of class folders.
///
/// # Errors
/// As `ImageTar` has when it starts.
pub fn of_tar(path: &Path, folder: &str, part: Part) -> Result<Survey> {
    survey(ImageTar::listing_of(path, Some(folder))?, part)
}

/// Looks at one part of ImageNet's archives, of the training images or of those for validation.
///
/// # Errors
/// As `ImageNetArchives` has when it starts.
pub fn of_imagenet(root: &Path, is_training: bool, part: Part) -> Result<Survey> {
    survey(ImageNetArchives::listing_of(root, is_training)?, part)
}

fn survey(listing: Listing, part: Part) -> Result<Survey> {
    let whole = listing.len();
    let mut class_sizes = vec![0; listing.classes.len()];
    for image in 0..listing.len() {
        let class = listing.label(image)? as usize;
        *class_sizes.get_mut(class).context("no such class")? += 1;
    }
    // Damage counts wherever it is.
    let sample = sample(&listing);
    let listing = listing.part(part)?;
    Ok(Survey {
        images: listing.len(),
        whole,
        class_sizes,
        sample,
        classes: listing.classes,
        passed_over: listing.passed_over,
        origin: listing.origin,
    })
}

/// Reads the headers of some images, the same ones each time, and decodes as many of them as are quickly decoded.
fn sample(listing: &Listing) -> Sample {
    let count = listing.len() as usize;
    let mut draw = random(0, "survey", "sample", &[]);
    let chosen = index::sample(&mut draw, count, count.min(SAMPLE));
    let mut sample = Sample {
        images: chosen.len(),
        ..Sample::default()
    };
    let mut unreadable = Vec::new();
    let mut decoder = Decoder::new();
    let mut left = DECODED_PIXELS;
    for image in chosen {
        let image = image as u32;
        let looked_at = header(listing, image).and_then(|(header, orientation)| {
            let pixels = u64::from(header.width) * u64::from(header.height);
            if let Some(rest) = left.checked_sub(pixels) {
                left = rest;
                let bytes = listing.read(image)?;
                decoder.decode(&bytes, &header, header.whole(), Verify::Full)?;
            }
            Ok((header, orientation))
        });
        match looked_at {
            Ok((header, orientation)) => {
                sample.turned += usize::from(orientation != Orientation::default());
                sample.shorter_sides.push(header.width.min(header.height));
                let name = header.format.name();
                match sample.formats.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, count)) => *count += 1,
                    None => sample.formats.push((name, 1)),
                }
            }
            Err(error) => {
                let place = listing.describe(image);
                unreadable.push((image, format!("{}: {error:#}", place.shown())));
            }
        }
    }
    unreadable.sort_unstable();
    sample.unreadable = unreadable.into_iter().map(|(_, error)| error).collect();
    sample.shorter_sides.sort_unstable();
    sample
        .formats
        .sort_by_key(|&(name, count)| (Reverse(count), name));
    sample
}

/// The header of an image and how it lies, from the start of its file if that is enough: there JPEGs have their
/// orientation, of other formats one at the end may be missed.
fn header(listing: &Listing, image: u32) -> Result<(Header, Orientation)> {
    let look = |bytes: &[u8]| -> Result<(Header, Orientation)> {
        let header = pixels::header(bytes, &Limits::default())?;
        Ok((header, Orientation::of(bytes, header.format)))
    };
    let start = listing.read_start(image, START_BYTES)?;
    match look(&start) {
        Err(_) if start.len() as u64 == START_BYTES => look(&listing.read(image)?),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn image(name: &str) -> Vec<u8> {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images");
        fs::read(images.join(name)).unwrap()
    }

    #[test]
    fn headers_say_sizes_and_formats() {
        let folder = tempfile::tempdir().unwrap();
        let (grey, png) = (image("grey.jpg"), image("rgba.png"));
        let whole = pixels::header(&grey, &Limits::default()).unwrap();
        // A JPEG whose size comes after more than is read at first.
        let mut late = grey[..2].to_vec();
        for _ in 0..2 {
            late.extend([0xff, 0xfe, 0xff, 0xff]);
            late.resize(late.len() + 0xfffd, b'x');
        }
        late.extend(&grey[2..]);
        for (name, bytes) in [
            ("a/1.jpg", grey.as_slice()),
            ("a/2.jpg", &late),
            ("b/1.jpg", &png),
            ("b/2.png", b"<html>"),
            ("b/3.jpg", b""),
            // Its header is sound.
            ("b/4.jpg", &grey[..grey.len() / 2]),
            ("b/notes.txt", b""),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let survey = of_folder(folder.path(), Part::All).unwrap();
        assert_eq!((survey.images, survey.whole), (6, 6));
        assert_eq!(*survey.classes, ["a", "b"]);
        assert_eq!(survey.class_sizes, [2, 4]);
        assert_eq!(
            survey.passed_over.to_string(),
            "1 other file passed over: 1 .txt"
        );
        let sample = survey.sample;
        assert_eq!(sample.images, 6);
        assert_eq!(sample.formats, [("JPEG", 2), ("PNG", 1)]);
        let shorter = whole.width.min(whole.height);
        let other = pixels::header(&png, &Limits::default()).unwrap();
        let mut sides = [other.width.min(other.height), shorter, shorter];
        sides.sort_unstable();
        assert_eq!(sample.shorter_sides, sides);
        assert_eq!(sample.median(), Some(sides[1]));
        assert_eq!(sample.unreadable.len(), 3, "{:?}", sample.unreadable);
        assert!(sample.unreadable[2].contains("b/4.jpg: "));
        assert!(
            sample.unreadable[0].contains("b/2.png: "),
            "{:?}",
            sample.unreadable
        );
        assert!(
            sample.unreadable[1].ends_with("b/3.jpg: the file is empty"),
            "{:?}",
            sample.unreadable
        );
    }

    #[test]
    fn a_part_is_counted_as_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (class, count) in [("a", 30), ("b", 3)] {
            fs::create_dir(folder.path().join(class)).unwrap();
            for image in 0..count {
                fs::write(folder.path().join(format!("{class}/{image}.jpg")), "x").unwrap();
            }
        }
        let part = Part::Validation {
            validation_percent: Part::DEFAULT_PERCENT,
            seed: 0,
        };
        let survey = of_folder(folder.path(), part).unwrap();
        assert_eq!((survey.whole, survey.class_sizes), (33, vec![30, 3]));
        assert!((2..=9).contains(&survey.images), "{}", survey.images);
        // Of all images: damage counts wherever it is.
        assert_eq!(survey.sample.unreadable.len(), 33);
        assert_eq!(survey.sample.median(), None);
    }
}
