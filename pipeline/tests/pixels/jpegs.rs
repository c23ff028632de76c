//! JPEGs of all kinds that Pillow reads, compared with it. `jpegs/generate.py` wrote them.

use std::path::Path;

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Decoder, Limits, Rect, Verify, header};

use crate::{decode, read, unpacked};

struct Jpeg {
    name: String,
    bytes: Vec<u8>,
    /// Size and CRC-32 of Pillow's pixels, or "refused".
    stored: String,
}

fn jpegs() -> Vec<Jpeg> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pixels/jpegs");
    let files = unpacked(&folder.join("files.bin.gz"));
    let table = String::from_utf8(read(&folder.join("files.txt"))).unwrap();
    let mut rest = files.as_slice();
    let all = table.lines().map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let &[name, length, stored] = columns.as_slice() else {
            panic!("{line:?}");
        };
        let (bytes, after) = rest.split_at(length.parse().unwrap());
        rest = after;
        Jpeg {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            stored: stored.to_owned(),
        }
    });
    let all: Vec<Jpeg> = all.collect();
    assert!(all.len() > 500 && rest.is_empty());
    all
}

/// Scans of any grouping and order, restarts, sampling factors, progressions, missing tables, extraneous
/// bytes. All pixels must be Pillow's; what Pillow refuses, and what has lost data, is an error.
#[test]
fn every_kind_of_jpeg_is_decoded_as_by_pillow() {
    // Pillow lays several scans of a component over each other.
    let is_refused = |name: &str| name.starts_with("lost") || name == "twice.jpg";
    let mut failures = Vec::new();
    for jpeg in jpegs() {
        let name = &jpeg.name;
        let found = match decode(&jpeg.bytes) {
            Ok((header, pixels)) => {
                let mut crc = flate2::Crc::new();
                crc.update(&pixels);
                format!("{}x{} {:08x}", header.width, header.height, crc.sum())
            }
            Err(error) => {
                println!("{name}: {error}");
                "refused".to_owned()
            }
        };
        let expected = match is_refused(name) {
            true => "refused",
            false => &jpeg.stored,
        };
        if found != expected {
            failures.push(format!("{name}: {found}, expected {expected}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A region has the pixels of the whole image, for all kinds of upsampling and smoothing.
#[test]
fn a_region_of_any_jpeg_is_a_part_of_the_whole() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut decoder = Decoder::new();
    for Jpeg { name, bytes, .. } in jpegs() {
        let Ok((_, whole)) = decode(&bytes) else {
            continue;
        };
        let header = header(&bytes, &Limits::default()).unwrap();
        for verify in [Verify::Region, Verify::Full] {
            let (x, y) = (
                random.random_range(0..header.width),
                random.random_range(0..header.height),
            );
            let region = Rect {
                x,
                y,
                width: random.random_range(1..=header.width - x),
                height: random.random_range(1..=header.height - y),
            };
            let found = decoder.decode(&bytes, &header, region, verify).unwrap();
            assert_eq!(found.covers(), region, "{name}");
            let rows = (y..).zip(found.bytes().chunks_exact(region.width as usize * 3));
            for (y, row) in rows {
                let start = (y as usize * header.width as usize + x as usize) * 3;
                let expected = &whole[start..start + row.len()];
                assert!(row == expected, "{name} {region:?} row {y}");
            }
        }
    }
}

/// Bytes that are neither blocks nor segments are counted, wherever they are.
#[test]
fn extraneous_bytes_are_counted() {
    // The lengths of the fillers, in the order of the names.
    let lengths = [
        ("zeros", 11),
        ("text", 16),
        ("pattern", 150),
        ("one", 1),
        ("two", 2),
    ];
    let places = [
        ("before_end", 1),
        ("before_end_flat", 1),
        ("before_restarts", 2),
        ("between_scans", 2),
        ("progressive", 4),
        ("between_segments", 3),
    ];
    let expected = |name: &str| {
        let length = lengths.iter().find_map(|&(filler, length)| {
            let place = name.strip_prefix("junk_")?.strip_prefix(filler)?;
            let place = place.strip_prefix('_')?.strip_suffix(".jpg")?;
            let &(_, times) = places.iter().find(|(known, _)| *known == place)?;
            Some(length * times)
        });
        match name {
            // The repeated marker and what follows it.
            "restart_repeated.jpg" => Some(4),
            _ if name.starts_with("scans") || name.starts_with("progressive") => Some(0),
            _ => length,
        }
    };
    let mut compared = 0;
    for Jpeg { name, bytes, .. } in jpegs() {
        let Some(expected) = expected(&name) else {
            continue;
        };
        let header = header(&bytes, &Limits::default()).unwrap();
        let mut decoder = Decoder::new();
        let pixels = decoder.decode(&bytes, &header, header.whole(), Verify::Full);
        assert_eq!(pixels.unwrap().extraneous_bytes(), expected, "{name}");
        compared += u32::from(expected > 0);
    }
    assert_eq!(compared, 5 * 6 + 1);
}

/// Random changes may give another image or an error, but no panic, and a region of what is decoded is a
/// part of the whole.
#[test]
fn no_change_of_a_jpeg_panics() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
    let limits = Limits {
        max_pixels: 1 << 16,
    };
    let mut decoder = Decoder::new();
    for Jpeg { name, bytes, .. } in jpegs() {
        for _ in 0..8 {
            let mut changed = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..changed.len());
                changed[at] = random.random();
            }
            let Ok(header) = header(&changed, &limits) else {
                continue;
            };
            let corner = Rect::whole(1 + header.width / 3, 1 + header.height / 3);
            let part = decoder.decode(&changed, &header, corner, Verify::Region);
            let part = part.map(|pixels| pixels.bytes().to_vec());
            let whole = decoder.decode(&changed, &header, header.whole(), Verify::Full);
            let (Ok(part), Ok(whole)) = (part, whole) else {
                continue;
            };
            let rows = part.chunks_exact(corner.width as usize * 3);
            let all = whole.bytes().chunks_exact(header.width as usize * 3);
            assert!(
                rows.zip(all).all(|(row, all)| all.starts_with(row)),
                "{name}"
            );
        }
    }
}
