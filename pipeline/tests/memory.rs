//! The memory that a decoder allocates for images, and what it keeps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use rsflow_pipeline::pixels::{
    Decoder, Header, ImageError, Limits, Rect, Resizer, Verify, crop, header,
};

/// Counts the allocated bytes of each thread, and their maximum.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
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

fn png_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(body);
    let length = (body.len() as u32).to_be_bytes();
    [&length, name.as_slice(), body, &crc.sum().to_be_bytes()].concat()
}

/// A PNG with a bit depth and colour type, and these bytes as its uncompressed image data.
fn png(width: u32, height: u32, depth: u8, colour: u8, pixels: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let mut data = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    data.write_all(pixels).unwrap();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        png_chunk(
            b"IHDR",
            &[&head, [depth, colour, 0, 0, 0].as_slice()].concat(),
        ),
        png_chunk(b"IDAT", &data.finish().unwrap()),
        png_chunk(b"IEND", &[]),
    ]
    .concat()
}

/// Tag, type (3: 16 bits, 4: 32 bits), count and value.
type Entry = (u16, u16, u32, u32);

/// A little-endian TIFF of one directory.
fn tiff(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 64]);
    bytes
}

/// The entries of a TIFF in one strip of 16 bytes.
fn strip(width: u32, height: u32, bits: u32, samples: u32, compression: u32) -> [Entry; 9] {
    [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, if samples < 3 { 1 } else { 2 }),
        (273, 4, 1, 140),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, 1, 16),
    ]
}

fn riff(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (name, chunk) in chunks {
        body.extend(name.iter());
        body.extend((chunk.len() as u32).to_le_bytes());
        body.extend(chunk);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [
        b"RIFF".as_slice(),
        &(body.len() as u32).to_le_bytes(),
        &body,
    ]
    .concat()
}

/// The start of a lossy WebP frame.
fn lossy(width: u16, height: u16) -> Vec<u8> {
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [&[0x10, 0, 0, 0x9d, 1, 0x2a], sides.as_slice(), &[0; 200]].concat()
}

fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let [width, height] = [width, height].map(|side| (side - 1).to_le_bytes());
    [&[flags, 0, 0, 0], &width[..3], &height[..3]].concat()
}

/// An animation of 1x1 whose frame claims a larger size.
fn animation() -> Vec<u8> {
    let frame = riff(&[(b"VP8 ", lossy(16_000, 11_000))])[12..].to_vec();
    riff(&[
        (b"VP8X", canvas(2, 1, 1)),
        (b"ANIM", vec![0; 6]),
        (b"ANMF", [vec![0; 16], frame].concat()),
    ])
}

fn bmp(width: i32, height: i32) -> Vec<u8> {
    let head = [
        54u32.to_le_bytes(),
        40u32.to_le_bytes(),
        width.to_le_bytes(),
        height.to_le_bytes(),
    ];
    let rest = [1, 0, 24, 0];
    [
        b"BM\0\0\0\0\0\0\0\0".as_slice(),
        &head.concat(),
        &rest,
        &[0; 24],
    ]
    .concat()
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
    let tile = |width, length| {
        tiff(&[
            (256, 4, 1, 1),
            (257, 4, 1, 1),
            (258, 3, 1, 8),
            (262, 3, 1, 2),
            (277, 3, 1, 4),
            (322, 4, 1, width),
            (323, 4, 1, length),
            (324, 4, 1, 100),
            (325, 4, 1, 16),
        ])
    };
    let cases: [(&str, Vec<u8>, &str); 17] = [
        ("PNG", png(60_000, 60_000, 8, 2, &[0; 1000]), too_large),
        (
            "PNG of a long row",
            png(100_000_000, 1, 16, 6, &[0; 1000]),
            "too much memory",
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
            "strip or tile of the TIFF is missing",
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
        ("TIFF, a billion strips", tiff(&many), "too much memory"),
        (
            "TIFF, a wide tile",
            tile(u32::MAX, 16),
            "tiles of 4294967295x16",
        ),
        (
            "TIFF, a high tile",
            tile(16, u32::MAX),
            "tiles of 16x4294967295",
        ),
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
            "a frame of 16000x11000",
        ),
        (
            "WebP, an animation's frame",
            animation(),
            "a frame of 16000x11000",
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

/// Within the limit, a claimed size may allocate a bounded multiple of its pixels.
#[test]
fn memory_is_bounded_by_the_limit_on_pixels() {
    const PIXELS: u64 = 1 << 20;
    let limits = Limits { max_pixels: PIXELS };
    let cases = [
        ("PNG", png(1 << 10, 1 << 10, 16, 6, &[0; 1000])),
        ("TIFF", tiff(&strip(1 << 10, 1 << 10, 16, 4, 1))),
        ("TIFF, compressed", tiff(&strip(1 << 10, 1 << 10, 16, 4, 5))),
        ("WebP, lossy", riff(&[(b"VP8 ", lossy(1 << 10, 1 << 10))])),
        ("BMP", bmp(1 << 10, 1 << 10)),
        ("PPM", b"P6 1024 1024 65535 ".to_vec()),
    ];
    for (name, bytes) in cases {
        let (result, most) = watched(|| decode(&mut Decoder::new(), &bytes, &limits));
        println!("{name}: {result:?} ({most} bytes)");
        assert!(result.is_err(), "{name}");
        assert!(most < 20 * PIXELS as isize, "{name}: {most} bytes");
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
    let mut render = |bytes: &[u8]| {
        let header = header(bytes, &Limits::default()).unwrap();
        let region = Rect {
            x: 3,
            y: 5,
            width: header.width - 7,
            height: header.height - 9,
        };
        for verify in [Verify::Region, Verify::Full] {
            let pixels = decoder.decode(bytes, &header, region, verify).unwrap();
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
