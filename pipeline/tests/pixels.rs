//! Pixels against Pillow's and OpenCV's, and images that are not as they should be.

use std::fs;
use std::path::{Path, PathBuf};

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{
    Decoder, Filter, Format, Header, ImageError, Limits, Orientation, Pixels, Rect, Rendition,
    Resizer, Verify, crop, header, lighting,
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
            filter: Filter::Bilinear,
        };
        let mut out = vec![0; plan.output_bytes()];
        resizer.render(pixels, &plan, &mut out).unwrap();
        assert_eq!(hash(&out), expected, "{plan:?}");
    }
}

/// A part of a generated image, by `(x, y, width, height)`, scaled as OpenCV does.
fn cubic(
    (width, height): (u32, u32),
    black_and_white: bool,
    (x, y, w, h): (u32, u32, u32, u32),
    plan: Rendition,
) -> Vec<u8> {
    let bytes = generated(width, height, black_and_white);
    let pixels = Pixels::new(&bytes, Rect::whole(width, height)).unwrap();
    let plan = Rendition {
        source: Rect {
            x,
            y,
            width: w,
            height: h,
        },
        filter: Filter::Cubic,
        ..plan
    };
    let mut out = vec![0; plan.output_bytes()];
    Resizer::new().render(pixels, &plan, &mut out).unwrap();
    out
}

/// The hashes are of what OpenCV 5.0 and 4.8 give without IPP (`setUseOptimized(False)`) for a part
/// cut out, `resize(part, scaled, interpolation=INTER_CUBIC)`, a window and a flip; all to the bit.
#[test]
fn cubic_pixels_are_those_of_opencv() {
    // Image, part, scaled, window, size, flip, black and white, hash.
    #[rustfmt::skip]
    let cases = [
        ((317, 263), (0, 0, 317, 263), (224, 224), (0, 0), 224, false, false, 0x6ba1e11d9bd60dc9),
        ((317, 263), (31, 7, 201, 240), (97, 97), (0, 0), 97, true, true, 0xbe84373c9719916b),
        ((61, 83), (0, 0, 61, 83), (224, 224), (0, 0), 224, false, false, 0x31dbdfc3eb49dbf7),
        ((61, 83), (20, 60, 7, 23), (96, 96), (0, 0), 96, false, false, 0xce6129d6bf101285),
        ((61, 83), (60, 0, 1, 83), (33, 33), (0, 0), 33, false, false, 0x8df23bb5a0f446c8),
        ((61, 83), (5, 82, 50, 1), (33, 33), (0, 0), 33, true, false, 0xe896459b765f1414),
        ((61, 83), (5, 82, 1, 1), (16, 16), (0, 0), 16, false, false, 0x0d35ec88e7ea8a25),
        ((50, 50), (1, 2, 48, 48), (48, 48), (0, 0), 48, true, false, 0x4829a88f6deba715),
        ((50, 50), (0, 0, 2, 3), (47, 47), (0, 0), 47, false, true, 0x9dfc04528e814a89),
        ((375, 500), (0, 0, 375, 500), (256, 341), (16, 58), 224, true, false, 0x0fdd19cabed8d702),
        ((333, 251), (0, 0, 333, 251), (340, 256), (58, 16), 224, false, true, 0x1c8c2b99b76d28d8),
        ((300, 8), (0, 0, 300, 8), (1200, 32), (584, 0), 32, false, false, 0x96e3ebb827056d49),
        ((9, 301), (0, 0, 9, 301), (32, 1070), (0, 519), 32, true, false, 0xabe3a44cf9fd5f3f),
        ((1, 3000), (0, 0, 1, 3000), (32, 96000), (0, 47984), 32, false, false, 0x45860fdf91766a45),
        ((3000, 3), (0, 0, 3000, 3), (31, 31), (0, 0), 31, false, false, 0x36d150e8d51d8cf8),
        ((640, 480), (0, 0, 640, 480), (1, 1), (0, 0), 1, false, false, 0x3dd5bb193664a84b),
    ];
    for (image, part, scaled, window, size, flip, black_and_white, expected) in cases {
        let plan = Rendition {
            scaled,
            window,
            ..crop::training(Rect::whole(1, 1), size, flip)
        };
        let out = cubic(image, black_and_white, part, plan);
        assert_eq!(hash(&out), expected, "{image:?} {part:?} {plan:?}");
    }
}

/// Where a sum is a half, OpenCV's vector code rounds otherwise; IPP, which its wheels for x86-64 come
/// with, has other coefficients. Neither is more than a level away.
#[test]
fn cubic_pixels_are_within_a_level_of_all_that_opencv_gives() {
    // File, image, part, scaled, window, size, flip, and the largest share of levels that differ.
    #[rustfmt::skip]
    let cases = [
        ("own_code_halves", (640, 480), (0, 0, 640, 480), (160, 224), (80, 8), 64, false, 0.005),
        ("ipp_smaller", (317, 263), (31, 7, 201, 240), (96, 96), (16, 20), 56, false, 0.05),
        ("ipp_larger", (61, 83), (20, 60, 7, 23), (96, 96), (40, 40), 56, true, 0.05),
    ];
    for (file, image, part, scaled, window, size, flip, most) in cases {
        let plan = Rendition {
            scaled,
            window,
            ..crop::training(Rect::whole(1, 1), size, flip)
        };
        let out = cubic(image, false, part, plan);
        let path = fixtures().join("opencv").join(format!("{file}.png"));
        let (_, expected) = decode_file(&path);
        let (worst, _) = difference(&out, &expected);
        let differ = out.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let share = differ as f64 / out.len() as f64;
        println!("{file}: {:.2} % differ", 100.0 * share);
        assert!(worst <= 1 && share <= most, "{file}: {worst}, {share}");
        assert!(share > 0.0, "{file} shows nothing");
    }
}

