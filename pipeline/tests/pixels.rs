//! Pixels against Pillow's, and images that are not as they should be.

use std::fs;
use std::path::{Path, PathBuf};

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{
    Decoder, Format, Header, ImageError, Limits, Orientation, Pixels, Rect, Rendition, Resizer,
    Verify, crop, header,
};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), ImageError> {
    let header = header(bytes, &Limits::default())?;
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(bytes, &header, header.whole(), Verify::Full)?;
    assert_eq!(pixels.covers(), header.whole());
    Ok((header, pixels.bytes().to_vec()))
}

fn decode_file(path: &Path) -> (Header, Vec<u8>) {
    decode(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The largest difference of two channels, and the mean one.
fn difference(found: &[u8], expected: &[u8]) -> (u8, f64) {
    assert_eq!(found.len(), expected.len());
    let differences = || found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences().map(u64::from).sum();
    let worst = differences().max().unwrap_or(0);
    (worst, sum as f64 / found.len() as f64)
}

/// Every image of the reference set, in every size: the resize alone, then with our decoder in front.
#[test]
fn reference_pixels_are_those_of_pillow() {
    let folder = std::env::var_os("RSFLOW_REFERENCE")
        .map_or_else(|| fixtures().join("reference"), PathBuf::from)
        .join("pixels");
    let list: Value = serde_json::from_slice(&read(&folder.join("pixels.json"))).unwrap();
    let mut failures = Vec::new();
    let mut compared = 0;
    for entry in list.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let (header, ours) = decode_file(&folder.join(file));
        let stem = Path::new(file).with_extension("decoded.png");
        let (_, pillows) = decode_file(&folder.join(stem));
        let size = (number(&entry["width"]), number(&entry["height"]));
        assert_eq!((header.width, header.height), size, "{file}");
        let rect = Rect {
            x: number(&entry["crop"]["x"]),
            y: number(&entry["crop"]["y"]),
            width: number(&entry["crop"]["width"]),
            height: number(&entry["crop"]["height"]),
        };

        let mut plans: Vec<(String, Rendition, &Value)> = Vec::new();
        for (size, expected) in entry["train"].as_object().unwrap() {
            let plan = crop::training(rect, size.parse().unwrap(), false);
            plans.push((format!("train {size}"), plan, expected));
        }
        for (size, expected) in entry["val"].as_object().unwrap() {
            let plan = crop::validation(header.width, header.height, size.parse().unwrap(), 0.875);
            plans.push((format!("val {size}"), plan, expected));
        }
        let exact = is_decoded_in_part(&read(&folder.join(file)), &header);
        let most = if exact { (0, 0.0) } else { (4, 0.4) };
        let mut resizer = Resizer::new();
        for (name, plan, expected) in plans {
            let (_, expected) = decode_file(&folder.join(expected.as_str().unwrap()));
            for (from, bytes, most) in [
                ("Pillow's decode", &pillows, (0, 0.0)),
                ("our decode", &ours, most),
            ] {
                let pixels = Pixels::new(bytes, header.whole()).unwrap();
                let mut out = vec![0; plan.output_bytes()];
                resizer.render(pixels, &plan, &mut out).unwrap();
                let (worst, mean) = difference(&out, &expected);
                let line = format!("{file} {name} from {from}: worst {worst}, mean {mean:.3}");
                println!("{line}");
                compared += 1;
                if worst > most.0 || mean > most.1 {
                    failures.push(line);
                }
            }
        }
    }
    assert!(compared > 0, "no images in {}", folder.display());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// An image by a formula: noise, or that noise made black and white.
fn generated(width: u32, height: u32, black_and_white: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 1..4 {
                let mut v = x.wrapping_mul(2_654_435_761)
                    ^ y.wrapping_mul(2_246_822_519)
                    ^ 3_266_489_917_u32.wrapping_mul(channel);
                v ^= v >> 15;
                v = v.wrapping_mul(2_246_822_519);
                v ^= v >> 13;
                bytes.push(match v as u8 {
                    level if !black_and_white => level,
                    level if level > 127 => 255,
                    _ => 0,
                });
            }
        }
    }
    bytes
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Generated images in sizes, windows and ratios of all sorts, down to one pixel, against the hashes
/// of what Pillow 13.0 makes of them with `resize(scaled, BILINEAR)`, `crop` and a flip.
#[test]
fn resized_pixels_are_those_of_pillow() {
    // Image, scaled, window, size, flip, black and white, hash.
    #[rustfmt::skip]
    let cases = [
        ((317, 263), (224, 224), (0, 0), 224, false, false, 0x48b41989858e5620),
        ((317, 263), (192, 192), (0, 0), 192, false, false, 0xc36c5d15536e4744),
        ((317, 263), (160, 160), (0, 0), 160, true, false, 0xab49d0c7c3b222f8),
        ((317, 263), (128, 128), (0, 0), 128, false, true, 0x697f4428b4d92744),
        ((317, 263), (96, 96), (0, 0), 96, false, false, 0x0eeeb241630680f8),
        ((61, 83), (224, 224), (0, 0), 224, false, false, 0x8c412508df208d2b),
        ((61, 83), (96, 96), (0, 0), 96, false, false, 0xc601f6d9ea30d09c),
        ((224, 224), (224, 224), (0, 0), 224, true, false, 0x4536d45df3b46b1a),
        ((224, 301), (224, 224), (0, 0), 224, false, false, 0x832aaacc0bdff677),
        ((301, 224), (224, 224), (0, 0), 224, false, true, 0x7fcd7db05112acac),
        ((500, 375), (341, 256), (58, 16), 224, false, false, 0x1e1b2235c7ed5c71),
        ((375, 500), (109, 145), (6, 24), 96, false, false, 0x730c6c6e3e9b46de),
        ((1, 1), (96, 96), (0, 0), 96, false, false, 0x89529101549c2b25),
        ((1, 3000), (96, 96), (0, 0), 96, false, true, 0xf19c19267a724de5),
        ((3000, 1), (96, 96), (0, 0), 96, true, false, 0x9de4d11d55c5dba5),
        ((2, 2), (7, 5), (1, 0), 5, true, false, 0x8bfa4aae8ed55f6e),
        ((20000, 2), (96, 96), (0, 0), 96, false, false, 0x91d8b6f025f33e11),
        ((3, 20000), (96, 96), (0, 0), 96, false, false, 0xd6e8d69eb3dedc45),
        ((1999, 1501), (13, 11), (1, 0), 10, false, false, 0xb3dae16a3bc06ca9),
        ((640, 480), (1, 1), (0, 0), 1, false, true, 0x2fbd121ae17f4037),
    ];
    let mut resizer = Resizer::new();
    for ((width, height), scaled, window, size, flip, black_and_white, expected) in cases {
        let bytes = generated(width, height, black_and_white);
        let source = Rect::whole(width, height);
        let pixels = Pixels::new(&bytes, source).unwrap();
        let plan = Rendition {
            source,
            scaled,
            window,
            size,
            flip,
        };
        let mut out = vec![0; plan.output_bytes()];
        resizer.render(pixels, &plan, &mut out).unwrap();
        assert_eq!(hash(&out), expected, "{plan:?}");
    }
}

/// Grey, CMYK, YCCK, progressive, 16 bits, palettes, transparency and so on. All must be exact, JPEGs
/// too where they go through our own decoder. Of the other JPEGs the library makes something slightly
/// different, and the 5 or 6 bits per channel of some BMPs Pillow rounds down.
#[test]
fn every_kind_of_image_is_what_pillow_makes_of_it() {
    let folder = fixtures().join("images");
    let mut failures = Vec::new();
    let mut compared = 0;
    for path in files(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (header, found) = match decode(&read(&path)) {
            Ok(decoded) => decoded,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let (expected_header, expected) =
            decode_file(&folder.join("expected").join(format!("{name}.png")));
        assert_eq!(
            (header.width, header.height),
            (expected_header.width, expected_header.height)
        );
        let (worst, mean) = difference(&found, &expected);
        println!("{name}: {:?} worst {worst}, mean {mean:.3}", header.colour);
        compared += 1;
        let most = match header.format {
            Format::Jpeg if !is_decoded_in_part(&read(&path), &header) => (6, 0.6),
            Format::Bmp if name.contains("_5") => (1, 0.5),
            _ => (0, 0.0),
        };
        if worst > most.0 || mean > most.1 {
            failures.push(format!("{name}: worst {worst}, mean {mean:.3}"));
        }
    }
    assert!(compared > 0);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Whether only the wanted region of an image is decoded. Then every pixel is libjpeg's.
fn is_decoded_in_part(bytes: &[u8], header: &Header) -> bool {
    let corner = Rect::whole(1, 1);
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(bytes, header, corner, Verify::Region);
    header.format == Format::Jpeg && pixels.unwrap().covers() == corner
}

/// A region has the pixels of the whole image, whatever colour is interpolated across its edges.
#[test]
fn a_region_is_a_part_of_the_whole() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut decoded_in_part = 0;
    let folders = [
        fixtures().join("images"),
        fixtures().join("reference/pixels"),
    ];
    let paths = folders.iter().flat_map(|folder| files(folder));
    for path in paths.filter(|path| !path.ends_with("pixels.json")) {
        let bytes = read(&path);
        let (header, whole) = decode(&bytes).unwrap();
        decoded_in_part += u32::from(is_decoded_in_part(&bytes, &header));
        let mut decoder = Decoder::new();
        for _ in 0..60 {
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
            let verify = if random.random() {
                Verify::Full
            } else {
                Verify::Region
            };
            let found = decoder.decode(&bytes, &header, region, verify).unwrap();
            let covers = found.covers();
            assert!(covers.contains(&region), "{}", path.display());
            let rows = (covers.y..).zip(found.bytes().chunks_exact(covers.width as usize * 3));
            for (y, row) in rows {
                let start = (y as usize * header.width as usize + covers.x as usize) * 3;
                assert!(
                    row == &whole[start..start + row.len()],
                    "{} {region:?} row {y}",
                    path.display()
                );
            }
        }
    }
    assert!(decoded_in_part > 10, "only {decoded_in_part}");
}

/// The smallest images, in every format.
#[test]
fn images_may_be_as_small_as_a_pixel() {
    use image::{ExtendedColorType, ImageEncoder};
    for (width, height) in [(1, 1), (1, 7), (7, 1), (3, 5)] {
        let picture: Vec<u8> = (0..width * height * 3).map(|at| (at * 29) as u8).collect();
        let encoded = |encode: fn(&mut Vec<u8>, &[u8], u32, u32)| {
            let mut bytes = Vec::new();
            encode(&mut bytes, &picture, width, height);
            bytes
        };
        fn with(encoder: impl ImageEncoder, picture: &[u8], width: u32, height: u32) {
            let colour = ExtendedColorType::Rgb8;
            encoder.write_image(picture, width, height, colour).unwrap();
        }
        let files = [
            (
                Format::Jpeg,
                encoded(|to, picture, width, height| {
                    let mut encoder = jpeg_encoder::Encoder::new(to, 100);
                    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
                    let (width, height) = (width as u16, height as u16);
                    let colour = jpeg_encoder::ColorType::Rgb;
                    encoder.encode(picture, width, height, colour).unwrap();
                }),
            ),
            (
                Format::Png,
                encoded(|to, picture, width, height| {
                    let mut encoder = png::Encoder::new(to, width, height);
                    encoder.set_color(png::ColorType::Rgb);
                    let mut writer = encoder.write_header().unwrap();
                    writer.write_image_data(picture).unwrap();
                }),
            ),
            (
                Format::Bmp,
                encoded(|to, picture, width, height| {
                    let encoder = image::codecs::bmp::BmpEncoder::new(to);
                    with(encoder, picture, width, height);
                }),
            ),
            (
                Format::WebP,
                encoded(|to, picture, width, height| {
                    let encoder = image::codecs::webp::WebPEncoder::new_lossless(to);
                    with(encoder, picture, width, height);
                }),
            ),
            (
                Format::Netpbm,
                encoded(|to, picture, width, height| {
                    let encoder = image::codecs::pnm::PnmEncoder::new(to);
                    let pixmap = image::codecs::pnm::PnmSubtype::Pixmap(
                        image::codecs::pnm::SampleEncoding::Binary,
                    );
                    with(encoder.with_subtype(pixmap), picture, width, height);
                }),
            ),
            (
                Format::Tiff,
                encoded(|to, picture, width, height| {
                    tiff::encoder::TiffEncoder::new(std::io::Cursor::new(to))
                        .unwrap()
                        .write_image::<tiff::encoder::colortype::RGB8>(width, height, picture)
                        .unwrap();
                }),
            ),
        ];
        for (format, bytes) in files {
            let (header, found) = decode(&bytes).unwrap();
            let size = (header.width, header.height);
            assert_eq!((header.format, size), (format, (width, height)));
            let (worst, _) = difference(&found, &picture);
            let most = if format == Format::Jpeg { 6 } else { 0 };
            assert!(worst <= most, "{format:?} {size:?}: off by {worst}");
        }
    }
}

/// The files of a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// What is decoded does not depend on what the scratch memory held before.
#[test]
fn a_decoder_forgets_the_image_before() {
    let mut decoder = Decoder::new();
    let paths = files(&fixtures().join("images"));
    for path in paths.iter().chain(paths.iter().rev()) {
        let bytes = read(path);
        let (header, fresh) = decode(&bytes).unwrap();
        let used = decoder
            .decode(&bytes, &header, header.whole(), Verify::Region)
            .unwrap();
        assert!(used.bytes() == fresh, "{}", path.display());
    }
}

/// Wherever a file is cut off in front of its end, with or without an end-of-image marker put back,
/// it is an error and not a picture with a grey end.
#[test]
fn every_truncation_is_noticed() {
    for path in files(&fixtures().join("images")) {
        let bytes = read(&path);
        let jpeg = bytes.starts_with(&[0xff, 0xd8]);
        let end = end_of_image(&bytes);
        for length in 0..end {
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

/// Where the image proper is complete; what follows may be missing.
fn end_of_image(bytes: &[u8]) -> usize {
    let text = bytes.trim_ascii_end();
    if bytes.starts_with(&[0xff, 0xd8]) {
        let last = bytes.windows(2).position(|pair| pair == [0xff, 0xd9]);
        last.unwrap() + 2
    } else if bytes.starts_with(b"P1") {
        text.len()
    } else if bytes.starts_with(b"P2") || bytes.starts_with(b"P3") {
        // The last number is a number from its first digit on.
        text.iter().rposition(u8::is_ascii_whitespace).unwrap() + 2
    } else {
        bytes.len()
    }
}

/// Also where the part that is wanted lies before the cut: nobody wants half a file.
#[test]
fn a_file_that_was_cut_off_is_noticed_whatever_part_is_wanted() {
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

/// Damage of every sort: what it does to the bytes of a good file, and a part of the message.
#[test]
fn damage_is_named() {
    type Change = fn(&mut Vec<u8>);
    fn find(bytes: &[u8], marker: u8) -> usize {
        let pair = [0xff, marker];
        bytes.windows(2).position(|found| found == pair).unwrap()
    }
    let jpeg = "baseline_420_restart.jpg";
    let progressive = "progressive_420.jpg";
    let cases: [(&str, &str, Change, &str); 18] = [
        ("empty", jpeg, |b| b.clear(), "the file is empty"),
        ("zeros", jpeg, |b| b.fill(0), "starts like zero bytes"),
        (
            "text",
            jpeg,
            |b| *b = b"not found".to_vec(),
            "starts like text: \"not found\"",
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
            "a byte too many",
            jpeg,
            |b| b.insert(b.len() - 2, 0x55),
            "data goes on behind the last block",
        ),
        (
            "a restart out of order",
            jpeg,
            |b| {
                let at = find(b, 0xd1) + 1;
                b[at] = 0xd3;
            },
            "marker d3 in place of restart 1",
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
            "no pixels: its header says 61x0",
        ),
        (
            "absurd size",
            jpeg,
            |b| {
                let at = find(b, 0xc0);
                b[at + 5..at + 9].fill(0xff);
            },
            "65535x65535 is more than 178956970 pixels",
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
            panic!("{name} was not noticed");
        };
        let message = error.to_string();
        println!("{name}: {message}");
        assert!(message.contains(expected), "{name}: {message:?}");
    }
}

/// Random changes may give another picture or an error, but nothing worse.
#[test]
fn no_change_of_bytes_panics() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    for path in files(&fixtures().join("images")) {
        let bytes = read(&path);
        for _ in 0..200 {
            let mut changed = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..changed.len());
                changed[at] = rng.random();
            }
            // A header may now claim an image that takes long to refuse.
            let limits = Limits {
                max_pixels: 1 << 20,
            };
            if let Ok(header) = header(&changed, &limits) {
                let orientation = Orientation::of(&changed, header.format);
                let upright = orientation.turn(header);
                let whole = upright.whole();
                let mut decoder = Decoder::new();
                let _ =
                    decoder.decode_upright(&changed, &upright, orientation, whole, Verify::Full);
            }
        }
    }
}

/// Correct files that cannot be read say so, instead of becoming a wrong picture.
#[test]
fn what_cannot_be_read_is_refused() {
    let cases = [
        (
            "first_channel_coarse.jpg",
            "first channel is not its finest",
        ),
        ("palette_of_49_bytes.png", "a palette of 49 bytes"),
        ("sampling_2x2_scan_per_channel.jpg", "one scan per channel"),
        ("sampling_3x1.jpg", "subsampling by three"),
    ];
    for (file, expected) in cases {
        let error = decode(&read(&fixtures().join("images/refused").join(file))).unwrap_err();
        assert!(error.to_string().contains(expected), "{file}: {error}");
    }
}

#[test]
fn a_region_outside_the_image_is_an_error() {
    let bytes = read(&fixtures().join("images/rgb.png"));
    let header = header(&bytes, &Limits::default()).unwrap();
    let region = Rect {
        x: 60,
        y: 0,
        width: 2,
        height: 1,
    };
    let error = Decoder::new()
        .decode(&bytes, &header, region, Verify::Region)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no region 2x1 at (60, 0) in an image of 61x43"
    );
}
