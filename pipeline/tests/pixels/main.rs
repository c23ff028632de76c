//! Decoding and resizing, compared with Pillow and OpenCV; and damaged files.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rsflow_pipeline::pixels::{Decoder, Format, Header, ImageError, Limits, Rect, Verify, header};

mod augmentations;
mod damage;
mod filters;
mod formats;
mod generated;
mod jpegs;
mod resize;

#[path = "../../../tests/fixtures/mod.rs"]
mod fixtures;
use fixtures::fixtures;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = read(path);
    GzDecoder::new(packed.as_slice())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
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

/// Whether only the region of an image is decoded. Then every pixel is libjpeg's.
fn is_decoded_in_part(bytes: &[u8], header: &Header) -> bool {
    let corner = Rect::whole(1, 1);
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(bytes, header, corner, Verify::Region);
    header.format == Format::Jpeg && pixels.unwrap().covers() == corner
}
