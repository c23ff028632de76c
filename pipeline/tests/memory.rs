//! The memory that a decoder allocates for images, and what it keeps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use rsflow_pipeline::pixels::augment::{Augmenter, Operation};
use rsflow_pipeline::pixels::{
    Decoder, Header, ImageError, Limits, Orientation, Rect, Resizer, Verify, crop, header,
};

mod small;
use small::{Entry, animation, bmp, canvas, gif, jpeg, lossy, png, riff, strip, tiff};

/// Counts the allocated bytes of each thread, and their maximum. Large allocations beyond a limit fail.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// Smaller allocations always succeed: tables and windows of libraries, which abort without them.
const LARGE: usize = 512 << 10;

fn is_refused(layout: Layout) -> bool {
    layout.size() >= LARGE && HELD.get() + layout.size() as isize > LIMIT.get()
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout) {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout) {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of `work`, and the maximum of additional bytes that were allocated meanwhile.
fn watched<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, MOST.get() - before)
}

fn decode(decoder: &mut Decoder, bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let header = header(bytes, limits)?;
    decoder.decode(bytes, &header, header.whole(), Verify::Region)?;
    Ok(header)
}

/// Small hostile files are refused before memory is allocated for the size that they claim.
#[test]
fn bombs_are_refused_before_they_take_memory() {
    let too_large = "exceeds the limit of 178956970 pixels";
    let lossless = [
        &[0x2f],
        (0x3ffe_u32 << 14 | 0x3ffe).to_le_bytes().as_slice(),
        &[0; 100],
    ]
    .concat();
    let many = [
        (256, 4, 1, 4),
        (257, 4, 1, 4),
        (262, 3, 1, 1),
        (273, 4, 1 << 30, 8),
        (279, 4, 1 << 30, 8),
    ];
    let mut grey = strip(10_000, 10_000, 16, 65_535, 1);
    grey[4].3 = 1;
    let mut beyond = strip(10_000, 10_000, 16, 4, 1);
    beyond[8].3 = 800_000_000;
    let wide_tile = {
        tiff(&[
            (256, 4, 1, 1),
            (257, 4, 1, 1),
            (258, 3, 1, 8),
            (262, 3, 1, 2),
            (277, 3, 1, 4),
            (322, 4, 1, u32::MAX),
            (323, 4, 1, 16),
            (324, 4, 1, 100),
            (325, 4, 1, 16),
        ])
    };
    // For each AC coefficient ten scans, a bit each.
    let scan = |k: u8, al: u8| {
        let ah = if al == 9 { 0 } else { al + 1 };
        [0xff, 0xda, 0, 8, 1, 1, 0, k, k, ah << 4 | al, 0x7f]
    };
    let scans = (1..64).flat_map(|k| (0..10).rev().flat_map(move |al| scan(k, al)));
    let scans: Vec<u8> = std::iter::once(0x7f).chain(scans).collect();
    let cases: [(&str, Vec<u8>, &str); 20] = [
        (
            "JPEG, many scans",
            jpeg(8, 8, 0xc2, &scans),
            "more than 500 scans",
        ),
        ("JPEG", jpeg(65_500, 65_500, 0xc0, &[0; 100]), too_large),
        (
            "JPEG, sequential",
            jpeg(12_000, 12_000, 0xc1, &[0; 1000]),
            "cannot hold",
        ),
        (
            "JPEG, progressive",
            jpeg(12_000, 12_000, 0xc2, &[0; 1000]),
            "cannot hold",
        ),
        ("PNG", png(60_000, 60_000, 8, 2, &[0; 1000]), too_large),
        (
            "PNG of a long row",
            png(100_000_000, 1, 16, 6, &[0; 1000]),
            "cannot hold 100000000x1 pixels",
        ),
        ("TIFF", tiff(&strip(60_000, 60_000, 8, 3, 1)), too_large),
        (
            "TIFF, huge sides",
            tiff(&strip(u32::MAX, u32::MAX, 1, 1, 1)),
            too_large,
        ),
        (
            "TIFF, a strip beyond the end",
            tiff(&beyond),
            "cannot hold 10000x10000 pixels",
        ),
        (
            "TIFF, many samples",
            tiff(&strip(10_000, 10_000, 16, 65_535, 1)),
            "65535 samples per pixel",
        ),
        (
            "TIFF, many grey samples",
            tiff(&grey),
            "65535 samples per pixel",
        ),
        (
            "TIFF, a billion strips",
            tiff(&many),
            "tag 273 of the TIFF has no valid value",
        ),
        ("TIFF, a wide tile", wide_tile, "tiles of 4294967295x16"),
        ("WebP, lossless", riff(&[(b"VP8L", lossless)]), too_large),
        (
            "WebP, lossy",
            riff(&[(b"VP8 ", lossy(0x3fff, 0x3fff))]),
            too_large,
        ),
        (
            "WebP, a canvas",
            riff(&[(b"VP8X", canvas(0, 1 << 24, 200)), (b"VP8 ", lossy(1, 1))]),
            too_large,
        ),
        (
            "WebP, a frame beyond its canvas",
            riff(&[(b"VP8X", canvas(0, 1, 1)), (b"VP8 ", lossy(16_000, 11_000))]),
            "a WebP frame of 1x1 holds an image of 16000x11000",
        ),
        (
            "WebP, an animation's frame",
            animation(),
            "a WebP frame of 1x1 holds an image of 16000x11000",
        ),
        ("BMP", bmp(60_000, 60_000), too_large),
        ("PPM", b"P6 60000 60000 255 ".to_vec(), too_large),
    ];
    for (name, bytes, expected) in cases {
        let (result, most) = watched(|| decode(&mut Decoder::new(), &bytes, &Limits::default()));
        let message = result.unwrap_err().to_string();
        println!("{name}: {message} ({most} bytes)");
        assert!(message.contains(expected), "{name}: {message:?}");
        assert!(message.len() < 200, "{name}: {message:?}");
        assert!(most < 1 << 20, "{name}: {most} bytes");
    }
}

