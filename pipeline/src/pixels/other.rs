//! BMP, WebP and Netpbm, with the `image` crate.

use std::io::{Cursor, ErrorKind};

use image::codecs::bmp::BmpDecoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder};

use super::{Colour, Format, Header, ImageError, byte_size, reset, to_rgb, webp};

/// Opens the library's decoder, which reads the header.
fn open(bytes: &[u8], format: Format) -> Result<(Box<dyn ImageDecoder + '_>, Colour), ImageError> {
    let explain = |error| explain(error, bytes);
    let file = Cursor::new(bytes);
    let decoder: Box<dyn ImageDecoder> = match format {
        Format::Bmp => {
            let decoder = BmpDecoder::new(file).map_err(explain)?;
            if decoder.get_palette().is_some() {
                return Ok((Box::new(decoder), Colour::Palette));
            }
            Box::new(decoder)
        }
        Format::WebP => {
            let container = Cursor::new(webp::container(bytes)?);
            Box::new(WebPDecoder::new(container).map_err(explain)?)
        }
        _ => Box::new(PnmDecoder::new(file).map_err(explain)?),
    };
    let colour = match decoder.color_type() {
        ColorType::L8 | ColorType::L16 => Colour::Grey,
        ColorType::Rgba8 => Colour::Rgba,
        _ => Colour::Rgb,
    };
    Ok((decoder, colour))
}

pub(super) fn header(bytes: &[u8], format: Format) -> Result<Header, ImageError> {
    let (decoder, colour) = open(bytes, format)?;
    let (width, height) = decoder.dimensions();
    Ok(Header {
        format,
        width,
        height,
        colour,
    })
}

/// Decodes the whole image into `rgb`.
///
/// Truncation is detected except in Netpbm's plain text, where the last number may lose digits.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let explain = |error| explain(error, bytes);
    if header.format == Format::WebP {
        webp::check(webp::container(bytes)?, header)?;
    }
    let (decoder, _) = open(bytes, header.format)?;
    if decoder.dimensions() != (header.width, header.height) {
        return Err(ImageError::damaged("the header changed", 0));
    }
    reset(rgb, byte_size(header, 3)?);
    let stored = decoder.color_type();
    if stored == ColorType::Rgb8 {
        return decoder.read_image_boxed(rgb).map_err(explain);
    }
    let channels = usize::from(stored.channel_count());
    let depth = usize::from(stored.bytes_per_pixel()) / channels;
    reset(raw, byte_size(header, channels * depth)?);
    decoder.read_image_boxed(raw).map_err(explain)?;
    match depth {
        1 => {}
        2 => upper_bytes(raw),
        _ => return Err(ImageError::unsupported(format!("{stored:?} pixels"))),
    }
    to_rgb(raw, channels, rgb);
    Ok(())
}

/// Converts native-endian 16-bit samples to their upper 8 bits, in place.
fn upper_bytes(samples: &mut [u8]) {
    for index in 0..samples.len() / 2 {
        let sample = u16::from_ne_bytes([samples[2 * index], samples[2 * index + 1]]);
        samples[index] = (sample >> 8) as u8;
    }
}

fn explain(error: image::ImageError, bytes: &[u8]) -> ImageError {
    match error {
        image::ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ImageError::truncated("the pixels are incomplete", bytes.len())
        }
        image::ImageError::Unsupported(error) => ImageError::unsupported(error.to_string()),
        other => ImageError::Damaged {
            reason: other.to_string(),
            offset: None,
        },
    }
}
