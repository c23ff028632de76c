//! Damaged, truncated and unsupported files.

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Decoder, Format, Limits, Orientation, Rect, Verify, header};

use crate::{decode, files, fixtures, generated, is_decoded_in_part, read};

/// Wherever a file is truncated, with or without an end-of-image marker appended, it is an error and not
/// an image with a grey end.
#[test]
fn every_truncation_is_detected() {
    for path in files(&fixtures().join("images")) {
        let bytes = read(&path);
        let jpeg = bytes.starts_with(&[0xff, 0xd8]);
        let end = end_of_image(&bytes);
        // Of long files not every length, which would take long.
        for length in (0..end).step_by(1 + end / 800) {
            let cut = &bytes[..length];
            assert!(decode(cut).is_err(), "{} cut to {length}", path.display());
            if jpeg && length + 2 < end {
                let mut closed = cut.to_vec();
                closed.extend([0xff, 0xd9]);
                assert!(
                    decode(&closed).is_err() || same_picture(&closed, &bytes),
                    "{} cut to {length} and closed",
                    path.display()
                );
            }
        }
        assert!(decode(&bytes[..end]).is_ok(), "{}", path.display());
    }
}

/// The end of the image itself; bytes after it may be missing.
fn end_of_image(bytes: &[u8]) -> usize {
    let text = bytes.trim_ascii_end();
    if bytes.starts_with(&[0xff, 0xd8]) {
        let last = bytes.windows(2).position(|pair| pair == [0xff, 0xd9]);
        last.unwrap() + 2
    } else if bytes.starts_with(b"P1") {
        text.len()
    } else if bytes.starts_with(b"P2") || bytes.starts_with(b"P3") {
        // A prefix of the last number is a number too.
        text.iter().rposition(u8::is_ascii_whitespace).unwrap() + 2
    } else {
        bytes.len()
    }
}

/// Even if the region is before the cut.
#[test]
fn truncation_is_detected_for_any_region() {
    let mut cut_off = 0;
    for path in files(&fixtures().join("images")) {
        let bytes = read(&path);
        let header = header(&bytes, &Limits::default()).unwrap();
        let in_part = header.format == Format::Jpeg && is_decoded_in_part(&bytes, &header);
        if !in_part || path.ends_with("trailing_bytes.jpg") {
            continue;
        }
        for missing in [1, 2, 3, 10, bytes.len() / 4] {
            let cut = &bytes[..bytes.len() - missing];
            let corner = Rect::whole(1, 1);
            let mut decoder = Decoder::new();
            let found = decoder.decode(cut, &header, corner, Verify::Region);
            let error = found.unwrap_err();
            assert!(
                error.to_string().contains("truncated"),
                "{} {error}",
                path.display()
            );
            cut_off += 1;
        }
    }
    assert!(cut_off > 50, "only {cut_off}");
}

fn same_picture(one: &[u8], other: &[u8]) -> bool {
    decode(one).unwrap().1 == decode(other).unwrap().1
}