/// A size within the limit that the file's bytes cannot hold takes no memory.
#[test]
fn claims_beyond_the_bytes_of_a_file_take_no_memory() {
    let canvas_only = [
        (b"VP8X", canvas(0, 13_000, 13_000)),
        (b"VP8 ", lossy(13_000, 13_000)),
    ];
    let mut runs = bmp(13_000, 13_000);
    (runs[28], runs[30]) = (8, 1);
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, 50)
        .encode(&[1, 2, 3], 1, 1, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]);
    jpeg[frame.unwrap() + 5..][..4].copy_from_slice(&[50, 200, 50, 200]);
    let cases = [
        ("BMP of 54 bytes", bmp(13_000, 13_000)),
        ("BMP, runs", runs),
        ("PGM of 29 bytes", b"P5 13000 13000 255 1234567890".to_vec()),
        ("PPM, plain", b"P3 13000 13000 255 1 2 3 4 5 6".to_vec()),
        ("PBM", b"P4 13000 13000 123456".to_vec()),
        ("PNG", png(13_000, 13_000, 8, 2, &[0; 1000])),
        ("PNG, one bit", png(13_000, 13_000, 1, 0, &[0; 1000])),
        ("GIF", gif((13_000, 13_000), (13_000, 13_000))),
        ("GIF, a canvas", gif((13_000, 13_000), (1, 1))),
        ("GIF, a frame", gif((1, 1), (13_000, 13_000))),
        ("WebP", riff(&[(b"VP8 ", lossy(13_000, 13_000))])),
        ("WebP, a canvas", riff(&canvas_only)),
        ("TIFF", tiff(&strip(13_000, 13_000, 8, 3, 1))),
        ("TIFF, LZW", tiff(&strip(13_000, 13_000, 8, 3, 5))),
        ("TIFF, deflate", tiff(&strip(13_000, 13_000, 8, 3, 8))),
        ("TIFF, PackBits", tiff(&strip(13_000, 13_000, 8, 3, 32_773))),
        ("TIFF, Group 4", tiff(&strip(13_000, 13_000, 1, 1, 4))),
        ("JPEG", jpeg),
    ];
    for (name, bytes) in cases {
        let (result, most) = watched(|| decode(&mut Decoder::new(), &bytes, &Limits::default()));
        let message = result.unwrap_err().to_string();
        println!("{name}: {message} ({most} bytes)");
        let expected = ["truncated: ", "cannot hold", "pixels"];
        assert!(
            expected.iter().all(|part| message.contains(part)),
            "{name}: {message:?}"
        );
        assert!(most < 1 << 20, "{name}: {most} bytes");
    }
}

/// The side of the images of [`large_files`].
const SIDE: u32 = 1 << 10;

