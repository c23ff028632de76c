//! The marker segments of a JPEG file.
//!
//! Bytes between segments that are no marker are skipped and counted, as in libjpeg (`next_marker`).

use smallvec::SmallVec;

use super::bits::TOO_MANY_BLOCKS;
use crate::pixels::ImageError;

pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DHT: u8 = 0xc4;
pub(super) const DQT: u8 = 0xdb;
pub(super) const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP14: u8 = 0xee;
const TEM: u8 = 0x01;
const RST: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;

/// Reads the marker segments in order. The entropy-coded data after a start of scan is not a segment:
/// its reader sets `at` to its end.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    /// The offset of the next segment.
    pub(super) at: usize,
    /// Number of bytes so far that are neither segments nor entropy-coded data.
    pub(super) extraneous: u64,
}

pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    /// The bytes after the length field; empty for a standalone marker.
    pub(super) body: &'a [u8],
    /// The offset of `body` in the file.
    pub(super) offset: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            extraneous: 0,
        }
    }

    fn end(&self) -> ImageError {
        ImageError::truncated(
            "no end-of-image marker (EOI) in the JPEG stream",
            self.bytes.len(),
        )
    }

    /// Reads the code of the next marker, after any bytes that are no marker.
    pub(super) fn next_marker(&mut self) -> Result<u8, ImageError> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let skipped = memchr::memchr(0xff, rest).ok_or_else(|| self.end())?;
            // A marker's code may be preceded by any number of 0xff fill bytes.
            let fill = rest[skipped..].iter().take_while(|&&byte| byte == 0xff);
            let code = skipped + fill.count();
            let marker = *rest.get(code).ok_or_else(|| self.end())?;
            self.at += code + 1;
            // A zero byte after 0xff makes it data.
            let is_data = marker == 0;
            self.extraneous += if is_data { code + 1 } else { skipped } as u64;
            if !is_data {
                return Ok(marker);
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Segment<'a>, ImageError> {
        let marker = self.next_marker()?;
        let length = match marker {
            SOI | EOI | TEM => 0,
            // Between segments, a restart marker is at most a last one that no block follows.
            _ if RST.contains(&marker) => match self.bytes.get(self.at..) {
                Some([] | [0xff] | [0xff, 1..=0xff, ..]) | None => 0,
                _ => return Err(ImageError::damaged(TOO_MANY_BLOCKS, self.at)),
            },
            0x02..=0xbf => {
                let reason = format!("invalid JPEG marker {marker:02x}");
                return Err(ImageError::damaged(reason, self.at - 1));
            }
            0xde | 0xdf | 0xf0..=0xfd => {
                let reason = format!("a JPEG with the extension marker {marker:02x}");
                return Err(ImageError::unsupported(reason));
            }
            _ => self.length(marker)?,
        };
        let offset = self.at;
        let body = self.bytes.get(offset..offset + length);
        let body = body.ok_or_else(|| self.end())?;
        self.at += length;
        Ok(Segment {
            marker,
            body,
            offset,
        })
    }

    /// Reads the length field of a segment. It counts its own two bytes.
    fn length(&mut self, marker: u8) -> Result<usize, ImageError> {
        let field = self.bytes.get(self.at..self.at + 2);
        let field = field.ok_or_else(|| self.end())?;
        let length = usize::from(u16::from_be_bytes([field[0], field[1]]));
        self.at += 2;
        length.checked_sub(2).ok_or_else(|| {
            ImageError::damaged(
                format!("JPEG segment {marker:02x} has an invalid length of {length}"),
                self.at - 2,
            )
        })
    }
}

/// The frame header (SOF).
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    /// 1, 3 or 4 components.
    pub(super) components: SmallVec<[Component; 4]>,
}

#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Horizontal and vertical sampling factors, 1 to 4.
    pub(super) sampling: (u32, u32),
    /// Slot of its quantization table, 0 to 3.
    pub(super) quant_table: usize,
}

impl Frame {
    /// The largest horizontal and vertical sampling factors; a component's own are relative to these.
    pub(super) fn max_sampling_factors(&self) -> (u32, u32) {
        let horizontal = self.components.iter().map(|c| c.sampling.0);
        let vertical = self.components.iter().map(|c| c.sampling.1);
        (horizontal.max().unwrap_or(1), vertical.max().unwrap_or(1))
    }

