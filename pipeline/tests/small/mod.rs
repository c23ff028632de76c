//! Small files of all formats, whose headers say what a test wants.

pub fn png_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(body);
    let length = (body.len() as u32).to_be_bytes();
    [&length, name.as_slice(), body, &crc.sum().to_be_bytes()].concat()
}

/// A PNG with a bit depth and colour type, and these bytes as its uncompressed image data.
pub fn png(width: u32, height: u32, depth: u8, colour: u8, pixels: &[u8]) -> Vec<u8> {
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
pub type Entry = (u16, u16, u32, u32);

/// A little-endian TIFF of one directory.
pub fn tiff(entries: &[Entry]) -> Vec<u8> {
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
pub fn strip(width: u32, height: u32, bits: u32, samples: u32, compression: u32) -> [Entry; 9] {
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

pub fn riff(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
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
pub fn lossy(width: u16, height: u16) -> Vec<u8> {
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [&[0x10, 0, 0, 0x9d, 1, 0x2a], sides.as_slice(), &[0; 200]].concat()
}

pub fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let [width, height] = [width, height].map(|side| (side - 1).to_le_bytes());
    [&[flags, 0, 0, 0], &width[..3], &height[..3]].concat()
}

/// An animation of 1x1 whose frame claims a larger size.
pub fn animation() -> Vec<u8> {
    let frame = riff(&[(b"VP8 ", lossy(16_000, 11_000))])[12..].to_vec();
    riff(&[
        (b"VP8X", canvas(2, 1, 1)),
        (b"ANIM", vec![0; 6]),
        (b"ANMF", [vec![0; 16], frame].concat()),
    ])
}

pub fn bmp(width: i32, height: i32) -> Vec<u8> {
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

pub fn gif(canvas: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let sides = |(width, height): (u16, u16)| [width.to_le_bytes(), height.to_le_bytes()].concat();
    [
        b"GIF89a".as_slice(),
        &sides(canvas),
        &[0x80, 0, 0, 0, 0, 0, 255, 255, 255],
        b",\0\0\0\0",
        &sides(frame),
        &[0, 2, 2, 0x44, 1, 0],
        b";",
    ]
    .concat()
}

/// The headers of a JPEG of one component, and `data` as its scan.
pub fn jpeg(width: u16, height: u16, frame: u8, data: &[u8]) -> Vec<u8> {
    let [w1, w0] = width.to_be_bytes();
    let [h1, h0] = height.to_be_bytes();
    // Tables of one code, of one bit: DC differences of 0 and ends of blocks.
    let huffman = |kind: u8| [&[0xff, 0xc4, 0, 20, kind, 1], [0; 16].as_slice()].concat();
    let end = if frame == 0xc2 { 0 } else { 63 };
    [
        [0xff, 0xd8, 0xff, 0xdb, 0, 67, 0].as_slice(),
        &[1; 64],
        &[0xff, frame, 0, 11, 8, h1, h0, w1, w0, 1, 1, 0x11, 0],
        &huffman(0),
        &huffman(0x10),
        &[0xff, 0xda, 0, 8, 1, 1, 0, 0, end, 0],
        data,
        &[0xff, 0xd9],
    ]
    .concat()
}
