//! BMP: Windows' headers from version 2 on and OS/2's, plain, with bit fields or run lengths.

use super::claim::too_short;
use super::{Colour, Format, Header, ImageError, byte_size, damaged, reset};

/// Bytes of the file header; the bitmap header follows.
const FILE_HEADER: usize = 14;

/// The fields before the pixels.
struct Fields<'a> {
    width: u32,
    height: u32,
    top_down: bool,
    bits: usize,
    coding: Coding,
    /// Blue, green, red, and an unused byte unless the header is OS/2's.
    palette: &'a [u8],
    colour_bytes: usize,
    /// The offset of the pixels.
    start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Palette,
    Rle4,
    Rle8,
    /// Bits of red, green, blue and alpha.
    Masks([u32; 4]),
}

/// Reads little-endian fields.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number<const N: usize>(&self, offset: usize) -> Result<u32, ImageError> {
        let cut = || ImageError::truncated("the BMP header is incomplete", self.0.len());
        let field = self.0.get(offset..offset + N).ok_or_else(cut)?;
        let join = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Ok(field.iter().rev().fold(0, join))
    }

    fn u16(&self, offset: usize) -> Result<u32, ImageError> {
        self.number::<2>(offset)
    }

    fn u32(&self, offset: usize) -> Result<u32, ImageError> {
        self.number::<4>(offset)
    }
}

fn fields(bytes: &[u8]) -> Result<Fields<'_>, ImageError> {
    let file = Reader(bytes);
    let mut start = file.u32(10)? as usize;
    let length = file.u32(FILE_HEADER)? as usize;
    let end = FILE_HEADER.saturating_add(length);
    let info = Reader(&bytes[FILE_HEADER.min(bytes.len())..end.min(bytes.len())]);
    let (width, height, top_down, bits, compression, used) = match length {
        12 => (info.u16(4)?, info.u16(6)?, false, info.u16(10)?, 0, 0),
        40 | 52 | 56 | 64 | 108 | 124 => {
            let height = info.u32(8)?;
            // Pillow's test of the sign.
            let top_down = height >> 24 == 0xff;
            let height = if top_down {
                height.wrapping_neg()
            } else {
                height
            };
            let (bits, compression) = (info.u16(14)?, info.u32(16)?);
            (
                info.u32(4)?,
                height,
                top_down,
                bits,
                compression,
                info.u32(32)?,
            )
        }
        _ => {
            return Err(ImageError::unsupported(format!(
                "a BMP with a header of {length} bytes"
            )));
        }
    };
    let mut after = end;
    let coding = match (compression, bits) {
        (0, 1 | 4 | 8) => Coding::Palette,
        (1, 8) => Coding::Rle8,
        (2, 4) => Coding::Rle4,
        (0, 16) => Coding::Masks([0x7c00, 0x3e0, 0x1f, 0]),
        (0, 24 | 32) => Coding::Masks([0xff_0000, 0xff00, 0xff, 0]),
        (3, 16 | 24 | 32) if length != 64 => {
            let at = FILE_HEADER + 40;
            let alpha = if length >= 56 { file.u32(at + 12)? } else { 0 };
            if length == 40 {
                after += 12;
            }
            let masks = [file.u32(at)?, file.u32(at + 4)?, file.u32(at + 8)?, alpha];
            if !masks.iter().all(|&mask| is_mask(mask, bits)) {
                return Err(damaged("the BMP has invalid bit masks"));
            }
            match (masks, bits) {
                ([0, 0, 0, 0], 24 | 32) => Coding::Masks([0xff_0000, 0xff00, 0xff, 0]),
                ([0, 0, 0, 0], _) => return Err(damaged("the BMP has no bit masks")),
                _ => Coding::Masks(masks),
            }
        }
        (0..=3, _) => {
            return Err(ImageError::unsupported(format!(
                "a BMP with {bits} bits per pixel and compression {compression}"
            )));
        }
        (4, _) => return Err(ImageError::unsupported("a BMP with JPEG compression")),
        (5, _) => return Err(ImageError::unsupported("a BMP with PNG compression")),
        _ => {
            return Err(ImageError::unsupported(format!(
                "a BMP with compression {compression}"
            )));
        }
    };
    let colour_bytes = if length == 12 { 3 } else { 4 };
    let mut palette: &[u8] = &[];
    if bits <= 8 {
        let colours = if used == 0 { 1 << bits } else { used as usize };
        let length = colours.saturating_mul(colour_bytes);
        // Some writers count no palette in the offset.
        if start == end {
            start = start.saturating_add(length);
        }
        palette = bytes.get(after..).unwrap_or_default();
        palette = &palette[..length.min(palette.len())];
        after = after.saturating_add(length);
    }
    Ok(Fields {
        width,
        height,
        top_down,
        bits: bits as usize,
        coding,
        palette,
        colour_bytes,
        start: if start == 0 { after } else { start },
    })
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let fields = fields(bytes)?;
    Ok(Header {
        format: Format::Bmp,
        width: fields.width,
        height: fields.height,
        colour: match fields.coding {
            Coding::Palette | Coding::Rle4 | Coding::Rle8 => Colour::Palette,
            Coding::Masks([_, _, _, 0]) => Colour::Rgb,
            Coding::Masks(_) => Colour::Rgba,
        },
    })
}

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let fields = fields(bytes)?;
    let (width, height) = (header.width as usize, header.height as usize);
    if (fields.width, fields.height) != (header.width, header.height) {
        return Err(damaged("the header changed"));
    }
    let data = bytes.get(fields.start..).unwrap_or_default();
    // Rows are padded to four bytes.
    let row_bytes = width
        .saturating_mul(fields.bits)
        .div_ceil(32)
        .saturating_mul(4);
    let runs = matches!(fields.coding, Coding::Rle4 | Coding::Rle8);
    let fits = if runs {
        // Two bytes are a run of up to 255 pixels, four skip up to 255 rows.
        (data.len() / 2)
            .saturating_mul(255)
            .saturating_mul(1 + width / 2)
            >= width * height
    } else {
        row_bytes.saturating_mul(height) <= data.len()
    };
    if !fits {
        return Err(too_short(bytes.len(), header));
    }
    reset(rgb, byte_size(header, 3)?)?;
    let colours = colours(&fields);
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    let mut rows = pixels.chunks_exact_mut(width).enumerate();
    if runs {
        reset(raw, byte_size(header, 1)?)?;
        unpack_runs(bytes, &fields, raw)?;
        for ((_, to), from) in ordered(&mut rows, fields.top_down).zip(raw.chunks_exact(width)) {
            let pairs = to.iter_mut().zip(from);
            pairs.for_each(|(to, &index)| *to = colours[usize::from(index)]);
        }
        return Ok(());
    }
    for ((_, to), from) in ordered(&mut rows, fields.top_down).zip(data.chunks_exact(row_bytes)) {
        match fields.coding {
            Coding::Masks([0xff_0000, 0xff00, 0xff, _]) => {
                let pixels = from.chunks_exact(fields.bits / 8);
                let pairs = to.iter_mut().zip(pixels);
                pairs.for_each(|(to, from)| *to = [from[2], from[1], from[0]]);
            }
            Coding::Masks(masks) => {
                for (to, from) in to.iter_mut().zip(from.chunks_exact(fields.bits / 8)) {
                    let join = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
                    let pixel = from.iter().rev().fold(0, join);
                    *to = [masks[0], masks[1], masks[2]].map(|mask| masked(pixel, mask));
                }
            }
            _ => {
                for (x, to) in to.iter_mut().enumerate() {
                    let bit = x * fields.bits;
                    let index = from[bit / 8] >> (8 - fields.bits - bit % 8);
                    *to = colours[usize::from(index & (0xff >> (8 - fields.bits)))];
                }
            }
        }
    }
    Ok(())
}

