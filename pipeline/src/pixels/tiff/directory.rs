//! The image file directory of a TIFF: tags with values. EXIF blocks have the same format.
//!
//! Values are read where they are, so that a directory that claims a billion of them takes no memory.

use super::super::ImageError;

/// The first directory of a file.
#[derive(Clone, Copy)]
pub(in crate::pixels) struct Directory<'a> {
    bytes: &'a [u8],
    layout: Layout,
    /// The entries; fewer than the directory claims where the file is cut.
    entries: &'a [u8],
    pub(in crate::pixels) complete: bool,
}

/// Sizes of the fields of TIFF and BigTIFF, and the byte order of both.
#[derive(Clone, Copy)]
pub(in crate::pixels) struct Layout {
    pub(in crate::pixels) big_endian: bool,
    big: bool,
}

/// The integers of a tag.
#[derive(Clone, Copy)]
pub(in crate::pixels) struct Numbers<'a> {
    layout: Layout,
    width: usize,
    signed: bool,
    pub(in crate::pixels) data: &'a [u8],
}

impl Layout {
    fn unsigned(self, bytes: &[u8]) -> u64 {
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, join)
        } else {
            bytes.iter().rev().fold(0, join)
        }
    }
}

impl<'a> Directory<'a> {
    /// `None` if the file does not start as a TIFF or has no directory where it says.
    pub(in crate::pixels) fn first(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..2)? {
            b"II" => false,
            b"MM" => true,
            _ => return None,
        };
        // The version, 42 or 43. Some writers store it in the wrong byte order, which Pillow accepts.
        let big = match bytes.get(2..4)? {
            [0, b'*'] | [b'*', 0] => false,
            [0, b'+'] | [b'+', 0] => true,
            _ => return None,
        };
        let layout = Layout { big_endian, big };
        let pointer = if big { 8..16 } else { 4..8 };
        let start = usize::try_from(layout.unsigned(bytes.get(pointer)?)).ok()?;
        let (count_bytes, entry_bytes) = layout.sizes();
        let value_bytes = if big { 8 } else { 4 };
        let rest = bytes.get(start..)?;
        let count = usize::try_from(layout.unsigned(rest.get(..count_bytes)?)).ok()?;
        let rest = &rest[count_bytes..];
        let length = count.saturating_mul(entry_bytes);
        Some(Self {
            bytes,
            layout,
            entries: &rest[..length.min(rest.len())],
            // The offset of the next directory follows.
            complete: length.saturating_add(value_bytes) <= rest.len(),
        })
    }

    /// The integers of a tag, at least one; `None` if the tag is missing, has another type or lies beyond
    /// the end of the file.
    pub(in crate::pixels) fn numbers(&self, tag: u16) -> Option<Numbers<'a>> {
        let (kind, data) = self.find(tag)?;
        let (width, signed) = width_of(kind)?;
        (kind != 2 && kind != 5 && kind != 10 && kind != 11 && kind != 12).then_some(Numbers {
            layout: self.layout,
            width,
            signed,
            data,
        })
    }

    /// The type and the bytes of a tag's value, not empty. Of equal tags, the first with a value counts.
    pub(in crate::pixels) fn find(&self, tag: u16) -> Option<(u16, &'a [u8])> {
        let (field, value) = if self.layout.big { (8, 12) } else { (4, 8) };
        let (_, entry_bytes) = self.layout.sizes();
        let unsigned = |bytes| self.layout.unsigned(bytes);
        let entries = self.entries.chunks_exact(entry_bytes);
        let mut found = entries.filter(|entry| unsigned(&entry[..2]) == u64::from(tag));
        found.find_map(|entry| {
            let kind = unsigned(&entry[2..4]) as u16;
            let count = unsigned(&entry[4..4 + field]);
            let length = count.checked_mul(width_of(kind)?.0 as u64)?;
            let length = usize::try_from(length).ok()?;
            let inline = &entry[value..value + field];
            let data = if length <= field {
                &inline[..length]
            } else {
                let start = usize::try_from(unsigned(inline)).ok()?;
                self.bytes.get(start..start.checked_add(length)?)?
            };
            (!data.is_empty()).then_some((kind, data))
        })
    }

    /// Whether the directory has an entry for the tag, readable or not.
    fn mentions(&self, tag: u16) -> bool {
        let (_, entry_bytes) = self.layout.sizes();
        let mut entries = self.entries.chunks_exact(entry_bytes);
        entries.any(|entry| self.layout.unsigned(&entry[..2]) == u64::from(tag))
    }

    /// The integers of a tag; `None` if the tag is missing.
    ///
    /// # Errors
    /// The tag is there, but cannot be read.
    pub(in crate::pixels) fn list(&self, tag: u16) -> Result<Option<Numbers<'a>>, ImageError> {
        match self.numbers(tag) {
            None if self.mentions(tag) => Err(ImageError::Damaged {
                reason: format!("tag {tag} of the TIFF has no valid value"),
                offset: None,
            }),
            numbers => Ok(numbers),
        }
    }

    /// The only or the first integer of a tag, or `default`.
    ///
    /// # Errors
    /// The tag is there, but cannot be read.
    pub(in crate::pixels) fn number(&self, tag: u16, default: u64) -> Result<u64, ImageError> {
        let list = self.list(tag)?;
        Ok(list.and_then(|list| list.get(0)).unwrap_or(default))
    }

    pub(in crate::pixels) fn layout(&self) -> Layout {
        self.layout
    }
}

impl Layout {
    /// The bytes of the number of entries, and of an entry.
    fn sizes(self) -> (usize, usize) {
        if self.big { (8, 20) } else { (2, 12) }
    }
}

impl Numbers<'_> {
    pub(in crate::pixels) fn len(&self) -> usize {
        self.data.len() / self.width
    }

    /// A negative number is none.
    pub(in crate::pixels) fn get(&self, index: usize) -> Option<u64> {
        let data = self.data.get(index * self.width..)?.get(..self.width)?;
        let number = self.layout.unsigned(data);
        let negative = self.signed && number >> (8 * self.width - 1) == 1;
        (!negative).then_some(number)
    }

    pub(in crate::pixels) fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

/// The bytes of a value of a type, and whether it is signed; `None` for an unknown type.
fn width_of(kind: u16) -> Option<(usize, bool)> {
    Some(match kind {
        // BYTE, ASCII, UNDEFINED.
        1 | 2 | 7 => (1, false),
        6 => (1, true),
        3 => (2, false),
        8 => (2, true),
        // LONG, FLOAT, IFD.
        4 | 11 | 13 => (4, false),
        9 => (4, true),
        // RATIONAL, SRATIONAL, DOUBLE, LONG8, IFD8.
        5 | 10 | 12 | 16 | 18 => (8, false),
        17 => (8, true),
        _ => return None,
    })
}
