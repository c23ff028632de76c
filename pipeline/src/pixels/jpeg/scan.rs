//! The scans of a JPEG: their headers, their MCUs in order, their restarts, and their ends.
//!
//! JPEG has no checksums, but its coding has little redundancy: a scan must hold exactly the blocks that
//! the frame header promises. Data that was truncated, or put out of sync by a flipped bit, practically
//! never does. (A flipped bit that changes no code length only changes a value; no decoder can detect
//! that.) Too few blocks are always damage: nothing is filled in.
//!
//! Bytes after the last block of a scan or restart interval may be extraneous: libjpeg skips them with a
//! warning, and photographs with such bytes are common. But data that is out of sync and ends early
//! leaves bytes behind, too. The two are distinguished by reading on, see [`is_extraneous`].

use smallvec::SmallVec;

use super::bits::{BitReader, EntropyError};
use super::segments::{Frame, Segment, Segments};
use crate::pixels::ImageError;

/// The header of a scan (SOS).
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) components: SmallVec<[ScanComponent; 4]>,
    /// The spectral band, from coefficient Ss to Se in zigzag order; of sequential images 0 to 63.
    pub(super) band: (u32, u32),
    /// Successive approximation (Ah, Al): the number of low bits that were missing before this scan (0
    /// in a first scan) and that are missing after it.
    pub(super) approximation: (u8, u8),
    /// Offset in the file, for error messages.
    pub(super) offset: usize,
}

/// A component in a scan's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanComponent {
    /// Its index in the frame.
    pub(super) index: usize,
    /// Slots of its Huffman tables, 0 to 3.
    pub(super) dc: usize,
    pub(super) ac: usize,
    /// Number of its blocks in an MCU, horizontally and vertically. In a scan of one component an MCU is
    /// one block, whatever its sampling factors.
    pub(super) mcu: (u32, u32),
}

impl Scan {
    pub(super) fn parse(segment: &Segment, frame: &Frame) -> Result<Self, ImageError> {
        Self::parse_body(segment, frame)
            .ok_or_else(|| ImageError::damaged("invalid scan header (SOS)", segment.offset))
    }

    fn parse_body(segment: &Segment, frame: &Frame) -> Option<Self> {
        let (&count, rest) = segment.body.split_first()?;
        let (list, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let &[start, end, approximation] = rest else {
            return None;
        };
        let components = list
            .chunks_exact(2)
            .map(|entry| {
                let index = frame.components.iter().position(|c| c.id == entry[0])?;
                let (dc, ac) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
                (dc < 4 && ac < 4).then_some(ScanComponent {
                    index,
                    dc,
                    ac,
                    mcu: match count {
                        1 => (1, 1),
                        _ => frame.components[index].sampling,
                    },
                })
            })
            .collect::<Option<SmallVec<[_; 4]>>>()?;
        let is_distinct = (1..components.len()).all(|i| {
            let earlier = &components[..i];
            earlier.iter().all(|c| c.index != components[i].index)
        });
        let scan = Self {
            // Some encoders write invalid values into these fields of sequential images.
            band: match frame.progressive {
                true => (u32::from(start), u32::from(end)),
                false => (0, 63),
            },
            approximation: match frame.progressive {
                true => (approximation >> 4, approximation & 15),
                false => (0, 0),
            },
            offset: segment.offset,
            components,
        };
        let (start, end) = scan.band;
        let band_is_valid = !frame.progressive
            || (start, end) == (0, 0)
            || (start > 0 && start <= end && end < 64 && scan.components.len() == 1);
        let (ah, al) = scan.approximation;
        let bits_are_valid = al <= 13 && (ah == 0 || ah == al + 1);
        // The standard's limit of blocks in an MCU, which all decoders enforce.
        let blocks: u32 = scan.components.iter().map(|c| c.mcu.0 * c.mcu.1).sum();
        let is_valid = (1..=10).contains(&blocks) && is_distinct && band_is_valid && bits_are_valid;
        is_valid.then_some(scan)
    }

    /// Whether it refines coefficients that an earlier scan has coded.
    pub(super) fn is_refinement(&self) -> bool {
        self.approximation.0 > 0
    }

    /// The width and height of the image in MCUs of this scan.
    pub(super) fn mcus(&self, frame: &Frame) -> (u32, u32) {
        match self.components.as_slice() {
            [only] => frame.blocks(only.index),
            _ => frame.mcus(),
        }
    }
}

/// Decodes the MCUs of a scan.
pub(super) trait McuReader {
    /// Decodes the MCU in a column and row.
    fn read(&mut self, at: (u32, u32), bits: &mut BitReader) -> Result<(), EntropyError>;

