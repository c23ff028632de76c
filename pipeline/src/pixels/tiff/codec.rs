//! The compressions of a TIFF's strips and tiles, by libraries but for PackBits.

use std::io::Read as _;

use super::super::{ImageError, damaged};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    /// CCITT T.6.
    Group4,
}

impl Compression {
    /// # Errors
    /// A compression that is not supported. JPEG is not, because damage in it would not be detected.
    pub(super) fn from_tag(number: u64) -> Result<Self, ImageError> {
        let name = match number {
            1 => return Ok(Self::None),
            4 => return Ok(Self::Group4),
            5 => return Ok(Self::Lzw),
            8 | 32946 => return Ok(Self::Deflate),
            32773 => return Ok(Self::PackBits),
            2 => "CCITT run-length",
            3 => "CCITT Group 3",
            6 | 7 => "JPEG",
            34925 => "LZMA",
            34712 => "JPEG 2000",
            50000 => "Zstandard",
            50001 => "WebP",
            _ => "",
        };
        Err(ImageError::unsupported(if name.is_empty() {
            format!("a TIFF with compression {number}")
        } else {
            format!("a TIFF with {name} compression")
        }))
    }

    /// The largest number of bytes that a byte of a strip expands to.
    pub(super) fn expansion(self) -> u64 {
        match self {
            Self::None => 1,
            Self::PackBits => 64,
            Self::Deflate => DEFLATE,
            Self::Lzw => LZW,
            // A row takes at least one bit ("as the row above") and has at most 65,535 pixels.
            Self::Group4 => 8 * (u16::MAX as u64).div_ceil(8),
        }
    }
}

/// The largest expansion of deflate: 258 bytes for a length and a distance of one bit each.
pub(in crate::pixels) const DEFLATE: u64 = 1032;

/// The largest expansion of LZW: a code of 12 bits is one of 4096 sequences, each one longer than another.
pub(in crate::pixels) const LZW: u64 = 2731;

/// Expands a strip or tile of rows of `width` bits into `to`, which it has to fill. More data than that is
/// passed over, as by libtiff.
pub(super) fn expand(
    compression: Compression,
    from: &[u8],
    to: &mut [u8],
    width: usize,
) -> Result<(), ImageError> {
    let filled = match compression {
        Compression::None => {
            let length = from.len().min(to.len());
            to[..length].copy_from_slice(&from[..length]);
            length
        }
        Compression::PackBits => packbits(from, to),
        Compression::Lzw => lzw(from, to)?,
        Compression::Deflate => deflate(from, to)?,
        Compression::Group4 => group4(from, to, width)?,
    };
    if filled < to.len() {
        return Err(damaged(format!(
            "a strip or tile of the TIFF has {filled} bytes of {}",
            to.len()
        )));
    }
    Ok(())
}

/// Returns the number of bytes that were expanded.
fn packbits(mut from: &[u8], to: &mut [u8]) -> usize {
    let mut at = 0;
    while let Some((&head, rest)) = from.split_first() {
        let left = to.len() - at;
        match head {
            0..128 => {
                let length = usize::from(head) + 1;
                let taken = length.min(left).min(rest.len());
                to[at..at + taken].copy_from_slice(&rest[..taken]);
                at += taken;
                from = rest.get(length..).unwrap_or_default();
            }
            128 => from = rest,
            129.. => {
                let Some((&value, rest)) = rest.split_first() else {
                    break;
                };
                let length = (257 - usize::from(head)).min(left);
                to[at..at + length].fill(value);
                at += length;
                from = rest;
            }
        }
        if at == to.len() {
            break;
        }
    }
    at
}

fn lzw(mut from: &[u8], to: &mut [u8]) -> Result<usize, ImageError> {
    // A clear code of nine bits in the other bit order: the LZW of TIFF 5.
    if matches!(from, [0, second, ..] if second & 1 == 1) {
        return Err(ImageError::unsupported("a TIFF with LZW of TIFF 5"));
    }
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    let mut at = 0;
    while at < to.len() {
        let step = decoder.decode_bytes(from, &mut to[at..]);
        from = &from[step.consumed_in..];
        at += step.consumed_out;
        match step.status {
            Ok(weezl::LzwStatus::Ok) => {}
            Ok(weezl::LzwStatus::Done | weezl::LzwStatus::NoProgress) => break,
            Err(_) => return Err(damaged("the LZW data of the TIFF is invalid")),
        }
    }
    Ok(at)
}

fn deflate(from: &[u8], to: &mut [u8]) -> Result<usize, ImageError> {
    let mut decoder = flate2::read::ZlibDecoder::new(from);
    let mut at = 0;
    while at < to.len() {
        match decoder.read(&mut to[at..]) {
            Ok(0) => return Ok(at),
            Ok(read) => at += read,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(at),
            Err(error) => return Err(damaged(format!("the deflate data of the TIFF: {error}"))),
        }
    }
    // Reads on to the checksum, which the library compares; some writers leave it out.
    match decoder.read(&mut [0]) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(damaged(format!("the deflate data of the TIFF: {error}")))
        }
        _ => Ok(at),
    }
}

/// Black is 1, as libtiff has it.
fn group4(from: &[u8], to: &mut [u8], width: usize) -> Result<usize, ImageError> {
    let Ok(pixels) = u16::try_from(width) else {
        return Err(ImageError::unsupported(format!(
            "a TIFF with CCITT Group 4 compression and a width of {width}"
        )));
    };
    let row_bytes = width.div_ceil(8);
    let input = from
        .iter()
        .map(|&byte| Ok::<u8, std::convert::Infallible>(byte));
    let Ok(mut decoder) = fax::decoder::Group4Decoder::new(input, pixels);
    let mut rows = 0;
    for row in to.chunks_exact_mut(row_bytes) {
        match decoder.advance() {
            Ok(fax::decoder::DecodeStatus::Incomplete) => {}
            Ok(fax::decoder::DecodeStatus::End) => break,
            Err(fax::decoder::DecodeError::Unsupported) => {
                return Err(ImageError::unsupported(
                    "a TIFF with an extension of CCITT Group 4",
                ));
            }
            Err(_) => return Err(damaged("the CCITT Group 4 data of the TIFF is invalid")),
        }
        row.fill(0);
        let colours = fax::decoder::pels(decoder.transition(), pixels);
        for (x, colour) in colours.enumerate() {
            if colour == fax::Color::Black {
                row[x / 8] |= 0x80 >> (x % 8);
            }
        }
        rows += 1;
    }
    Ok(rows * row_bytes)
}
