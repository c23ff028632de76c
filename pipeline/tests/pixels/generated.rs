//! A thousand small files of all kinds, compared with Pillow.
//!
//! `generated/generate.py` makes the files and the table; its first lines describe the columns.

use std::fs;
use std::path::Path;

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Decoder, ImageError, Limits, Orientation, Verify, header};

use crate::unpacked;

/// A line of a table, with its bytes.
pub struct Entry {
    name: String,
    pub bytes: Vec<u8>,
    stored: Expected,
    upright: Expected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Refused,
    Unknown,
    /// The size and the CRC-32 of the RGB bytes.
    Pixels(u32, u32, u32),
}

impl Expected {
    fn parse(column: &str) -> Self {
        match column {
            "refused" => Self::Refused,
            "-" => Self::Unknown,
            pixels => {
                let (size, sum) = pixels.split_once(' ').unwrap();
                let (width, height) = size.split_once('x').unwrap();
                let sum = u32::from_str_radix(sum, 16).unwrap();
                Self::Pixels(width.parse().unwrap(), height.parse().unwrap(), sum)
            }
        }
    }
}

/// Reads `files.txt` and `files.bin.gz`.
pub fn entries() -> Vec<Entry> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pixels/generated");
    let table = fs::read_to_string(folder.join("files.txt")).unwrap();
    let archive = unpacked(&folder.join("files.bin.gz"));
    let mut rest = archive.as_slice();
    let mut take = |length: &str| rest.split_off(..length.parse().unwrap()).unwrap().to_vec();
    let entries = table.lines().map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, bytes, stored, upright] = columns[..] else {
            panic!("{line:?}");
        };
        Entry {
            name: name.to_owned(),
            bytes: take(bytes),
            stored: Expected::parse(stored),
            upright: Expected::parse(upright),
        }
    });
    let entries = entries.collect();
    assert!(rest.is_empty());
    entries
}

/// Kinds that Pillow reads and that are refused, by a part of their names, with a part of the message.
const REFUSED: [(&str, &str); 12] = [
    ("gif/no_palette", "unsupported: a GIF without a palette"),
    (
        "tiff/grey_signed",
        "unsupported: a TIFF with signed samples",
    ),
    ("tiff/pillow_i.", "unsupported: a TIFF with signed samples"),
    (
        "tiff/pillow_f.",
        "unsupported: a TIFF with floating-point samples",
    ),
    ("tiff/lab", "unsupported: a TIFF with L*a*b* colours"),
    ("tiff/ycbcr", "unsupported: a TIFF with YCbCr colours"),
    (
        "tiff/pillow_ycbcr",
        "unsupported: a TIFF with YCbCr colours",
    ),
    ("tiff/subsampled", "unsupported: a TIFF with YCbCr colours"),
    (
        "group3",
        "unsupported: a TIFF with CCITT Group 3 compression",
    ),
    (
        "tiff_ccitt",
        "unsupported: a TIFF with CCITT run-length compression",
    ),
    ("rgb_jpeg", "unsupported: a TIFF with JPEG compression"),
    ("rgb_", "compression"),
];

/// Kinds that Pillow refuses or reads wrongly, and that are read, by parts of their names.
const MORE_THAN_PILLOW: [(&[&str], &str); 10] = [
    (&["bmp/32bit_odd"], "masks of ten bits"),
    (&["tiff/three_bits"], "samples of three bits"),
    (
        &["tiff/", "_fill_order"],
        "reversed bits with some depths and extra samples",
    ),
    (&["tiff/grey_associated"], "the mode La has no conversion"),
    (
        &["tiff/", "16_planar"],
        "without compression, planes of 16 bits are read as 8",
    ),
    (
        &["tiff/rgba_unmarked_planar"],
        "with compression, unmarked alpha is taken as associated",
    ),
    (&["tiff/", "x_planar"], "extra samples in planes"),
    (&["tiff/", "_alpha_planar"], "extra samples in planes"),
    (
        &["tiff/", "_associated", "_planar"],
        "extra samples in planes",
    ),
    (&["tiff/", "_extra_planar"], "extra samples in planes"),
];

