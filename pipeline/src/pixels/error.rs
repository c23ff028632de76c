use thiserror::Error;

use super::Rect;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no byte in the file.
    #[error("the file is empty")]
    Empty,
    /// The first bytes belong to no format that can be read.
    #[error("not JPEG, PNG, WebP, TIFF, BMP or Netpbm; it starts like {looks_like}")]
    UnknownFormat {
        /// What they seem to be instead.
        looks_like: String,
    },
    /// The header claims an image without pixels.
    #[error("the image has no pixels: its header says {width}x{height}")]
    ZeroSide {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
    },
    /// The header claims more pixels than are allowed.
    #[error("{width}x{height} is more than {max_pixels} pixels")]
    TooLarge {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// The file ends before the image does.
    #[error("truncated: {reason} (the file ends at byte {offset})")]
    Truncated {
        /// What was still to come.
        reason: String,
        /// The file's length in bytes.
        offset: u64,
    },
    /// The bytes contradict the format or each other.
    #[error("damaged: {reason}{}", at_byte(*.offset))]
    Damaged {
        /// What is wrong.
        reason: String,
        /// Where it was noticed, in bytes from the start of the file. What caused it is there or
        /// before.
        offset: Option<u64>,
    },
    /// A correct file of a kind that cannot be read.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// The kind.
        reason: String,
    },
    /// The caller asked for pixels that the image does not have.
    #[error(
        "no region {}x{} at ({}, {}) in an image of {width}x{height}",
        region.width, region.height, region.x, region.y
    )]
    OutsideImage {
        /// What was asked for.
        region: Rect,
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
    },
}

fn at_byte(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" (at byte {offset})"))
}

impl ImageError {
    pub(super) fn damaged(reason: impl Into<String>, offset: usize) -> Self {
        Self::Damaged {
            reason: reason.into(),
            offset: Some(offset as u64),
        }
    }

    pub(super) fn truncated(reason: impl Into<String>, length: usize) -> Self {
        Self::Truncated {
            reason: reason.into(),
            offset: length as u64,
        }
    }

    pub(super) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported {
            reason: reason.into(),
        }
    }

    /// Where in the file it was noticed, in bytes from its start, if that is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Truncated { offset, .. } => Some(*offset),
            Self::Damaged { offset, .. } => *offset,
            _ => None,
        }
    }
}
