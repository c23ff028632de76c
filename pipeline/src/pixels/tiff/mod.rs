//! TIFF. The container is read here, the compressions are those of libraries ([`codec`]).
//!
//! The crate `tiff` is no replacement: it has no palettes, no fill order, no associated alpha, panics on
//! planar tiles, and allocates a tile of any claimed size.

mod codec;
mod directory;

pub(super) use codec::{DEFLATE, LZW};
pub(super) use directory::Directory;

use codec::{Compression, expand};
use directory::Numbers;

use super::claim::too_short;
use super::{Colour, Format, Header, ImageError, byte_size, damaged, reset};

/// The most samples per pixel, as in Pillow.
const MAX_SAMPLES: u64 = 6;

/// The most bytes of a tile outside of the image, which the claimed size of a tile may take.
const MAX_PADDING: usize = 16 << 20;

mod tag {
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS_PER_SAMPLE: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_BYTES: u16 = 279;
    pub(super) const PLANAR: u16 = 284;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLOUR_MAP: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_HEIGHT: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_BYTES: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
}

/// How the pixels are stored.
struct Image<'a> {
    width: usize,
    height: usize,
    compression: Compression,
    photometric: Photometric,
    /// Bits per sample, the same for all.
    bits: usize,
    samples: usize,
    /// Colours are stored multiplied by the first extra sample.
    associated_alpha: bool,
    planar: bool,
    reversed_bits: bool,
    predictor: bool,
    big_endian: bool,
    /// Strips are tiles that are as wide as the image.
    tile: (usize, usize),
    offsets: Numbers<'a>,
    /// Of the compressed data; missing in some files without compression.
    lengths: Option<Numbers<'a>>,
    colour_map: Option<Numbers<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
}

impl Photometric {
    fn from_tag(number: u64) -> Result<Self, ImageError> {
        let name = match number {
            0 => return Ok(Self::WhiteIsZero),
            1 => return Ok(Self::BlackIsZero),
            2 => return Ok(Self::Rgb),
            3 => return Ok(Self::Palette),
            5 => return Ok(Self::Cmyk),
            4 => "a transparency mask",
            6 => "YCbCr colours",
            8..=10 => "L*a*b* colours",
            32803 => "the raw data of a camera",
            34892 => "linear raw data",
            _ => {
                return Err(ImageError::unsupported(format!(
                    "a TIFF with colour space {number}"
                )));
            }
        };
        Err(ImageError::unsupported(format!("a TIFF with {name}")))
    }