/// Rows as they are stored: from the bottom unless `top_down`.
fn ordered<'a, T>(
    rows: &'a mut (impl DoubleEndedIterator<Item = T> + ExactSizeIterator),
    top_down: bool,
) -> impl Iterator<Item = T> + 'a {
    std::iter::from_fn(move || {
        if top_down {
            rows.next()
        } else {
            rows.next_back()
        }
    })
}

/// Whether the bits of a mask are consecutive and within a pixel of `bits` bits.
fn is_mask(mask: u32, bits: u32) -> bool {
    let ones = mask >> mask.trailing_zeros().min(31);
    ones & ones.wrapping_add(1) == 0 && u64::from(mask) >> bits == 0
}

/// The channel of a pixel, rounded down to 8 bits as by Pillow.
fn masked(pixel: u32, mask: u32) -> u8 {
    let shift = mask.trailing_zeros().min(31);
    let (value, max) = (u64::from((pixel & mask) >> shift), u64::from(mask >> shift));
    (value * 255 / max.max(1)) as u8
}

/// All 256 indices; one beyond the palette is a level of grey, as in Pillow.
fn colours(fields: &Fields) -> [[u8; 3]; 256] {
    std::array::from_fn(|index| {
        let start = index * fields.colour_bytes;
        match fields.palette.get(start..start + 3) {
            Some(colour) => [colour[2], colour[1], colour[0]],
            None => [index as u8; 3],
        }
    })
}

/// Expands run lengths to the indices of all pixels, in the order of the file. Skipped pixels have index 0.
fn unpack_runs(bytes: &[u8], fields: &Fields, to: &mut [u8]) -> Result<(), ImageError> {
    let cut = || ImageError::truncated("the runs of the BMP end early", bytes.len());
    let width = fields.width as usize;
    let four = fields.coding == Coding::Rle4;
    let nibble = |byte: u8, index: usize| {
        if index.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 15
        }
    };
    let (mut from, mut at) = (fields.start, 0);
    while at < to.len() {
        let code = bytes.get(from..from + 2).ok_or_else(cut)?;
        from += 2;
        match (code[0], code[1]) {
            // The end of a row.
            (0, 0) => at = at.next_multiple_of(width),
            // The end of the bitmap.
            (0, 1) => return Err(cut()),
            // To the right and up.
            (0, 2) => {
                let skip = bytes.get(from..from + 2).ok_or_else(cut)?;
                from += 2;
                at = at.saturating_add(usize::from(skip[0]) + usize::from(skip[1]) * width);
            }
            // Indices, padded to an even number of bytes.
            (0, count) => {
                let count = usize::from(count).min(to.len() - at);
                let length = if four { count.div_ceil(2) } else { count };
                let data = bytes.get(from..from + length).ok_or_else(cut)?;
                for (index, to) in to[at..at + count].iter_mut().enumerate() {
                    *to = if four {
                        nibble(data[index / 2], index)
                    } else {
                        data[index]
                    };
                }
                at += count;
                from = (from + length).next_multiple_of(2);
            }
            // A run ends with its row.
            (count, value) => {
                let count = usize::from(count).min(width - at % width);
                for (index, to) in to[at..at + count].iter_mut().enumerate() {
                    *to = if four { nibble(value, index) } else { value };
                }
                at += count;
            }
        }
    }
    // The end of the last row and of the bitmap, which a cut file lacks.
    if bytes.get(from..from + 2).ok_or_else(cut)? == [0, 0] {
        bytes.get(from + 2..from + 4).ok_or_else(cut)?;
    }
    Ok(())
}
