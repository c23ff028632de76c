//! TIFF, with the `tiff` crate. (The `image` crate supports neither palettes nor grey with alpha.)
//!
//! JPEG compression is refused: damage in it would not be detected.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use tiff::decoder::{Decoder, Limits};
use tiff::tags::{ByteOrder, PhotometricInterpretation, SampleFormat, Tag};
use tiff::{ColorType, TiffError};

use super::{Colour, Format, Header, ImageError, byte_size, reset};

/// Limits on samples per pixel and on a tile's sides, above those of real images: the library allocates
/// memory for a row of a tile before it reads it.
const MAX_SAMPLES: u32 = 16;
const MAX_TILE_SIDE: u32 = 1 << 16;

type File<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

fn open(bytes: Cow<'_, [u8]>) -> Result<File<'_>, TiffError> {
    // A strip or tile cannot be longer than the file.
    let mut limits = Limits::default();
    limits.intermediate_buffer_size = bytes.len();
    Ok(Decoder::new(Cursor::new(bytes))?.with_limits(limits))
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let explain = |error| explain(error, bytes);
    let mut file = open(Cow::Borrowed(bytes)).map_err(explain)?;
    check_layout(&mut file, bytes)?;
    let (width, height) = file.dimensions().map_err(explain)?;
    Ok(Header {
        format: Format::Tiff,
        width,
        height,
        colour: colour(&mut file).map_err(explain)?,
    })
}

fn colour(file: &mut File) -> Result<Colour, TiffError> {
    let photometric = file.find_tag_unsigned(Tag::PhotometricInterpretation)?;
    if photometric == Some(PhotometricInterpretation::RGBPalette.to_u16()) {
        return Ok(Colour::Palette);
    }
    match file.colortype()? {
        ColorType::Gray(_) => Ok(Colour::Grey),
        ColorType::Multiband { num_samples: 2, .. } => Ok(Colour::GreyAlpha),
        ColorType::RGB(_) => Ok(Colour::Rgb),
        ColorType::RGBA(_) => Ok(Colour::Rgba),
        ColorType::CMYK(_) | ColorType::CMYKA(_) => Ok(Colour::Cmyk),
        other => Err(tiff::TiffUnsupportedError::UnsupportedColorType(other).into()),
    }
}

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let explain = |error| explain(error, bytes);
    let mut file = open(Cow::Borrowed(bytes)).map_err(explain)?;
    check_extent(&mut file, bytes)?;
    let mut palette = Vec::new();
    if header.colour == Colour::Palette {
        palette = file.get_tag_u16_vec(Tag::ColorMap).map_err(explain)?;
        file = open(Cow::Owned(without_palette(&mut file, bytes))).map_err(explain)?;
    }
    let stored = file.colortype().map_err(explain)?;
    let layout = file.image_buffer_layout().map_err(explain)?;
    let depth = usize::from(stored.bit_depth());
    if layout.sample_format != SampleFormat::Uint || !matches!(depth, 1 | 2 | 4 | 8 | 16) {
        return Err(ImageError::unsupported(format!(
            "a TIFF with {:?} samples of {depth} bits",
            layout.sample_format
        )));
    }
    if file.dimensions().map_err(explain)? != (header.width, header.height) {
        return Err(ImageError::damaged("the header changed", 0));
    }
    reset(rgb, byte_size(header, 3)?);
    reset(raw, layout.complete_len);
    file.read_image_bytes(raw).map_err(explain)?;

    let row_bytes = layout.row_stride.map_or(0, usize::from);
    let plane_bytes = layout.plane_stride.map_or(0, usize::from);
    let channels = usize::from(stored.num_samples());
    let width = header.width as usize;
    let mut samples = vec![0; width * channels];
    for (y, to) in rgb.chunks_exact_mut(width * 3).enumerate() {
        for plane in 0..layout.planes {
            let row = &raw[plane * plane_bytes + y * row_bytes..][..row_bytes];
            let targets = samples.iter_mut().skip(plane).step_by(layout.planes);
            unpack(row, depth, header.colour == Colour::Palette, targets);
        }
        let (to, _) = to.as_chunks_mut();
        for (to, from) in to.iter_mut().zip(samples.chunks_exact(channels)) {
            *to = match (header.colour, from) {
                (Colour::Palette, &[index, ..]) => colour_of(&palette, depth, index)?,
                (Colour::Cmyk, &[cyan, magenta, yellow, black, ..]) => {
                    [cyan, magenta, yellow].map(|ink| paint(ink, black))
                }
                (_, &[red, green, blue, ..]) => [red, green, blue],
                (_, from) => [from[0]; 3],
            };
        }
    }
    Ok(())
}