#[test]
fn generated_files_are_decoded_as_by_pillow() {
    let mut failures = Vec::new();
    let (mut count, mut refused) = (0, 0);
    for entry in entries() {
        count += 1;
        match compare(&entry) {
            Ok(decoded) => refused += u32::from(!decoded),
            Err(failure) => failures.push(format!("{}: {failure}", entry.name)),
        }
    }
    println!("{count} files, {refused} refused");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 1300, "only {count} files");
}

/// Whether the file was decoded, or else rightly refused.
fn compare(entry: &Entry) -> Result<bool, String> {
    let is = |part: &str| entry.name.contains(part);
    let known = MORE_THAN_PILLOW
        .iter()
        .any(|(parts, _)| parts.iter().all(|part| is(part)));
    let header = match header(&entry.bytes, &Limits::default()) {
        Ok(header) => header,
        Err(error) => return refusal(entry, &error),
    };
    let orientation = Orientation::of(&entry.bytes, header.format);
    let turned = match &entry.upright {
        Expected::Unknown => &entry.stored,
        turned => turned,
    };
    let cases = [
        (&entry.stored, Orientation::default(), header),
        (turned, orientation, orientation.turn(header)),
    ];
    let mut decoder = Decoder::new();
    for (expected, orientation, header) in cases {
        // Pillow always turns a TIFF.
        if *expected == Expected::Unknown {
            continue;
        }
        let whole = header.whole();
        let decoded =
            decoder.decode_upright(&entry.bytes, &header, orientation, whole, Verify::Full);
        let found = match decoded {
            Ok(pixels) => pixels.bytes(),
            Err(error) => return refusal(entry, &error),
        };
        let mut sum = flate2::Crc::new();
        sum.update(found);
        if *expected == Expected::Pixels(header.width, header.height, sum.sum()) {
            continue;
        }
        if !known {
            let (width, height) = (header.width, header.height);
            return Err(format!(
                "{width}x{height} {:08x} is not {expected:x?}",
                sum.sum()
            ));
        }
    }
    Ok(true)
}

/// A refusal is right where Pillow refuses too, and in the kinds of [`REFUSED`].
fn refusal(entry: &Entry, error: &ImageError) -> Result<bool, String> {
    let message = error.to_string();
    let mut known = REFUSED.iter().filter(|(part, _)| entry.name.contains(part));
    let expected = known.any(|(_, part)| message.contains(part));
    if message.contains("panicked") || !expected && entry.stored != Expected::Refused {
        Err(message)
    } else {
        Ok(false)
    }
}

/// Random changes may give another image or an error, but no library panics.
#[test]
fn no_change_of_generated_files_panics() {
    const ROUNDS: usize = 8;
    let limits = Limits {
        max_pixels: 1 << 20,
    };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(13);
    for entry in entries() {
        for round in 0..ROUNDS {
            let mut changed = entry.bytes.clone();
            // Half of the changes hit headers.
            let end = changed.len().min([100, usize::MAX][round % 2]);
            for _ in 0..rng.random_range(1..4) {
                changed[rng.random_range(0..end)] = rng.random();
            }
            let result = header(&changed, &limits).and_then(|header| {
                let orientation = Orientation::of(&changed, header.format);
                let upright = orientation.turn(header);
                let whole = upright.whole();
                let mut decoder = Decoder::new();
                let decoded =
                    decoder.decode_upright(&changed, &upright, orientation, whole, Verify::Full);
                decoded.map(|_| ())
            });
            let message = result.map_or_else(|error| error.to_string(), |()| String::new());
            assert!(!message.contains("panicked"), "{} {round}", entry.name);
        }
    }
}