    /// The samples of a colour.
    fn channels(self) -> usize {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

fn open(bytes: &[u8]) -> Result<Directory<'_>, ImageError> {
    let cut = || ImageError::truncated("the directory of the TIFF is incomplete", bytes.len());
    let directory = Directory::first(bytes).ok_or_else(cut)?;
    directory.complete.then_some(directory).ok_or_else(cut)
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let directory = open(bytes)?;
    let (width, height) = sides(&directory)?;
    let photometric = Photometric::from_tag(directory.number(tag::PHOTOMETRIC, 0)?)?;
    let samples = samples_per_pixel(&directory)?;
    Ok(Header {
        format: Format::Tiff,
        width,
        height,
        colour: match (photometric, samples) {
            (Photometric::Palette, _) => Colour::Palette,
            (Photometric::Cmyk, _) => Colour::Cmyk,
            (Photometric::Rgb, ..=3) => Colour::Rgb,
            (Photometric::Rgb, _) => Colour::Rgba,
            (_, 1) => Colour::Grey,
            (_, _) => Colour::GreyAlpha,
        },
    })
}

fn sides(directory: &Directory) -> Result<(u32, u32), ImageError> {
    let side = |tag| {
        let side = directory.list(tag)?.and_then(|list| list.get(0));
        let side = side.ok_or_else(|| damaged("the TIFF has no width and height"))?;
        u32::try_from(side).map_err(|_| damaged(format!("a side of the TIFF has {side} pixels")))
    };
    Ok((side(tag::WIDTH)?, side(tag::HEIGHT)?))
}

fn samples_per_pixel(directory: &Directory) -> Result<usize, ImageError> {
    let samples = directory.number(tag::SAMPLES_PER_PIXEL, 1)?;
    match samples {
        0 => Err(damaged("the TIFF has no samples")),
        1..=MAX_SAMPLES => Ok(samples as usize),
        _ => Err(ImageError::unsupported(format!(
            "a TIFF with {samples} samples per pixel"
        ))),
    }
}

impl<'a> Image<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let directory = open(bytes)?;
        let (width, height) = sides(&directory)?;
        let (width, height) = (width as usize, height as usize);
        let samples = samples_per_pixel(&directory)?;
        let compression = Compression::from_tag(directory.number(tag::COMPRESSION, 1)?)?;
        let photometric = Photometric::from_tag(directory.number(tag::PHOTOMETRIC, 0)?)?;
        let bits = bits_per_sample(&directory)?;
        if samples < photometric.channels() {
            return Err(damaged(format!(
                "a {photometric:?} TIFF has {samples} samples per pixel"
            )));
        }
        let first_extra = directory.number(tag::EXTRA_SAMPLES, 0)?;
        let predictor = match directory.number(tag::PREDICTOR, 1)? {
            // Only these two compressions have predictors.
            _ if !matches!(compression, Compression::Lzw | Compression::Deflate) => false,
            1 => false,
            2 if bits == 8 || bits == 16 => true,
            number => {
                return Err(ImageError::unsupported(format!(
                    "a TIFF with predictor {number} of {bits} bits"
                )));
            }
        };
        if compression == Compression::Group4 && (bits, samples) != (1, 1) {
            return Err(damaged(
                "a TIFF with CCITT Group 4 compression is not bilevel",
            ));
        }
        let reversed_bits = directory.number(tag::FILL_ORDER, 1)? == 2;
        let (tile, offsets, lengths) = if let Some(offsets) = directory.list(tag::TILE_OFFSETS)? {
            let tile = (
                directory.number(tag::TILE_WIDTH, 0)?,
                directory.number(tag::TILE_HEIGHT, 0)?,
            );
            (tile, offsets, directory.list(tag::TILE_BYTES)?)
        } else {
            let offsets = directory.list(tag::STRIP_OFFSETS)?;
            let offsets = offsets.ok_or_else(|| damaged("the TIFF has no strips or tiles"))?;
            let rows = directory.number(tag::ROWS_PER_STRIP, height as u64)?;
            let tile = (width as u64, rows.min(height as u64));
            (tile, offsets, directory.list(tag::STRIP_BYTES)?)
        };
        if tile.0 == 0 || tile.1 == 0 {
            return Err(damaged(format!(
                "the TIFF has tiles of {}x{}",
                tile.0, tile.1
            )));
        }
        let side = |side| usize::try_from(side).unwrap_or(usize::MAX);
        Ok(Self {
            width,
            height,
            compression,
            photometric,
            bits,
            samples,
            associated_alpha: first_extra == 1 && samples > photometric.channels(),
            planar: samples > 1 && directory.number(tag::PLANAR, 1)? == 2,
            reversed_bits,
            predictor,
            big_endian: directory.layout().big_endian,
            tile: (side(tile.0), side(tile.1)),
            offsets,
            lengths,
            colour_map: directory.list(tag::COLOUR_MAP)?,
        })
    }

    /// Samples that are stored together.
    fn interleaved(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// The bytes of a row of a tile.
    ///
    /// # Errors
    /// Tiles that are much wider than the image.
    fn tile_row_bytes(&self) -> Result<usize, ImageError> {
        let (width, height) = self.tile;
        let bytes = |width: usize| {
            let samples = width.checked_mul(self.interleaved())?;
            Some(samples.checked_mul(self.bits)?.div_ceil(8))
        };
        let padding = || {
            let row = bytes(width)?.checked_sub(bytes(width.min(self.width))?)?;
            row.checked_mul(height.min(self.height))
        };
        let row = bytes(width).filter(|_| padding().is_some_and(|bytes| bytes <= MAX_PADDING));
        row.ok_or_else(|| {
            ImageError::unsupported(format!(
                "a TIFF of {}x{} pixels with tiles of {width}x{height}",
                self.width, self.height
            ))
        })
    }

    /// The rows of the image in a tile. A tile at the lower edge has more, which are not needed.
    fn rows(&self, top: usize) -> usize {
        self.tile.1.min(self.height - top)
    }

    /// The stored bytes of a tile, of which `length` are expected without compression.
    fn stored(&self, bytes: &'a [u8], index: usize, length: usize) -> Result<&'a [u8], ImageError> {
        let missing =
            || ImageError::truncated("a strip or tile of the TIFF is missing", bytes.len());
        let start = self.offsets.get(index).ok_or_else(missing)?;
        let declared = self.lengths.as_ref().map(|lengths| lengths.get(index));
        let stored = match declared {
            // Some writers do not fill in the lengths, and libtiff corrects them.
            _ if self.compression == Compression::None => {
                declared.flatten().unwrap_or(0).max(length as u64)
            }
            Some(declared) => declared.ok_or_else(missing)?,
            None => {
                return Err(damaged("the TIFF has no lengths of its strips or tiles"));
            }
        };
        let end = start.checked_add(stored).ok_or_else(missing)?;
        let (start, end) = (usize::try_from(start), usize::try_from(end));
        match (start, end) {
            (Ok(start), Ok(end)) => bytes.get(start..end).ok_or_else(missing),
            _ => Err(missing()),
        }
    }
}

/// # Errors
/// Samples that are no unsigned integers of 1 to 16 bits, all the same.
fn bits_per_sample(directory: &Directory) -> Result<usize, ImageError> {
    if let Some(formats) = directory.list(tag::SAMPLE_FORMAT)?
        && let Some(format) = formats.iter().find(|&format| format != 1)
    {
        let name = match format {
            2 => "signed",
            3 => "floating-point",
            5 | 6 => "complex",
            _ => "undefined",
        };
        return Err(ImageError::unsupported(format!(
            "a TIFF with {name} samples"
        )));
    }
    let Some(list) = directory.list(tag::BITS_PER_SAMPLE)? else {
        return Ok(1);
    };
    let bits = list.get(0).unwrap_or(1);
    if list.iter().any(|other| other != bits) {
        return Err(ImageError::unsupported(
            "a TIFF with samples of different sizes",
        ));
    }
    match bits {
        1..=16 => Ok(bits as usize),
        _ => Err(ImageError::unsupported(format!(
            "a TIFF with samples of {bits} bits"
        ))),
    }
}

/// Decodes the whole image into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let image = Image::read(bytes)?;
    if (image.width, image.height) != (header.width as usize, header.height as usize) {
        return Err(damaged("the header changed"));
    }
    let (across, down) = (
        image.width.div_ceil(image.tile.0),
        image.height.div_ceil(image.tile.1),
    );
    let planes = if image.planar { image.samples } else { 1 };
    let row_bytes = image.tile_row_bytes()?;
    // Each row of the image is in one row of tiles.
    let expanded = [row_bytes, image.height, across, planes];
    let expanded = expanded.into_iter().fold(1, usize::saturating_mul) as u64;
    if expanded > (bytes.len() as u64).saturating_mul(image.compression.expansion()) {
        return Err(too_short(bytes.len(), header));
    }
    check_lengths(&image, bytes, (across, down), planes, row_bytes)?;

    // The samples of the whole image if they come plane by plane, or else of a row.
    let samples = if image.planar {
        byte_size(header, image.samples)?
    } else {
        image.width * image.samples
    };
    let tile_bytes = image.tile.1.min(image.height) * row_bytes;
    let reversed_bytes = if image.reversed_bits { bytes.len() } else { 0 };
    let sizes = [samples, tile_bytes, reversed_bytes];
    let length = sizes.into_iter().try_fold(0, usize::checked_add);
    reset(rgb, byte_size(header, 3)?)?;
    reset(raw, length.ok_or_else(|| damaged("the TIFF is too large"))?)?;
    let (samples, rest) = raw.split_at_mut(samples);
    let (tile, reversed) = rest.split_at_mut(tile_bytes);

    for index in 0..planes * across * down {
        let (plane, place) = (index / (across * down), index % (across * down));
        let (left, top) = (place % across * image.tile.0, place / across * image.tile.1);
        let width = image.tile.0.min(image.width - left);
        let tile = &mut tile[..image.rows(top) * row_bytes];
        let mut stored = image.stored(bytes, index, tile.len())?;
        if image.reversed_bits {
            let copy = &mut reversed[..stored.len()];
            let pairs = copy.iter_mut().zip(stored);
            pairs.for_each(|(to, from)| *to = from.reverse_bits());
            stored = copy;
        }
        expand(image.compression, stored, tile, image.tile.0)?;
        for (y, row) in tile.chunks_exact_mut(row_bytes).enumerate() {
            if image.predictor {
                undo_predictor(row, &image);
            }
            let start = (top + y) * image.width + left;
            if image.planar {
                let to = samples[start * image.samples + plane..].iter_mut();
                unpack(row, &image, to.step_by(image.samples).take(width));
            } else {
                let samples = &mut samples[..width * image.samples];
                unpack(row, &image, samples.iter_mut());
                to_rgb(samples, &image, &mut rgb[start * 3..][..width * 3])?;
            }
        }
    }
    if image.planar {
        to_rgb(samples, &image, rgb)?;
    }
    Ok(())
}