/// Against hashes of what NumPy makes with TensorFlow's formula.
#[test]
fn samples_are_those_of_tensorflow() {
    let cases = [
        (224, 224, 0x606b_7462_91c0_79b0),
        (224, 192, 0x0b44_92e1_9c76_e383),
        (224, 160, 0x71fd_20a7_36b7_aab9),
        (224, 128, 0x280c_e4c7_0d1e_15ec),
        (224, 96, 0xde5c_ba23_150a_4df9),
        (224, 223, 0xca8e_548d_8e2c_a781),
        (224, 1, 0x7af1_3f1c_2d95_2ec7),
        (224, 300, 0xdbe4_0681_0aeb_1c7b),
        (41, 40, 0x8b6e_a0ee_7572_f700),
        (41, 23, 0xa446_3e92_610d_364f),
        (41, 7, 0x817b_196f_a29d_eca3),
    ];
    let mut resizer = Resizer::new();
    for (side, size, expected) in cases {
        let from = generated(side, side, false);
        let mut out = vec![0; (size * size * 3) as usize];
        resizer.sample(&from, side, &mut out, size).unwrap();
        assert_eq!(hash(&out), expected, "{side} to {size}");
    }
    let from = generated(4, 4, false);
    for (side, length, size) in [(5, 12, 2), (3, 12, 2), (4, 12, 3), (4, 0, 0)] {
        let mut out = vec![9; length];
        assert!(resizer.sample(&from, side, &mut out, size).is_err());
        assert!(out.iter().all(|&level| level == 9));
    }
}

/// Against hashes of what NumPy makes, with levels clipped at either end.
#[test]
fn lighting_clips_and_truncates() {
    let cases = [
        ([0.0, 0.0, 0.0], 0xdb9f_e48f_ec2d_2e77),
        ([0.1, -0.2, 0.05], 0xf9ae_3a75_73e7_f6d6),
        ([-0.31, 0.02, 0.15], 0x0b6b_c5f7_344b_bad4),
        ([2.5, 0.0, -1.0], 0xaf9c_4cc7_55a4_0eff),
        ([-3.0, 1.0, 1.0], 0x6e14_98b8_595f_e942),
    ];
    for (alphas, expected) in cases {
        let mut pixels = generated(64, 64, false);
        lighting::add(lighting::increments(alphas), &mut pixels);
        assert_eq!(hash(&pixels), expected, "{alphas:?}");
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(12);
    let draws: Vec<f64> = (0..20_000)
        .flat_map(|_| lighting::draw(0.1, &mut random))
        .collect();
    let mean = |of: fn(f64) -> f64| draws.iter().map(|&d| of(d)).sum::<f64>() / draws.len() as f64;
    assert!(mean(|draw| draw).abs() < 0.002);
    assert!((mean(|draw| draw * draw).sqrt() - 0.1).abs() < 0.002);
    // In a normal distribution 4.55 % lie beyond two standard deviations.
    let far = mean(|draw| f64::from(draw.abs() > 0.2));
    assert!((far - 0.0455).abs() < 0.005, "{far}");
}

/// The whole of the quantized reference's protocol, against hashes of NumPy's: crop or centre, bicubic,
/// lighting, flip, samples. Pixels of the pictures at 224 are OpenCV's but for one, by a level.
#[test]
fn the_quantized_references_protocol_is_numpys() {
    let image = (375, 500);
    let train = crop::training(Rect::whole(1, 1), 224, true);
    let val = crop::covering(image.0, image.1, 256, 224);
    #[rustfmt::skip]
    let cases = [
        (train, (40, 60, 300, 211), [0.1, -0.2, 0.05], [
            (224, 0x0cc2_0d38_6f90_c88c),
            (192, 0xf37a_f6f9_988f_76da),
            (160, 0x0e14_c0ac_f174_02ce),
            (128, 0x0c6a_1424_000a_fe3b),
            (96, 0x5f0f_63a7_9ebf_4cd1),
        ]),
        (val, (0, 0, 375, 500), [0.0; 3], [
            (224, 0x19d3_82b4_7986_5ebc),
            (192, 0x4ad0_4c45_39b8_928c),
            (160, 0xade2_dc56_233b_5701),
            (128, 0x6bba_035f_6451_5fa0),
            (96, 0xe87d_a320_f5fa_8770),
        ]),
    ];
    for (plan, part, alphas, sizes) in cases {
        let mut picture = cubic(image, false, part, plan);
        lighting::add(lighting::increments(alphas), &mut picture);
        for (size, expected) in sizes {
            let mut out = vec![0; (size * size * 3) as usize];
            Resizer::new()
                .sample(&picture, 224, &mut out, size)
                .unwrap();
            assert_eq!(hash(&out), expected, "{size}");
        }
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
            "data continues after the last block",
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
