//! Decodes the remaining kinds of JPEG with the library `zune-jpeg`: progressive, four components,
//! several scans, rare sampling factors.
//!
//! The library continues where the entropy-coded data is truncated or out of sync (zero bits, grey
//! rows), even in its strict mode. So [`Checker`] first verifies that the data holds exactly the blocks
//! of the image. The few kinds of file that the library decodes wrongly are refused ([`misread`]).

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::check::{Checked, Checker};
use super::colour::ycbcr_to_rgb;
use super::segments::Encoding;
use crate::pixels::{Colour, Header, ImageError, byte_size, reset};

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    checker: &mut Checker,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let checked = checker.check(bytes)?;
    if let Some(reason) = misread(&checked) {
        return Err(ImageError::unsupported(reason));
    }
    let encoding = checked.encoding;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(explain)?;
    let size = (header.width as usize, header.height as usize);
    if decoder.dimensions() != Some(size) {
        return Err(ImageError::damaged("the JPEG header changed", 0));
    }

    // The library derives the colour space from the Adobe segment alone, where libjpeg has more
    // rules, and converts four components to RGB in its own way. Where the two differ, take the
    // components as they are stored and convert them here.
    let seen = match decoder.input_colorspace() {
        // What the library calls "Adobe, transform 0" before it knows the number of components.
        Some(ColorSpace::CMYK) if header.colour == Colour::Rgb => Some(ColorSpace::RGB),
        Some(ColorSpace::YCCK) if header.colour == Colour::Rgb => Some(ColorSpace::YCbCr),
        other => other,
    };
    let (stored, convert) = match (encoding, seen) {
        (Encoding::Grey, Some(ColorSpace::Luma))
        | (Encoding::Rgb, Some(ColorSpace::RGB))
        | (Encoding::YCbCr, Some(ColorSpace::YCbCr)) => (ColorSpace::RGB, false),
        (Encoding::Rgb, Some(ColorSpace::YCbCr)) => (ColorSpace::YCbCr, false),
        (Encoding::YCbCr, Some(ColorSpace::RGB)) => (ColorSpace::RGB, true),
        (Encoding::Cmyk | Encoding::Ycck, Some(four @ (ColorSpace::CMYK | ColorSpace::YCCK))) => {
            (four, true)
        }
        _ => {
            return Err(ImageError::unsupported(format!(
                "a JPEG with {encoding:?} components that are marked as {seen:?}"
            )));
        }
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(stored));

    reset(rgb, byte_size(header, 3)?);
    if header.colour != Colour::Cmyk {
        decoder.decode_into(rgb).map_err(explain)?;
        if convert {
            for pixel in rgb.as_chunks_mut::<3>().0 {
                *pixel = ycbcr_to_rgb(*pixel);
            }
        }
        return Ok(());
    }
    reset(raw, byte_size(header, 4)?);
    decoder.decode_into(raw).map_err(explain)?;
    for (to, &[a, b, c, black]) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(raw.as_chunks().0) {
        let inks = if encoding == Encoding::Ycck {
            ycbcr_to_rgb([a, b, c]).map(|value| 255 - value)
        } else {
            [a, b, c]
        };
        *to = inks_to_rgb(inks, black);
    }
    Ok(())
}

/// Valid and very rare kinds of JPEG that zune-jpeg cannot decode, or decodes wrongly without an error.
fn misread(checked: &Checked) -> Option<&'static str> {
    let frame = &checked.frame;
    let max = frame.max_sampling_factors();
    if frame.components.len() == 1 {
        return None;
    }
    if max.0 == 3 || max.1 == 3 {
        return Some("a JPEG with a sampling factor of 3");
    }
    if frame.components[0].sampling != max {
        return Some("a JPEG whose first component is subsampled");
    }
    (checked.separate_scans && !frame.progressive && max.1 > 1)
        .then_some("a sequential JPEG with vertical subsampling and one scan per component")
}

/// Pillow's conversion of CMYK to RGB: stored values are inverted (as Adobe writes them, with or without
/// its marker), and each channel is `black * (1 - ink)` in 8-bit arithmetic.
fn inks_to_rgb(stored: [u8; 3], stored_black: u8) -> [u8; 3] {
    let left = u32::from(stored_black);
    stored.map(|value| {
        let product = (255 - u32::from(value)) * left + 128;
        let share = ((product >> 8) + product) >> 8;
        left.saturating_sub(share) as u8
    })
}

fn explain(error: DecodeErrors) -> ImageError {
    match error {
        DecodeErrors::Unsupported(scheme) => ImageError::unsupported(format!("a JPEG: {scheme:?}")),
        other => ImageError::Damaged {
            reason: other.to_string(),
            offset: None,
        },
    }
}
