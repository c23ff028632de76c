//! PNG, with the `png` crate.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Transformations};

use super::{Colour, Format, Header, ImageError, byte_size, damaged, probe, reset, to_rgb};

/// Limit of the library's memory besides the pixels: rows, and chunks that it keeps.
const LIBRARY_BYTES: usize = 256 << 20;

/// A bound on the library's buffer of expanded data.
const WINDOW_BYTES: usize = 1 << 20;

fn decoder(bytes: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut options = DecodeOptions::default();
    // Verify the checksum of the pixels. (By default only those of the chunks are verified.)
    options.set_ignore_adler32(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits {
        bytes: LIBRARY_BYTES,
    });
    decoder
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut decoder = decoder(bytes);
    let info = decoder
        .read_header_info()
        .map_err(|error| explain(error, bytes))?;
    Ok(Header {
        format: Format::Png,
        width: info.width,
        height: info.height,
        colour: match info.color_type {
            ColorType::Grayscale => Colour::Grey,
            ColorType::GrayscaleAlpha => Colour::GreyAlpha,
            ColorType::Indexed => Colour::Palette,
            ColorType::Rgb => Colour::Rgb,
            ColorType::Rgba => Colour::Rgba,
        },
    })
}

/// The bytes of a row's samples, rounded down.
fn row_bytes(bytes: &[u8], header: &Header) -> u64 {
    let depth = bytes.get(24).copied().map_or(1, u64::from);
    let channels = match header.colour {
        Colour::Grey | Colour::Palette => 1,
        Colour::GreyAlpha => 2,
        Colour::Rgb | Colour::Cmyk => 3,
        Colour::Rgba => 4,
    };
    u64::from(header.width) * depth * channels / 8
}

/// The least number of bytes of the uncompressed image data.
pub(super) fn data_bytes(bytes: &[u8], header: &Header) -> u64 {
    row_bytes(bytes, header).saturating_mul(u64::from(header.height))
}

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let explain = |error| explain(error, bytes);
    // The library keeps two rows and a window.
    let rows = usize::try_from(2 * row_bytes(bytes, header)).unwrap_or(usize::MAX);
    probe(rows.saturating_add(WINDOW_BYTES).min(LIBRARY_BYTES))?;
    let mut decoder = decoder(bytes);
    // Expand palettes and 1, 2 and 4 bits to 8; keep the upper 8 of 16 bits, as Pillow.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(explain)?;
    // The library panics on a palette of any other length.
    let palette = reader.info().palette.as_deref().unwrap_or_default();
    if !palette.len().is_multiple_of(3) || palette.len() > 3 * 256 {
        return Err(damaged(format!(
            "the palette has {} bytes, expected 3 for each of up to 256 colours",
            palette.len()
        )));
    }
    let (colour, depth) = reader.output_color_type();
    let (width, height) = (reader.info().width, reader.info().height);
    if depth != BitDepth::Eight || (width, height) != (header.width, header.height) {
        return Err(ImageError::damaged("the header changed", 8));
    }
    let channels = colour.samples();
    reset(rgb, byte_size(header, 3)?)?;
    if colour == ColorType::Rgb {
        reader.next_frame(rgb).map_err(explain)?;
    } else {
        reset(raw, byte_size(header, channels)?)?;
        reader.next_frame(raw).map_err(explain)?;
        to_rgb(raw, channels, rgb);
    }
    // Read to the last chunk, so that truncation after the pixels is an error too.
    reader.finish().map_err(explain)
}

fn explain(error: DecodingError, bytes: &[u8]) -> ImageError {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::truncated("the PNG stream is incomplete", bytes.len())
        }
        DecodingError::LimitsExceeded => {
            ImageError::unsupported("a PNG that needs too much memory to decode")
        }
        other => damaged(other.to_string()),
    }
}