/// A name, a valid file, a change to its bytes, and a part of the error.
#[test]
fn errors_name_the_damage() {
    type Change = fn(&mut Vec<u8>);
    fn find(bytes: &[u8], marker: u8) -> usize {
        let pair = [0xff, marker];
        bytes.windows(2).position(|found| found == pair).unwrap()
    }
    let jpeg = "baseline_420_restart.jpg";
    let progressive = "progressive_420.jpg";
    let cases: [(&str, &str, Change, &str); 20] = [
        ("empty", jpeg, |b| b.clear(), "the file is empty"),
        ("zeros", jpeg, |b| b.fill(0), "looks like zero bytes"),
        (
            "text",
            jpeg,
            |b| *b = b"not found".to_vec(),
            "looks like text: \"not found\"",
        ),
        ("cut in the header", jpeg, |b| b.truncate(30), "truncated"),
        (
            "cut in the data",
            jpeg,
            |b| b.truncate(b.len() - 100),
            "truncated",
        ),
        (
            "no end",
            jpeg,
            |b| b.truncate(b.len() - 2),
            "no end-of-image marker",
        ),
        (
            "cut and closed",
            "baseline_420.jpg",
            |b| {
                b.truncate(b.len() - 100);
                b.extend([0xff, 0xd9]);
            },
            "data ends before the last block (at byte",
        ),
        (
            "a row too many",
            "baseline_420.jpg",
            |b| {
                let at = find(b, 0xc0);
                b[at + 6] = 32;
            },
            "data continues after the last block",
        ),
        (
            "no quantization table",
            jpeg,
            |b| {
                let at = find(b, 0xdb);
                b[at + 1] = 0xfe;
            },
            "no quantization table 0 before this scan",
        ),
        (
            "another quantization table",
            progressive,
            |b| {
                let at = find(b, 0xc2);
                b[at + 12] = 3;
            },
            "no quantization table 3 before this scan",
        ),
        (
            "a restart out of order",
            jpeg,
            |b| {
                let at = find(b, 0xd1) + 1;
                b[at] = 0xd3;
            },
            "marker d3 found, expected restart marker 1",
        ),
        (
            "a restart lost",
            jpeg,
            |b| {
                let at = find(b, 0xd1);
                b.drain(at..at + 2);
            },
            "damaged",
        ),
        (
            "zeros in the data",
            jpeg,
            |b| {
                let at = find(b, 0xda) + 30;
                b[at..at + 64].fill(0);
            },
            "damaged",
        ),
        (
            "a scan lost",
            progressive,
            |b| {
                let last = b.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
                let end = b.len() - 2;
                b.drain(last..end);
            },
            "ends before its last scan",
        ),
        (
            "no pixels",
            jpeg,
            |b| {
                let at = find(b, 0xc0);
                b[at + 5..at + 7].fill(0);
            },
            "in the header is 61x0",
        ),
        (
            "absurd size",
            jpeg,
            |b| {
                let at = find(b, 0xc0);
                b[at + 5..at + 9].fill(0xff);
            },
            "65535x65535 exceeds the limit of 178956970 pixels",
        ),
        (
            "twelve bits",
            jpeg,
            |b| {
                let at = find(b, 0xc0);
                b[at + 4] = 12;
            },
            "12 bits per channel",
        ),
        (
            "arithmetic",
            jpeg,
            |b| {
                let at = find(b, 0xc0);
                b[at + 1] = 0xc9;
            },
            "unsupported: a JPEG with arithmetic coding",
        ),
        ("a bit of a PNG", "rgb.png", |b| b[100] ^= 4, "damaged"),
        (
            "a PNG without its end",
            "rgb.png",
            |b| b.truncate(b.len() - 12),
            "truncated",
        ),
    ];
    for (name, file, change, expected) in cases {
        let mut bytes = read(&fixtures().join("images").join(file));
        change(&mut bytes);
        let Err(error) = decode(&bytes) else {
            panic!("{name} was not detected");
        };
        let message = error.to_string();
        println!("{name}: {message}");
        assert!(message.contains(expected), "{name}: {message:?}");
    }
}

/// Random changes may give another image or an error, but no panic.
#[test]
fn no_change_of_bytes_panics() {
    let fixtures = files(&fixtures().join("images"));
    let fixtures: Vec<_> = fixtures.iter().map(|path| (read(path), 200)).collect();
    let generated = generated::entries();
    let generated = generated.into_iter().map(|entry| (entry.bytes, 20));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    for (bytes, tries) in fixtures.into_iter().chain(generated) {
        for _ in 0..tries {
            let mut changed = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..changed.len());
                changed[at] = rng.random();
            }
            assert_no_panic(&changed);
        }
    }
}

/// Found by fuzzing.
#[test]
fn a_bmp_of_16_bits_without_masks_is_refused() {
    let mut bytes = vec![0; 0x4a];
    bytes[..2].copy_from_slice(b"BM");
    // The start of the pixels, the length of the header, 1x1, a plane, bits, "masks follow".
    for (at, byte) in [
        (10, 0x42),
        (14, 40),
        (18, 1),
        (22, 1),
        (26, 1),
        (28, 16),
        (30, 3),
    ] {
        bytes[at] = byte;
    }
    let error = decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("the BMP has no bit masks"), "{error}");
}

fn assert_no_panic(bytes: &[u8]) {
    // The header may claim an image that takes long to decode.
    let limits = Limits {
        max_pixels: 1 << 20,
    };
    let Ok(header) = header(bytes, &limits) else {
        return;
    };
    let orientation = Orientation::of(bytes, header.format);
    let upright = orientation.turn(header);
    let whole = upright.whole();
    let mut decoder = Decoder::new();
    let result = decoder.decode_upright(bytes, &upright, orientation, whole, Verify::Full);
    // A panic of a decoder is caught and becomes an error.
    if let Err(error) = result {
        assert!(!error.to_string().contains("panicked"), "{header:?}");
    }
}

/// Valid files that cannot be decoded correctly are errors.
#[test]
fn unsupported_files_are_refused() {
    let cases = [("palette_of_49_bytes.png", "the palette has 49 bytes")];
    for (file, expected) in cases {
        let error = decode(&read(&fixtures().join("images/refused").join(file))).unwrap_err();
        assert!(error.to_string().contains(expected), "{file}: {error}");
    }
}
