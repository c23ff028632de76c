//! A JPEG file as the sequence of its marker segments.

use smallvec::SmallVec;

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

/// Reads one segment after the other. The entropy-coded data behind a start of scan is not a
/// segment; whoever reads it says where it ended.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    /// Where the next segment starts.
    pub(super) at: usize,
}

pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    /// What follows the length field; empty for a marker that stands alone.
    pub(super) body: &'a [u8],
    /// Where `body` starts in the file.
    pub(super) offset: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Segment<'a>, ImageError> {
        let end = || {
            ImageError::truncated(
                "there is no end-of-image marker in the JPEG stream",
                self.bytes.len(),
            )
        };
        let mut at = self.at;
        if *self.bytes.get(at).ok_or_else(end)? != 0xff {
            return Err(ImageError::damaged("a JPEG marker is missing", at));
        }
        // Any number of 0xff may stand before a marker's code.
        while *self.bytes.get(at).ok_or_else(end)? == 0xff {
            at += 1;
        }
        let marker = self.bytes[at];
        at += 1;
        let alone = matches!(marker, SOI | EOI | TEM) || RST.contains(&marker);
        let length = if alone {
            0
        } else {
            let field = self.bytes.get(at..at + 2).ok_or_else(end)?;
            let length = usize::from(u16::from_be_bytes([field[0], field[1]]));
            at += 2;
            length.checked_sub(2).ok_or_else(|| {
                ImageError::damaged(
                    format!("JPEG segment {marker:02x} with length {length}"),
                    at - 2,
                )
            })?
        };
        let body = self.bytes.get(at..at + length).ok_or_else(end)?;
        self.at = at + length;
        Ok(Segment {
            marker,
            body,
            offset: at,
        })
    }
}

/// Size and components, from the start of frame.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    /// 1, 3 or 4 of them.
    pub(super) components: SmallVec<[Component; 4]>,
}

#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Horizontal and vertical sampling factors, 1 to 4.
    pub(super) sampling: (u32, u32),
    /// The slot of its quantization table, 0 to 3.
    pub(super) divisor: usize,
}

impl Frame {
    /// The largest sampling factors, by which those of a component are to be divided.
    pub(super) fn most_samples(&self) -> (u32, u32) {
        let horizontal = self.components.iter().map(|c| c.sampling.0);
        let vertical = self.components.iter().map(|c| c.sampling.1);
        (horizontal.max().unwrap_or(1), vertical.max().unwrap_or(1))
    }

    /// `None` if the segment is not a start of frame.
    pub(super) fn parse(segment: &Segment) -> Result<Option<Self>, ImageError> {
        let progressive = match segment.marker {
            0xc0 | 0xc1 => false,
            0xc2 => true,
            0xc3 | 0xc7 | 0xcb | 0xcf => return Err(ImageError::unsupported("a lossless JPEG")),
            0xc5 | 0xc6 | 0xcd | 0xce => {
                return Err(ImageError::unsupported("a hierarchical JPEG"));
            }
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
            return Err(damaged(
                "the JPEG frame header does not list its components",
            ));
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
                divisor: usize::from(entry[2] & 3),
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

/// What the stored channels mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    /// CMYK whose first three channels are stored as YCbCr.
    Ycck,
}

/// Segments that say how channels are encoded, gathered on the way to the first scan.
#[derive(Debug, Default)]
pub(super) struct Application {
    jfif: bool,
    adobe_transform: Option<u8>,
}

impl Application {
    pub(super) fn see(&mut self, segment: &Segment) {
        match segment.marker {
            APP0 if segment.body.starts_with(b"JFIF\0") => self.jfif = true,
            APP14 if segment.body.starts_with(b"Adobe") => {
                self.adobe_transform = segment.body.get(11).copied().or(self.adobe_transform);
            }
            _ => {}
        }
    }

    /// By the rules of libjpeg, for want of a standard.
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
