//! EXIF orientation: the eight stored forms of an image decode to the same pixels.

use std::path::Path;

use image::metadata::Orientation as Turn;
use image::{DynamicImage, ExtendedColorType, ImageEncoder as _, RgbImage};
use rsflow_graph::{Batch, Catalogue, Kind, Options, Plan, Recipe, Running, Tap, Text};
use rsflow_pipeline::nodes::{
    self, DecodeImage, ImageFolder, RandomResizedCrop, Resize, ResizeAndCenterCrop,
};
use rsflow_pipeline::pixels::{Decoder, Format, Limits, Orientation, Rect, Verify, header};

mod end;
use end::{Collect, End};

/// Smooth enough for JPEG, and different in every corner.
fn picture() -> RgbImage {
    RgbImage::from_fn(48, 32, |x, y| {
        let [x, y] = [x, y].map(|value| value as u8);
        image::Rgb([
            40 + 4 * x,
            30 + 6 * y,
            if x < 16 && y < 16 { 220 } else { 60 },
        ])
    })
}

/// The picture as stored with orientation `number`, transformed by the `image` crate.
fn stored(number: u8) -> RgbImage {
    // 6 and 8 are inverse to each other, the others to themselves.
    let undo = match number {
        6 => 8,
        8 => 6,
        other => other,
    };
    let mut picture = DynamicImage::ImageRgb8(picture());
    picture.apply_orientation(Turn::from_exif(undo).unwrap());
    picture.to_rgb8()
}

/// An EXIF block with only an orientation, in either byte order.
fn exif(number: u8, big_endian: bool) -> Vec<u8> {
    if big_endian {
        let entry = [1, 0x12, 0, 3, 0, 0, 0, 1, 0, number, 0, 0];
        [b"MM\0*\0\0\0\x08\0\x01".as_slice(), &entry, &[0; 4]].concat()
    } else {
        let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, number, 0, 0, 0];
        [b"II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat()
    }
}

fn jpeg(picture: &RgbImage, exif: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 98);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
    let [width, height] = [picture.width(), picture.height()].map(|side| side as u16);
    encoder
        .encode(picture, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    if let Some(exif) = exif {
        let length = (2 + 6 + exif.len()) as u16;
        let head = [&[0xff, 0xe1], length.to_be_bytes().as_slice(), b"Exif\0\0"].concat();
        bytes.splice(2..2, [&head, exif].concat());
    }
    bytes
}

fn png(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::eXIf, exif).unwrap();
    writer.write_image_data(picture).unwrap();
    writer.finish().unwrap();
    bytes
}