/// Files of a megapixel of the kinds that take the most memory.
fn large_files() -> Vec<(&'static str, Vec<u8>)> {
    let pixels = (SIDE * SIDE) as usize;
    let noise: Vec<u8> = (0..8 * pixels as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let webp = |colour: image::ExtendedColorType, channels: usize| {
        let mut bytes = Vec::new();
        let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encoder
            .encode(&noise[..channels * pixels], SIDE, SIDE, colour)
            .unwrap();
        bytes
    };
    let animated = |still: Vec<u8>| {
        let sides = [
            &(SIDE - 1).to_le_bytes()[..3],
            &(SIDE - 1).to_le_bytes()[..3],
        ]
        .concat();
        let head = [&[0; 6], sides.as_slice(), &[0; 4]].concat();
        riff(&[
            (b"VP8X", canvas(0x12, SIDE, SIDE)),
            (b"ANIM", vec![0; 6]),
            (b"ANMF", [&head, &still[12..]].concat()),
        ])
    };
    let rgba = webp(image::ExtendedColorType::Rgba8, 4);
    let rows = |channels: usize| {
        let row = [&[0], &noise[..SIDE as usize * channels]].concat();
        row.repeat(SIDE as usize)
    };
    let strips = |bits: u32, samples: u32, planar: bool| {
        let plane = (SIDE * SIDE * bits / 8) as usize;
        let (strips, length) = match planar {
            true => (samples as usize, plane),
            false => (1, plane * samples as usize),
        };
        let mut file = [
            b"II*\0".as_slice(),
            &(8 + (strips * length) as u32).to_le_bytes(),
        ]
        .concat();
        file.extend(noise.iter().cycle().take(strips * length));
        let after = file.len() as u32 + 2 + 12 * 10 + 4;
        let list = if strips == 1 { 8 } else { after };
        let lengths = if strips == 1 {
            length as u32
        } else {
            after + 4 * strips as u32
        };
        let entries: [Entry; 10] = [
            (256, 4, 1, SIDE),
            (257, 4, 1, SIDE),
            (258, 3, 1, bits),
            (259, 3, 1, 1),
            (262, 3, 1, if samples < 3 { 1 } else { 2 }),
            (273, 4, strips as u32, list),
            (277, 3, 1, samples),
            (278, 4, 1, SIDE),
            (279, 4, strips as u32, lengths),
            (284, 3, 1, if planar { 2 } else { 1 }),
        ];
        file.extend(&tiff(&entries)[8..8 + 2 + 12 * 10]);
        file.extend([0; 4]);
        (0..strips).for_each(|at| file.extend(((8 + at * length) as u32).to_le_bytes()));
        (0..strips).for_each(|_| file.extend((length as u32).to_le_bytes()));
        file
    };
    let plain = |head: &str, bytes: usize| {
        [
            format!("{head} {SIDE} {SIDE} 255\n").as_bytes(),
            &noise[..bytes * pixels],
        ]
        .concat()
    };
    let side = SIDE as i32;
    vec![
        ("PNG, RGBA of 16 bits", png(SIDE, SIDE, 16, 6, &rows(8))),
        ("PNG, RGB", png(SIDE, SIDE, 8, 2, &rows(3))),
        ("PNG, one bit", png(8 * SIDE, SIDE / 8, 1, 0, &rows(1))),
        (
            "WebP, lossless RGB",
            webp(image::ExtendedColorType::Rgb8, 3),
        ),
        ("WebP, an animation", animated(rgba.clone())),
        ("WebP, lossless RGBA", rgba),
        (
            "BMP",
            [bmp(side, side), noise[..3 * pixels].to_vec()].concat(),
        ),
        ("PPM", plain("P6", 3)),
        ("TIFF, six samples of 16 bits", strips(16, 6, false)),
        ("TIFF, six planes of 16 bits", strips(16, 6, true)),
        ("TIFF, grey", strips(8, 1, false)),
    ]
}

/// The figure that [`Limits::max_pixels`] documents.
#[test]
fn memory_is_bounded_by_the_limit_on_pixels() {
    const BYTES_PER_PIXEL: isize = 20;
    // Headers, windows and tables.
    const REST: isize = 1 << 20;
    for (name, bytes) in large_files() {
        let (result, most) = watched(|| decode(&mut Decoder::new(), &bytes, &Limits::default()));
        let header = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let count = (header.width * header.height) as isize;
        println!("{name}: {:.2} bytes per pixel", most as f64 / count as f64);
        assert!(
            most < BYTES_PER_PIXEL * count + REST,
            "{name}: {most} bytes"
        );
    }
}

/// Wherever memory ends while an image is decoded, turned and resized, that is an error of the image.
#[test]
fn memory_that_cannot_be_had_is_an_error() {
    const STEPS: isize = 24;
    for (name, bytes) in large_files() {
        let render = || -> Result<(), String> {
            let stored = header(&bytes, &Limits::default()).map_err(|error| error.to_string())?;
            let orientation = Orientation::from_exif(6);
            let upright = orientation.turn(stored);
            let (mut decoder, mut resizer) = (Decoder::new(), Resizer::new());
            let whole = upright.whole();
            let pixels = decoder
                .decode_upright(&bytes, &upright, orientation, whole, Verify::Region)
                .map_err(|error| error.to_string())?;
            let mut output = vec![0; 32 * 32 * 3];
            let plan = crop::training(whole, 32, false);
            resizer
                .resize(pixels, &plan, &mut output)
                .map_err(|error| error.to_string())
        };
        let (result, most) = watched(render);
        result.unwrap();
        let mut refused = 0;
        for step in 0..STEPS {
            LIMIT.set(HELD.get() + most * step / STEPS);
            let result = render();
            LIMIT.set(isize::MAX);
            if let Err(message) = result {
                assert!(message.starts_with("out of memory: "), "{name}: {message}");
                refused += 1;
            }
        }
        println!("{name}: {refused} of {STEPS} limits refused");
        assert!(refused >= STEPS / 3, "{name}: {refused}");
    }
}

/// 10,000 by 10,000 pixels, then ordinary images: the memory is freed.
#[test]
fn a_giant_image_leaves_no_memory_behind() {
    const SIDE: u16 = 10_000;
    let side = u32::from(SIDE);
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, 50)
        .encode(
            &vec![90; 100_000_000],
            SIDE,
            SIDE,
            jpeg_encoder::ColorType::Luma,
        )
        .unwrap();
    // One bit per pixel, and a filter byte before each row.
    let png_giant = png(side, side, 1, 0, &vec![0; (1 + 1250) * 10_000]);
    let mut small_jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut small_jpeg, 50)
        .encode(&[1, 2, 3], 1, 1, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    let small_png = png(2, 1, 8, 2, &[0, 1, 2, 3, 4, 5, 6]);
    for (name, giant, value) in [("JPEG", jpeg, 90), ("PNG", png_giant, 0)] {
        let before = HELD.get();
        let mut decoder = Decoder::new();
        let header = header(&giant, &Limits::default()).unwrap();
        let pixels = decoder
            .decode(&giant, &header, header.whole(), Verify::Full)
            .unwrap();
        assert_eq!(pixels.bytes().len(), 300_000_000, "{name}");
        assert!(pixels.bytes().iter().all(|&byte| byte == value), "{name}");
        assert!(HELD.get() - before >= 300_000_000, "{name}");
        for small in [&small_jpeg, &small_png] {
            decode(&mut decoder, small, &Limits::default()).unwrap();
        }
        let kept = HELD.get() - before;
        assert!(kept < 80 << 20, "{name}: {kept} bytes are kept");
    }
}

