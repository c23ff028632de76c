//! Netpbm: PBM, PGM and PPM, binary and plain text.

use super::claim::too_short;
use super::{Colour, Format, Header, ImageError, byte_size, reset};

/// Pillow's limit on the digits of a number.
const MAX_DIGITS: usize = 10;

/// The fields before the pixels.
struct Fields {
    width: u32,
    height: u32,
    /// The value of white; 1 for bitmaps, where 1 is black.
    max: u32,
    channels: usize,
    bitmap: bool,
    plain: bool,
    /// The offset of the pixels.
    start: usize,
}

fn fields(bytes: &[u8]) -> Result<Fields, ImageError> {
    let kind = bytes.get(1).copied().unwrap_or_default();
    let mut text = Text { bytes, at: 2 };
    let mut number = |what: &str| text.header_number(what);
    let bitmap = matches!(kind, b'1' | b'4');
    let (width, height) = (number("width")?, number("height")?);
    let max = if bitmap { 1 } else { number("maximum")? };
    if !(1..=65_535).contains(&max) {
        return Err(ImageError::damaged(
            format!("the maximum in the Netpbm header is {max}, it must be 1 to 65535"),
            text.at,
        ));
    }
    Ok(Fields {
        width,
        height,
        max,
        channels: if matches!(kind, b'3' | b'6') { 3 } else { 1 },
        bitmap,
        plain: kind <= b'3',
        start: text.at,
    })
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let fields = fields(bytes)?;
    Ok(Header {
        format: Format::Netpbm,
        width: fields.width,
        height: fields.height,
        colour: if fields.channels == 3 {
            Colour::Rgb
        } else {
            Colour::Grey
        },
    })
}

/// Decodes the whole image into `rgb`.
///
/// Truncation is detected except in plain text, where the last number may lose digits.
pub(super) fn decode(bytes: &[u8], header: &Header, rgb: &mut Vec<u8>) -> Result<(), ImageError> {
    let fields = fields(bytes)?;
    let pixels = byte_size(header, 1)?;
    let samples = byte_size(header, fields.channels)?;
    let width = header.width as usize;
    let sample_bytes = if fields.max > 255 { 2 } else { 1 };
    let least = match (fields.plain, fields.bitmap) {
        // A digit, and white space between two numbers.
        (true, false) => 2 * samples - 1,
        (true, true) => samples,
        (false, true) => width.div_ceil(8).saturating_mul(header.height as usize),
        (false, false) => samples.saturating_mul(sample_bytes),
    };
    let data = bytes.get(fields.start..).unwrap_or_default();
    if data.len() < least {
        return Err(too_short(bytes.len(), header));
    }
    reset(rgb, byte_size(header, 3)?)?;
    let channels = fields.channels;
    let mut set = |index: usize, value: u8| match channels {
        3 => rgb[index] = value,
        _ => rgb[3 * index..][..3].fill(value),
    };
    if fields.plain {
        let mut text = Text {
            bytes,
            at: fields.start,
        };
        for index in 0..samples {
            let value = if fields.bitmap {
                255 * (1 - text.bit()?)
            } else {
                text.sample(&fields)?
            };
            set(index, value);
        }
    } else if fields.bitmap {
        for index in 0..pixels {
            let (x, y) = (index % width, index / width);
            let byte = data[y * width.div_ceil(8) + x / 8];
            set(index, if byte >> (7 - x % 8) & 1 == 1 { 0 } else { 255 });
        }
    } else if fields.max > 255 {
        let (pairs, _) = data.as_chunks();
        for (index, &pair) in pairs[..samples].iter().enumerate() {
            set(index, scale(u16::from_be_bytes(pair).into(), &fields));
        }
    } else {
        let table: [u8; 256] = std::array::from_fn(|value| scale(value as u32, &fields));
        for (index, &value) in data[..samples].iter().enumerate() {
            set(index, table[usize::from(value)]);
        }
    }
    Ok(())
}

/// Scales to 255 as Pillow: rounded half to even, in 64-bit floating point. More than the maximum is white.
/// Grey of more than 8 bits is scaled to 16 bits, of which the upper 8 are kept.
fn scale(value: u32, fields: &Fields) -> u8 {
    let share = f64::from(value) / f64::from(fields.max);
    if fields.max > 255 && fields.channels == 1 {
        ((share * 65_535.0).round_ties_even() as u16 >> 8) as u8
    } else {
        (share * 255.0).round_ties_even() as u8
    }
}

/// Reads numbers in text.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    /// Passes over white space, and comments to the end of their line.
    fn skip_space(&mut self) -> Result<(), ImageError> {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'#' => {
                    let rest = &self.bytes[self.at..];
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    self.at += end.unwrap_or(rest.len());
                }
                _ if is_space(byte) => self.at += 1,
                _ => return Ok(()),
            }
        }
        Err(ImageError::truncated(
            "the Netpbm file ends early",
            self.bytes.len(),
        ))
    }

    fn token(&mut self) -> Result<&[u8], ImageError> {
        self.skip_space()?;
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| is_space(byte) || byte == b'#');
        let token = &rest[..end.unwrap_or(rest.len())];
        self.at += token.len();
        Ok(token)
    }

    fn number(&mut self, what: &str) -> Result<u32, ImageError> {
        let token = self.token()?;
        let digits = std::str::from_utf8(token).ok();
        let digits = digits.filter(|digits| digits.len() <= MAX_DIGITS);
        let number = digits.and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| ImageError::damaged(format!("{what} is no number"), self.at))
    }

    fn header_number(&mut self, what: &str) -> Result<u32, ImageError> {
        let number = self.number(&format!("the {what} in the Netpbm header"))?;
        // A single byte of white space ends the number.
        match self.bytes.get(self.at) {
            Some(&byte) if is_space(byte) => self.at += 1,
            _ => {}
        }
        Ok(number)
    }

    fn sample(&mut self, fields: &Fields) -> Result<u8, ImageError> {
        let value = self.number("a value of the Netpbm file")?;
        if value > fields.max {
            let reason = format!("the value {value} exceeds the maximum {}", fields.max);
            return Err(ImageError::damaged(reason, self.at));
        }
        Ok(scale(value, fields))
    }

    /// A digit of a plain bitmap, which needs no white space.
    fn bit(&mut self) -> Result<u8, ImageError> {
        self.skip_space()?;
        let digit = self.bytes[self.at];
        self.at += 1;
        match digit {
            b'0' | b'1' => Ok(digit - b'0'),
            _ => Err(ImageError::damaged(
                "a bit of the Netpbm file is neither 0 nor 1",
                self.at - 1,
            )),
        }
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}
