//! Reads bits of the entropy-coded data.

use crate::pixels::{ImageError, give_back};

/// Reads the bits of one entropy-coded segment: the data between two markers.
///
/// A JPEG file stuffs a zero byte after each 0xff, so that no marker appears in the data. The stuffing
/// is removed in advance, many bytes at a time. A refill then has no branch, and mispredicted branches
/// are what dominates the time of Huffman decoding.
pub(super) struct BitReader<'a> {
    file: &'a [u8],
    /// First byte of the segment in the file, and its end: the next marker, or the end of the file.
    start: usize,
    end: usize,
    /// The segment without stuffing, then eight zero bytes of padding.
    data: Vec<u8>,
    /// Number of bits in `data` without the padding.
    length: usize,
    /// The next byte of `data` that a refill reads.
    at: usize,
    /// The next bits, starting at the most significant one. The upper `count` bits are valid; those
    /// below are a prefix of the next byte of `data`.
    buffer: u64,
    count: u32,
}

/// What can be wrong with entropy-coded data.
#[derive(Debug, Clone, Copy)]
pub(super) enum EntropyError {
    /// The data ends before the last block.
    Truncated,
    /// Further blocks follow the last one.
    TooManyBlocks,
    /// No Huffman code starts with these bits.
    InvalidCode,
    /// The table has this symbol, but it is not valid here.
    InvalidSymbol,
    /// A coefficient beyond the end of the block or of the spectral band.
    TooManyCoefficients,
    /// An end-of-band run that continues after the last block of the scan.
    EobRunTooLong,
    /// A DC coefficient beyond the range of 8-bit samples.
    DcOutOfRange,
}

/// The reason where data of further blocks follows the last one.
pub(super) const TOO_MANY_BLOCKS: &str = "JPEG data continues after the last block";

impl<'a> BitReader<'a> {
    /// Reads from byte `at` of the file to the next marker. `scratch` is memory to reuse, see
    /// [`BitReader::into_scratch`].
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
        bits.restart_at(at);
        bits
    }

    pub(super) fn into_scratch(self) -> Vec<u8> {
        self.data
    }

    /// Continues at byte `at` of the file, after a restart marker.
    pub(super) fn restart_at(&mut self, at: usize) {
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
        // A refill loads eight bytes; the padding lets it load the last byte of the data. Past the
        // padding it finds no eight bytes and uses zeros, however far damaged data makes it go.
        self.data.extend([0; 8]);
        (self.at, self.buffer, self.count) = (0, 0, 0);
    }

    /// Refills the buffer to at least 56 valid bits. Past the end of the data they are zeros.
    ///
    /// This is the branchless refill that Fabian Giesen calls variant 4 ("Reading bits in far too many
    /// ways", part 2). All eight bytes at `at` are ORed in below the `count` valid bits, although they
    /// may not all fit. `at` advances by `(63 - count) / 8` of them only; some bits of the next byte are
    /// in the buffer already, and the next refill ORs the same bits into the same place. `count` becomes
    /// `count + 8 * ((63 - count) / 8)`, which is `count | 56`: from 56 to 63. So `count` never
    /// reaches 64, and the shift by it is defined.
    #[inline]
    pub(super) fn refill(&mut self) {
        let chunk = self.data.get(self.at..).and_then(<[u8]>::first_chunk);
        let next = chunk.map_or(0, |chunk| u64::from_be_bytes(*chunk));
        self.buffer |= next >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// The next `bits` bits, 0 to 16, without consuming them.
    #[inline]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> 48) as u32 >> (16 - bits)
    }

    /// Drops `bits` bits, at most as many as are valid in the buffer.
    #[inline]
    pub(super) fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Reads and consumes `bits` bits, 0 to 16.
    #[inline]
    pub(super) fn read_bits(&mut self, bits: u32) -> u32 {
        let value = self.peek(bits);
        self.consume(bits);
        value
    }

    fn consumed(&self) -> usize {
        self.at * 8 - self.count as usize
    }

    /// Checks that no bit past the end of the data was consumed. Once per block is enough: until then
    /// the bits are zeros.
    #[inline]
    pub(super) fn check_overrun(&self) -> Result<(), EntropyError> {
        if self.consumed() > self.length {
            return Err(EntropyError::Truncated);
        }
        Ok(())
    }

    /// Number of whole bytes that were not consumed. (The last byte is padded with fewer than eight
    /// bits.)
    pub(super) fn unread_bytes(&self) -> usize {
        self.length.saturating_sub(self.consumed()) / 8
    }

    /// Whether the rest of the byte that was read last is ones, as encoders pad the end of a segment.
    pub(super) fn is_padded(&mut self) -> bool {
        self.refill();
        let rest = self.consumed().wrapping_neg() as u32 % 8;
        self.peek(rest) == (1 << rest) - 1
    }

    /// Whether all whole bytes that were not consumed are zero.
    pub(super) fn rest_is_zero(&self) -> bool {
        let end = self.length / 8;
        let rest = self.data.get(end - self.unread_bytes()..end);
        rest.unwrap_or_default().iter().all(|&byte| byte == 0)
    }

    /// The offset of the marker (or the end of the file) that ends the segment.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The offset in the file of the next unread byte. Counts from the start of the segment, because
    /// stuffing was removed: for error messages only.
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

    pub(super) fn explain(&self, error: EntropyError) -> ImageError {
        let reason = match error {
            EntropyError::Truncated if self.end + 1 >= self.file.len() => {
                return ImageError::truncated(
                    "JPEG data ends before the last block",
                    self.file.len(),
                );
            }
            EntropyError::Truncated => "JPEG data ends before the last block",
            EntropyError::TooManyBlocks => TOO_MANY_BLOCKS,
            EntropyError::InvalidCode => "invalid Huffman code",
            EntropyError::InvalidSymbol => "invalid Huffman symbol",
            EntropyError::TooManyCoefficients => "too many coefficients in a JPEG block",
            EntropyError::DcOutOfRange => "DC coefficient out of range",
            EntropyError::EobRunTooLong => "end-of-band run exceeds the last block",
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
        let mut bits = BitReader::new(&bytes, 0, Vec::new());
        let mut seen = Vec::new();
        for _ in 0..23 {
            bits.refill();
            seen.push(bits.read_bits(8) as u8);
            bits.check_overrun().unwrap();
        }
        assert_eq!(seen[..3], [0x12, 0xff, 0x34]);
        assert!(seen[3..].iter().all(|&byte| byte == 0x56));
        assert_eq!((bits.unread_bytes(), bits.end()), (0, bytes.len() - 2));
        bits.refill();
        bits.read_bits(1);
        assert!(matches!(bits.check_overrun(), Err(EntropyError::Truncated)));
    }

    #[test]
    fn offsets_are_those_of_the_file() {
        let bytes = [0x12, 0xff, 0x00, 0x34, 0xff, 0x00, 0x56, 0xff, 0xd0, 0x78];
        let mut bits = BitReader::new(&bytes, 0, Vec::new());
        for offset in [0, 1, 3, 4, 6, 7, 7] {
            assert_eq!(bits.offset(), offset);
            bits.refill();
            bits.consume(8);
        }
        bits.restart_at(9);
        assert_eq!((bits.offset(), bits.end), (9, 10));
    }
}