    /// The width and height of a component in blocks.
    pub(super) fn blocks(&self, component: usize) -> (u32, u32) {
        let (max, own) = (
            self.max_sampling_factors(),
            self.components[component].sampling,
        );
        let count = |pixels: u32, own: u32, max: u32| (pixels * own).div_ceil(8 * max);
        (
            count(self.width, own.0, max.0),
            count(self.height, own.1, max.1),
        )
    }

    /// The width and height of the image in MCUs of a scan with several components.
    pub(super) fn mcus(&self) -> (u32, u32) {
        let max = self.max_sampling_factors();
        (
            self.width.div_ceil(8 * max.0),
            self.height.div_ceil(8 * max.1),
        )
    }

    /// Parses a start of frame; `None` for any other segment.
    pub(super) fn parse(segment: &Segment) -> Result<Option<Self>, ImageError> {
        let progressive = match segment.marker {
            0xc0 | 0xc1 => false,
            0xc2 => true,
            0xc3 | 0xc7 | 0xcb | 0xcf => return Err(ImageError::unsupported("a lossless JPEG")),
            0xc5 | 0xc6 | 0xcd | 0xce => {
                return Err(ImageError::unsupported("a hierarchical JPEG"));
            }
            0xc8 => return Err(ImageError::unsupported("a JPEG with an extended frame")),
            0xc9 | 0xca => return Err(ImageError::unsupported("a JPEG with arithmetic coding")),
            _ => return Ok(None),
        };
        let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
        let Some((fixed, components)) = segment.body.split_first_chunk::<6>() else {
            return Err(damaged("the JPEG frame header is too short"));
        };
        let [precision, h1, h0, w1, w0, count] = *fixed;
        if precision != 8 {
            return Err(ImageError::unsupported(format!(
                "a JPEG with {precision} bits per channel"
            )));
        }
        if components.len() != 3 * usize::from(count) {
            return Err(damaged("the JPEG frame header has an invalid length"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(ImageError::unsupported(format!(
                "a JPEG with {count} channels"
            )));
        }
        let components: SmallVec<[Component; 4]> = components
            .chunks_exact(3)
            .map(|entry| Component {
                id: entry[0],
                sampling: (u32::from(entry[1] >> 4), u32::from(entry[1] & 15)),
                quant_table: usize::from(entry[2] & 3),
            })
            .collect();
        let factor = 1..=4;
        if components
            .iter()
            .any(|c| !factor.contains(&c.sampling.0) || !factor.contains(&c.sampling.1))
        {
            return Err(damaged("JPEG sampling factors out of range"));
        }
        Ok(Some(Self {
            width: u32::from(u16::from_be_bytes([w1, w0])),
            height: u32::from(u16::from_be_bytes([h1, h0])),
            progressive,
            components,
        }))
    }
}

/// The colour space of the stored components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    /// CMYK whose first three channels are stored as YCbCr.
    Ycck,
}

/// The application segments that determine the colour space: JFIF (APP0) and Adobe (APP14).
#[derive(Debug, Default)]
pub(super) struct AppMarkers {
    jfif: bool,
    adobe_transform: Option<u8>,
}

impl AppMarkers {
    pub(super) fn read_segment(&mut self, segment: &Segment) {
        match segment.marker {
            // libjpeg wants all of its fields.
            APP0 if segment.body.len() >= 14 && segment.body.starts_with(b"JFIF\0") => {
                self.jfif = true;
            }
            APP14 if segment.body.starts_with(b"Adobe") => {
                self.adobe_transform = segment.body.get(11).copied().or(self.adobe_transform);
            }
            _ => {}
        }
    }

    /// The colour space by libjpeg's rules (`default_decompress_parms`); the standard has none.
    pub(super) fn encoding(&self, frame: &Frame) -> Encoding {
        let ids = frame.components.iter().map(|c| c.id);
        match (frame.components.len(), self.adobe_transform) {
            (1, _) => Encoding::Grey,
            (3, _) if self.jfif => Encoding::YCbCr,
            (3, Some(0)) => Encoding::Rgb,
            (3, None) if ids.eq(*b"RGB") => Encoding::Rgb,
            (3, _) => Encoding::YCbCr,
            (_, None | Some(0)) => Encoding::Cmyk,
            (_, Some(_)) => Encoding::Ycck,
        }
    }
}