/// Unpacks the samples of a row to 8 bits: the upper 8 of 16 bits; fewer than 8 bits are scaled to the
/// full range, except palette indices.
fn unpack<'a>(row: &[u8], depth: usize, indices: bool, samples: impl Iterator<Item = &'a mut u8>) {
    let max = u8::MAX >> (8 - depth.min(8));
    let scale = if indices { 1 } else { u8::MAX / max };
    for (index, sample) in samples.enumerate() {
        *sample = match depth {
            16 => (u16::from_ne_bytes([row[2 * index], row[2 * index + 1]]) >> 8) as u8,
            8 => row[index],
            _ => {
                let bit = index * depth;
                scale * ((row[bit / 8] >> (8 - depth - bit % 8)) & max)
            }
        };
    }
}

/// Checks [`MAX_SAMPLES`] and [`MAX_TILE_SIDE`].
fn check_layout(file: &mut File, bytes: &[u8]) -> Result<(), ImageError> {
    let mut number = |tag| {
        let number = file.find_tag_unsigned::<u32>(tag);
        Ok(number.map_err(|error| explain(error, bytes))?.unwrap_or(1))
    };
    let samples = number(Tag::SamplesPerPixel)?;
    if samples > MAX_SAMPLES {
        return Err(ImageError::unsupported(format!(
            "a TIFF with {samples} samples per pixel"
        )));
    }
    let (width, length) = (number(Tag::TileWidth)?, number(Tag::TileLength)?);
    if width.max(length) > MAX_TILE_SIDE {
        return Err(ImageError::unsupported(format!(
            "a TIFF with tiles of {width}x{length}"
        )));
    }
    Ok(())
}

/// Checks that all strips or tiles are within the file.
fn check_extent(file: &mut File, bytes: &[u8]) -> Result<(), ImageError> {
    let explain = |error| explain(error, bytes);
    let mut list = |tag| file.find_tag_unsigned_vec::<u64>(tag).map_err(explain);
    for (offsets, lengths) in [
        (Tag::StripOffsets, Tag::StripByteCounts),
        (Tag::TileOffsets, Tag::TileByteCounts),
    ] {
        let ends = list(offsets)?.unwrap_or_default().into_iter();
        let mut ends = ends.zip(list(lengths)?.unwrap_or_default());
        if ends.any(|(offset, length)| offset.saturating_add(length) > bytes.len() as u64) {
            return Err(ImageError::truncated(
                "a strip or tile of the TIFF is missing",
                bytes.len(),
            ));
        }
    }
    Ok(())
}

/// A copy of the file that declares palette indices as grey values, which the library can unpack; it
/// refuses palettes.
fn without_palette(file: &mut File, bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    let little = file.byte_order() == ByteOrder::LittleEndian;
    let number = |bytes: [u8; 2]| {
        if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        }
    };
    // The image file directory: a count, then entries of tag, type, count and value.
    let big = bytes
        .get(2..4)
        .is_some_and(|version| version.contains(&b'+'));
    let (count, entry, value) = if big { (8, 20, 12) } else { (2, 12, 8) };
    let start = file.ifd_pointer().map_or(0, |pointer| pointer.0 as usize);
    let entries = copy
        .get_mut(start.saturating_add(count)..)
        .unwrap_or_default();
    let photometric = entries
        .chunks_exact_mut(entry)
        .find(|entry| number([entry[0], entry[1]]) == Tag::PhotometricInterpretation.to_u16());
    if let Some(entry) = photometric {
        let grey = PhotometricInterpretation::BlackIsZero.to_u16();
        let grey = if little {
            grey.to_le_bytes()
        } else {
            grey.to_be_bytes()
        };
        entry[value..value + 2].copy_from_slice(&grey);
    }
    copy
}

/// Looks up a colour. A palette holds all red values, then green, then blue, 16 bits each.
fn colour_of(palette: &[u16], depth: usize, index: u8) -> Result<[u8; 3], ImageError> {
    let part = |part: usize| palette.get((part << depth) + usize::from(index));
    match [part(0), part(1), part(2)] {
        [Some(red), Some(green), Some(blue)] => {
            Ok([red, green, blue].map(|value| (value >> 8) as u8))
        }
        _ => Err(ImageError::Damaged {
            reason: format!("the palette of the TIFF has no colour {index}"),
            offset: None,
        }),
    }
}

/// Pillow's conversion of CMYK to RGB: `(1 - black) * (1 - ink)` in 8-bit arithmetic.
fn paint(ink: u8, black: u8) -> u8 {
    let left = u32::from(u8::MAX - black);
    (left - (u32::from(ink) * left + 127) / 255) as u8
}

fn explain(error: TiffError, bytes: &[u8]) -> ImageError {
    match error {
        TiffError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ImageError::truncated("the TIFF is incomplete", bytes.len())
        }
        TiffError::UnsupportedError(error) => ImageError::unsupported(format!("a TIFF: {error}")),
        TiffError::LimitsExceeded => {
            ImageError::unsupported("a TIFF that needs too much memory to decode")
        }
        other => ImageError::Damaged {
            reason: other.to_string(),
            offset: None,
        },
    }
}