fn webp(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    let (width, height) = picture.dimensions();
    encoder
        .write_image(picture, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

fn tiff(picture: &RgbImage, number: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut bytes).unwrap();
    let (width, height) = picture.dimensions();
    let mut image = encoder
        .new_image::<tiff::encoder::colortype::RGB8>(width, height)
        .unwrap();
    let tag = tiff::tags::Tag::Orientation;
    image.encoder().write_tag(tag, u16::from(number)).unwrap();
    image.write_data(picture).unwrap();
    bytes.into_inner()
}

/// Asserts that `found` are the pixels of `region` of the picture, within `most`.
fn assert_shows(found: &[u8], region: Rect, most: u8, what: &str) {
    let mut picture = picture();
    let Rect {
        x,
        y,
        width,
        height,
    } = region;
    let expected = image::imageops::crop(&mut picture, x, y, width, height).to_image();
    assert_eq!(found.len(), expected.len(), "{what}");
    let differences = found
        .iter()
        .zip(expected.iter())
        .map(|(a, b)| a.abs_diff(*b));
    let worst = differences.max().unwrap();
    assert!(worst <= most, "{what}: off by {worst}");
}

#[test]
fn whole_images_and_crops_are_upright_in_every_format() {
    let crop = Rect {
        x: 5,
        y: 9,
        width: 20,
        height: 11,
    };
    let mut decoder = Decoder::new();
    for number in 1..=8 {
        let stored = stored(number);
        let block = exif(number, number % 2 == 0);
        let files = [
            (Format::Jpeg, jpeg(&stored, Some(&block)), 8),
            (Format::Png, png(&stored, &block), 0),
            (Format::WebP, webp(&stored, &block), 0),
            (Format::Tiff, tiff(&stored, number), 0),
        ];
        for (format, bytes, most) in files {
            let what = format!("{format:?} with orientation {number}");
            let in_file = header(&bytes, &Limits::default()).unwrap();
            assert_eq!(
                (in_file.format, in_file.width),
                (format, stored.width()),
                "{what}"
            );
            let orientation = Orientation::of(&bytes, format);
            assert_eq!(orientation, Orientation::from_exif(number), "{what}");
            let upright = orientation.turn(in_file);
            assert_eq!((upright.width, upright.height), (48, 32), "{what}");
            for region in [upright.whole(), crop, upright.whole()] {
                let pixels = decoder
                    .decode_upright(&bytes, &upright, orientation, region, Verify::Region)
                    .unwrap();
                if number > 1 {
                    assert_eq!(pixels.covers(), region, "{what}");
                    assert_shows(pixels.bytes(), region, most, &what);
                }
            }
            let outside = Rect {
                x: 40,
                y: 0,
                width: 9,
                height: 1,
            };
            let refused =
                decoder.decode_upright(&bytes, &upright, orientation, outside, Verify::Region);
            assert!(refused.is_err(), "{what}");
        }
    }
}

#[test]
fn a_damaged_exif_block_is_not_a_damaged_image() {
    let cases = [
        ("empty", vec![]),
        ("cut in the entry", exif(6, false)[..14].to_vec()),
        ("a directory far away", b"II*\0\xff\xff\xff\xff".to_vec()),
        ("neither order of bytes", b"XX*\0\x08\0\0\0".to_vec()),
        ("orientation 0", exif(0, false)),
        ("orientation 9", exif(9, true)),
        ("no entry", b"II*\0\x08\0\0\0\0\0\0\0\0\0".to_vec()),
    ];
    for (name, block) in cases {
        let files = [
            (Format::Jpeg, jpeg(&stored(1), Some(&block))),
            (Format::Png, png(&stored(1), &block)),
        ];
        for (format, bytes) in files {
            let orientation = Orientation::of(&bytes, format);
            assert_eq!(orientation, Orientation::default(), "{name} in {format:?}");
            let header = header(&bytes, &Limits::default()).unwrap();
            let whole = header.whole();
            let decoded = Decoder::new()
                .decode(&bytes, &header, whole, Verify::Full)
                .map(|_| ());
            assert_eq!(decoded, Ok(()), "{name} in {format:?}");
        }
    }
}

/// The pixels of the only batch of a recipe for a folder of eight files.
fn rendered(folder: &Path, decode: &str, behind: &str) -> Vec<u8> {
    const CATALOGUE: Catalogue = Catalogue(&[
        Kind::of::<ImageFolder>(),
        Kind::of::<DecodeImage>(),
        Kind::of::<RandomResizedCrop>(),
        Kind::of::<Resize>(),
        Kind::of::<ResizeAndCenterCrop>(),
        Kind::of::<nodes::Batch>(),
        Kind::of::<End>(),
    ]);
    let recipe = format!(
        r#"(nodes: {{
            "files": ImageFolder(root: {:?}),
            "images": DecodeImage(input: "files"{decode}),
            {behind}
            "batches": Batch(input: "sizes", size: 8),
            "end": End(input: "batches"),
        }})"#,
        folder.display().to_string()
    );
    let recipe = Recipe::parse(Text::new("recipe.ron", &recipe), CATALOGUE, &[]).unwrap();
    let plan = Plan::new(recipe).unwrap().until("batches").unwrap();
    let collect = Collect::<Batch>::default();
    let options = Options {
        taps: vec![Tap {
            node: "batches".to_owned(),
            output: 0,
            sink: Box::new(collect.clone()),
            name: "test",
        }],
        epochs: Some(1),
        ..Options::default()
    };
    Running::start(&plan, options).unwrap().wait().unwrap();
    let batches = collect.0.lock().unwrap();
    let pixels = batches.iter().map(|batch| batch.pixels(0).to_vec());
    pixels.collect::<Vec<_>>().concat()
}

#[test]
fn a_recipe_applies_the_orientation_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let [turned, upright, lying] = ["turned", "upright", "lying"].map(|name| {
        let class = folder.path().join(name).join("class");
        std::fs::create_dir_all(&class).unwrap();
        class
    });
    for number in 1..=8 {
        let block = exif(number, false);
        let name = format!("{number}.jpg");
        std::fs::write(turned.join(&name), jpeg(&stored(number), Some(&block))).unwrap();
        std::fs::write(upright.join(&name), jpeg(&stored(1), None)).unwrap();
        std::fs::write(lying.join(&name), jpeg(&stored(number), None)).unwrap();
    }
    let train = r#""crops": RandomResizedCrop(input: "images"),
        "sizes": Resize(input: "crops", sizes: [24], flip: 0.5),"#;
    let validate = r#""sizes": ResizeAndCenterCrop(input: "images", sizes: [24]),"#;
    let apart = |a: &[u8], b: &[u8]| {
        assert_eq!((a.len(), b.len()), (8 * 24 * 24 * 3, 8 * 24 * 24 * 3));
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    for behind in [train, validate] {
        let render = |class: &Path, decode| rendered(class.parent().unwrap(), decode, behind);
        let report = render(&turned, ", exif_orientation: true");
        assert!(apart(&report, &render(&upright, "")) <= 10, "{behind}");
        assert_eq!(
            apart(&render(&turned, ""), &render(&lying, "")),
            0,
            "{behind}"
        );
        assert!(apart(&report, &render(&turned, "")) > 100, "{behind}");
    }
}