    /// Decodes an MCU that is not part of the image, to see whether the data is one.
    fn skip(&mut self, bits: &mut BitReader) -> Result<(), EntropyError>;

    /// Checks that a restart interval or the scan may end here.
    fn check_end(&self) -> Result<(), EntropyError> {
        Ok(())
    }

    /// Forgets what the next block would be predicted from.
    fn reset(&mut self);
}

/// Reads the first `rows` rows of a scan's MCUs from the data at `segments.at`, which then is the offset
/// after the data, if it was read to its end. `scratch` is memory to reuse.
pub(super) fn read_scan(
    bytes: &[u8],
    segments: &mut Segments,
    (columns, rows): (u32, u32),
    rows_to_read: u32,
    restart_interval: u32,
    reader: &mut impl McuReader,
    scratch: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let mut bits = BitReader::new(bytes, segments.at, std::mem::take(scratch));
    let mut until_restart = restart_interval;
    let mut restarts = 0_u8;
    for row in 0..rows_to_read {
        for column in 0..columns {
            if restart_interval > 0 {
                if until_restart == 0 {
                    end_interval(&mut bits, reader, segments)?;
                    find_restart(segments, restarts)?;
                    bits.restart_at(segments.at);
                    restarts = (restarts + 1) % 8;
                    until_restart = restart_interval;
                }
                until_restart -= 1;
            }
            reader
                .read((column, row), &mut bits)
                .map_err(|error| bits.explain(error))?;
        }
    }
    if rows_to_read == rows {
        end_interval(&mut bits, reader, segments)?;
    } else {
        segments.at = bits.end();
    }
    *scratch = bits.into_scratch();
    Ok(())
}

/// Checks the data after the last block of a restart interval or scan. Sets `segments` to its end.
fn end_interval(
    bits: &mut BitReader,
    reader: &mut impl McuReader,
    segments: &mut Segments,
) -> Result<(), ImageError> {
    let unread = bits.unread_bytes();
    reader.check_end().map_err(|error| bits.explain(error))?;
    if unread > 0 && !is_extraneous(bits, reader) {
        return Err(bits.explain(EntropyError::TooManyBlocks));
    }
    reader.reset();
    segments.extraneous += unread as u64;
    segments.at = bits.end();
    Ok(())
}

/// Whether the bytes after the last block are no part of the image.
///
/// They are if they are all zero: a common filler. Others are data of the image that is out of sync, and
/// so damage, if one of these holds:
///
/// - The last block does not end as encoders end a scan or interval, with ones to the end of the byte. By
///   chance, one in four blocks does.
/// - They decode as further MCUs up to exactly the end of the data.
fn is_extraneous(bits: &mut BitReader, reader: &mut impl McuReader) -> bool {
    if bits.rest_is_zero() {
        return true;
    }
    if !bits.is_padded() {
        return false;
    }
    loop {
        if reader.skip(bits).is_err() {
            return true;
        }
        if bits.unread_bytes() == 0 && bits.is_padded() {
            return false;
        }
    }
}

/// Advances to after restart marker `expected` (0 to 7), by libjpeg's rules (`jpeg_resync_to_restart`),
/// but only where no data is lost. A marker that is out of turn is skipped if it is one or two behind,
/// and taken for the expected one if it is further away; if it is ahead, intervals are missing.
fn find_restart(segments: &mut Segments, expected: u8) -> Result<(), ImageError> {
    loop {
        let start = segments.at;
        let marker = segments.next_marker()?;
        let ahead = match marker {
            0xd0..=0xd7 => (marker - 0xd0 + 8 - expected) % 8,
            // Not a valid marker.
            0x01..=0xbf => 7,
            _ => 1,
        };
        match ahead {
            0 | 3..=5 => return Ok(()),
            6.. => segments.extraneous += 2,
            _ => {
                return Err(ImageError::damaged(
                    format!("JPEG marker {marker:02x} found, expected restart marker {expected}"),
                    start,
                ));
            }
        }
    }
}