/// In the steady state a worker reuses the memory of earlier images.
#[test]
fn photographs_allocate_no_memory_in_the_steady_state() {
    const SIZES: [u32; 3] = [64, 48, 32];
    // Sequential, one scan, as most photographs. Some define their own Huffman tables.
    const FILES: [&str; 7] = [
        "baseline_420.jpg",
        "baseline_420_restart.jpg",
        "baseline_422.jpg",
        "baseline_444.jpg",
        "grey.jpg",
        "optimized.jpg",
        "rgb.jpg",
    ];
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images");
    let files = FILES.map(|name| (name, std::fs::read(images.join(name)).unwrap()));
    let mut outputs = SIZES.map(|size| vec![0; (size * size * 3) as usize]);
    let (mut decoder, mut resizer) = (Decoder::new(), Resizer::new());
    let mut augmenter = Augmenter::new();
    let (first, others) = (
        Operation::Equalize,
        [Operation::Invert, Operation::Sharpness(1.5)],
    );
    let mut render = |bytes: &[u8]| {
        let header = header(bytes, &Limits::default()).unwrap();
        let region = Rect {
            x: 3,
            y: 5,
            width: header.width - 7,
            height: header.height - 9,
        };
        for verify in [Verify::Region, Verify::Full] {
            let decoded = decoder.decode(bytes, &header, region, verify).unwrap();
            augmenter.load_changed(decoded, region, &first).unwrap();
            for operation in &others {
                augmenter.apply(operation).unwrap();
            }
            let pixels = augmenter.pixels().unwrap();
            for (size, output) in SIZES.into_iter().zip(&mut outputs) {
                let plan = crop::training(region, size, size == 48);
                resizer.resize(pixels, &plan, output).unwrap();
            }
        }
    };
    for round in 0..2 {
        for (name, bytes) in &files {
            let ((), taken) = watched(|| render(bytes));
            assert!(round == 0 || taken == 0, "{name}: {taken} bytes");
        }
    }
}