/// Checks that the strips or tiles are within the file and can hold the image, before memory is allocated.
fn check_lengths(
    image: &Image,
    bytes: &[u8],
    (across, down): (usize, usize),
    planes: usize,
    row_bytes: usize,
) -> Result<(), ImageError> {
    let tiles = across
        .checked_mul(down)
        .and_then(|tiles| tiles.checked_mul(planes));
    let tiles = tiles.unwrap_or(usize::MAX);
    if image.offsets.len() < tiles {
        return Err(damaged(format!(
            "the TIFF has {} strips or tiles of {tiles}",
            image.offsets.len()
        )));
    }
    for index in 0..tiles {
        let rows = image.rows(index / across % down * image.tile.1);
        let length = rows.saturating_mul(row_bytes);
        let stored = image.stored(bytes, index, length)?;
        let most = (stored.len() as u64).saturating_mul(image.compression.expansion());
        if most < length as u64 {
            return Err(ImageError::truncated(
                format!(
                    "a strip or tile of {} bytes cannot hold {}x{rows} pixels",
                    stored.len(),
                    image.tile.0
                ),
                bytes.len(),
            ));
        }
    }
    Ok(())
}

/// Each sample is stored as the difference to that of the pixel on the left.
fn undo_predictor(row: &mut [u8], image: &Image) {
    let step = image.interleaved();
    if image.bits == 8 {
        for at in step..row.len() {
            row[at] = row[at].wrapping_add(row[at - step]);
        }
        return;
    }
    let flip = |sample: u16| {
        if image.big_endian {
            sample.to_be()
        } else {
            sample.to_le()
        }
    };
    let (row, _) = row.as_chunks_mut::<2>();
    for at in step..row.len() {
        let [left, difference] =
            [row[at - step], row[at]].map(|bytes| flip(u16::from_ne_bytes(bytes)));
        row[at] = flip(left.wrapping_add(difference)).to_ne_bytes();
    }
}

