//! Decoding of all formats, whole and by region.

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_pipeline::pixels::{Decoder, Format, Limits, Rect, Verify, header};

use crate::{decode, decode_file, difference, files, fixtures, is_decoded_in_part, read};

/// Grey, CMYK, YCCK, progressive, 16 bits, palettes, alpha and so on. All must be exact, except that
/// Pillow rounds down the 5 or 6 bits per channel of some BMPs.
#[test]
fn every_kind_of_image_is_decoded_as_by_pillow() {
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

/// A region has the pixels of the whole image, although upsampling interpolates across its edges.
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

#[test]
fn decoding_does_not_depend_on_earlier_images() {
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
        "region 2x1 at (60, 0) is outside the 61x43 image"
    );
}
