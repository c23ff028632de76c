//! Coded data as bits.

use crate::pixels::{ImageError, give_back};

/// The bits between two markers.
///
/// In the file a zero byte is stuffed behind each 0xff, so that no marker appears in the data. The
/// stuffing is taken out beforehand, many bytes at a time: then getting more bits takes no decision,
/// and decisions that cannot be foreseen are what decoding takes its time for.
pub(super) struct Bits<'a> {
    file: &'a [u8],
    /// Where in the file the data starts, and where it ends: at a marker or with the file.
    start: usize,
    end: usize,
    /// The data without stuffing, then zeros.
    data: Vec<u8>,
    /// Bits in `data` before the zeros.
    length: usize,
    /// The next byte of `data` to take.
    at: usize,
    /// The next bits, from the top. Below `count` of them is a part of the next byte.
    buffer: u64,
    count: u32,
}

/// What can be wrong with coded data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// It ends before its last block.
    Short,
    /// It goes on behind its last block.
    Long,
    /// A bit sequence that no symbol has.
    NoCode,
    /// A symbol that has no meaning where it stands.
    BadSymbol,
    /// A coefficient behind the last one.
    Overrun,
    /// A run of empty blocks that goes on behind the last block.
    LongRun,
    /// A block brighter than white or darker than black.
    OutOfRange,
}

impl<'a> Bits<'a> {
    /// The bits from `at` on to the next marker. `scratch` is memory to use, see
    /// [`Bits::into_scratch`].
    pub(super) fn new(file: &'a [u8], at: usize, scratch: Vec<u8>) -> Self {
        let mut bits = Self {
            file,
            start: at,
            end: at,
            data: scratch,
            length: 0,
            at: 0,
            buffer: 0,
            count: 0,
        };
        bits.start_at(at);
        bits
    }

    pub(super) fn into_scratch(self) -> Vec<u8> {
        self.data
    }

    /// Goes on with the bits from `at` in the file on.
    pub(super) fn start_at(&mut self, at: usize) {
        self.start = at;
        let mut rest = self.file.get(at..).unwrap_or_default();
        self.data.clear();
        give_back(&mut self.data, rest.len());
        self.end = loop {
            let until = memchr::memchr(0xff, rest).unwrap_or(rest.len());
            self.data.extend_from_slice(&rest[..until]);
            if rest.get(until + 1) != Some(&0) {
                break self.file.len() - rest.len() + until;
            }
            self.data.push(0xff);
            rest = &rest[until + 2..];
        };
        self.length = self.data.len() * 8;
        // A refill reads eight bytes: these let it read the last byte of the data. Beyond them it
        // finds no eight bytes and takes zeros, however far damaged data makes it go.
        self.data.extend([0; 8]);
        (self.at, self.buffer, self.count) = (0, 0, 0);
    }

    /// Refills the buffer to at least 56 bits. After the end of the data they are zeros.
    ///
    /// This is the branchless refill that Fabian Giesen calls variant 4 ("Reading bits in far too many
    /// ways", part 2). All eight bytes at `at` are put below the `count` valid bits, although they may
    /// not all fit. Only `(63 - count) / 8` of them count as taken; of the next byte some bits are in
    /// the buffer already, and the next refill puts the same bits in the same place. `count` then is
    /// `count + 8 * ((63 - count) / 8)`, which is `count | 56`: from 56 to 63. So `count` never
    /// reaches 64, and the shift by it is defined.
    #[inline]
    pub(super) fn need(&mut self) {
        let chunk = self.data.get(self.at..).and_then(<[u8]>::first_chunk);
        let next = chunk.map_or(0, |chunk| u64::from_be_bytes(*chunk));
        self.buffer |= next >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// Up to 16 bits as a number.
    #[inline]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> 48) as u32 >> (16 - bits)
    }

    /// At most as many bits as there are in the buffer.
    #[inline]
    pub(super) fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Up to 16 bits as a number, which are then behind us.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        let value = self.peek(bits);
        self.skip(bits);
        value
    }

    fn consumed(&self) -> usize {
        self.at * 8 - self.count as usize
    }

    /// Nothing was consumed that is not there.
    #[inline]
    pub(super) fn enough(&self) -> Result<(), Fault> {
        if self.consumed() > self.length {
            return Err(Fault::Short);
        }
        Ok(())
    }

    /// Gives the offset of the marker (or the end of the file) that must be here.
    pub(super) fn finish(&self) -> Result<usize, Fault> {
        self.enough()?;
        // Less than a byte of padding, and none unread.
        if self.length - self.consumed() >= 8 {
            return Err(Fault::Long);
        }
        Ok(self.end)
    }

    /// The offset of the marker (or the end of the file) that ends these bits.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Where in the file the next byte stands.
    pub(super) fn offset(&self) -> usize {
        let wanted = self.consumed().div_ceil(8);
        let mut at = self.start;
        for _ in 0..wanted {
            if at >= self.end {
                break;
            }
            at += if self.file[at] == 0xff { 2 } else { 1 };
        }
        at.min(self.end)
    }

    pub(super) fn explain(&self, fault: Fault) -> ImageError {
        let reason = match fault {
            Fault::Short if self.end + 1 >= self.file.len() => {
                return ImageError::truncated("JPEG blocks are missing", self.file.len());
            }
            Fault::Short => "JPEG data ends before the last block",
            Fault::Long => "JPEG data continues after the last block",
            Fault::NoCode => "invalid Huffman code",
            Fault::BadSymbol => "invalid Huffman symbol",
            Fault::Overrun => "too many coefficients in a JPEG block",
            Fault::OutOfRange => "DC coefficient out of range",
            Fault::LongRun => "end-of-band run exceeds the last block",
        };
        ImageError::damaged(reason, self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_bytes_without_stuffing() {
        let mut bytes = vec![0x12, 0xff, 0x00, 0x34];
        bytes.extend(std::iter::repeat_n(0x56, 20));
        bytes.extend([0xff, 0xd9]);
        let mut bits = Bits::new(&bytes, 0, Vec::new());
        let mut seen = Vec::new();
        for _ in 0..23 {
            bits.need();
            seen.push(bits.take(8) as u8);
            bits.enough().unwrap();
        }
        assert_eq!(seen[..3], [0x12, 0xff, 0x34]);
        assert!(seen[3..].iter().all(|&byte| byte == 0x56));
        assert_eq!(bits.finish().unwrap(), bytes.len() - 2);
        bits.need();
        bits.take(1);
        assert!(matches!(bits.enough(), Err(Fault::Short)));
    }

    #[test]
    fn offsets_are_those_of_the_file() {
        let bytes = [0x12, 0xff, 0x00, 0x34, 0xff, 0x00, 0x56, 0xff, 0xd0, 0x78];
        let mut bits = Bits::new(&bytes, 0, Vec::new());
        for offset in [0, 1, 3, 4, 6, 7, 7] {
            assert_eq!(bits.offset(), offset);
            bits.need();
            bits.skip(8);
        }
        bits.start_at(9);
        assert_eq!((bits.offset(), bits.end), (9, 10));
    }
}