/// Unpacks the samples of a row to 8 bits: the upper 8 of 9 to 16 bits; fewer than 8 bits are scaled to the
/// full range, except palette indices.
fn unpack<'a>(row: &[u8], image: &Image, samples: impl Iterator<Item = &'a mut u8>) {
    let bits = image.bits;
    let max = u32::from(u8::MAX) >> (8 - bits.min(8));
    let indices = image.photometric == Photometric::Palette;
    for (index, sample) in samples.enumerate() {
        *sample = match bits {
            8 => row[index],
            16 => row[2 * index + usize::from(!image.big_endian)],
            _ => {
                let bit = index * bits;
                let byte = |at: usize| u32::from(row.get(at).copied().unwrap_or(0));
                let window = byte(bit / 8) << 16 | byte(bit / 8 + 1) << 8 | byte(bit / 8 + 2);
                let value = window >> (24 - bits - bit % 8) & ((1 << bits) - 1);
                let value = match bits {
                    9.. => value >> (bits - 8),
                    _ if indices => value,
                    // Exact for 1, 2 and 4 bits.
                    _ => (value * 255 + max / 2) / max,
                };
                value as u8
            }
        };
    }
}

/// Converts the samples of all pixels, 8 bits each.
fn to_rgb(samples: &[u8], image: &Image, rgb: &mut [u8]) -> Result<(), ImageError> {
    let (rgb, _) = rgb.as_chunks_mut();
    for (to, from) in rgb.iter_mut().zip(samples.chunks_exact(image.samples)) {
        *to = match (image.photometric, from) {
            (Photometric::Palette, &[index, ..]) => colour_of(image, index)?,
            (Photometric::Cmyk, &[cyan, magenta, yellow, black, ..]) => {
                [cyan, magenta, yellow].map(|ink| paint(ink, black))
            }
            (Photometric::Rgb, &[red, green, blue, ref extra @ ..]) => {
                let alpha = extra.first().filter(|_| image.associated_alpha);
                let colour = [red, green, blue];
                alpha.map_or(colour, |&alpha| colour.map(|value| divide(value, alpha)))
            }
            (photometric, from) => {
                let alpha = from.get(1).filter(|_| image.associated_alpha);
                let grey = alpha.map_or(from[0], |&alpha| divide(from[0], alpha));
                [if photometric == Photometric::WhiteIsZero {
                    255 - grey
                } else {
                    grey
                }; 3]
            }
        };
    }
    Ok(())
}

/// Looks up a colour. A palette holds all red values, then green, then blue, 16 bits each.
fn colour_of(image: &Image, index: u8) -> Result<[u8; 3], ImageError> {
    let part = |part: usize| {
        image
            .colour_map?
            .get((part << image.bits) + usize::from(index))
    };
    match [part(0), part(1), part(2)] {
        [Some(red), Some(green), Some(blue)] => {
            Ok([red, green, blue].map(|value| (value >> 8) as u8))
        }
        _ => Err(damaged(format!(
            "the palette of the TIFF has no colour {index}"
        ))),
    }
}

/// Pillow's conversion of associated alpha: the colour divided by alpha, rounded down; black where
/// nothing is visible.
fn divide(value: u8, alpha: u8) -> u8 {
    let divided = u32::from(value) * 255 / u32::from(alpha).max(1);
    if alpha == 0 {
        0
    } else {
        divided.min(255) as u8
    }
}

/// Pillow's conversion of CMYK to RGB: `(1 - black) * (1 - ink)` in 8-bit arithmetic.
fn paint(ink: u8, black: u8) -> u8 {
    let left = u32::from(u8::MAX - black);
    (left - (u32::from(ink) * left + 127) / 255) as u8
}
