use thiserror::Error;

use super::Rect;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("the file is empty")]
    Empty,
    /// The first bytes are not those of a supported format.
    #[error("not a JPEG, PNG, WebP, TIFF, BMP, GIF or Netpbm file; it looks like {looks_like}")]
    UnknownFormat { looks_like: String },
    #[error("the image size in the header is {width}x{height}, both must be at least 1")]
    ZeroSide { width: u32, height: u32 },
    /// The header claims more pixels than [`super::Limits`] allow.
    #[error("the image size {width}x{height} exceeds the limit of {max_pixels} pixels")]
    TooLarge {
        width: u32,
        height: u32,
        max_pixels: u64,
    },
    /// The file ends before the image does. `offset` is the file's length in bytes.
    #[error("truncated: {reason} (the file ends at byte {offset})")]
    Truncated { reason: String, offset: u64 },
    /// The data contradicts the format or itself. `offset` is where that was detected, in bytes from
    /// the start of the file; the cause is there or before.
    #[error("damaged: {reason}{}", at_byte(*.offset))]
    Damaged { reason: String, offset: Option<u64> },
    /// A valid file of a kind that is not supported.
    #[error("unsupported: {reason}")]
    Unsupported { reason: String },
    /// The memory for the image cannot be had.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The requested region is empty or not within the image.
    #[error(
        "region {}x{} at ({}, {}) is outside the {width}x{height} image",
        region.width, region.height, region.x, region.y
    )]
    OutsideImage {
        region: Rect,
        width: u32,
        height: u32,
    },
}

/// An allocation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "out of memory: {bytes} bytes are needed for the pixels; `max_pixels` limits the size of images"
)]
pub struct OutOfMemory {
    pub bytes: usize,
}

/// Damage at an unknown place.
pub(super) fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged {
        reason: reason.into(),
        offset: None,
    }
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

    /// Where the error was detected, in bytes from the start of the file, if that is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Truncated { offset, .. } => Some(*offset),
            Self::Damaged { offset, .. } => *offset,
            _ => None,
        }
    }
}
