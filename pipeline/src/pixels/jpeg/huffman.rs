//! Huffman-coded data: tables, bits, and the blocks of a sequential scan, read or skipped.

use super::tables::Divisors;
use crate::pixels::ImageError;

/// Codes up to this length are found with one look.
const LOOK: u32 = 10;

/// So many bits are looked at to skip several coefficients at once.
const STRIDE: u32 = 12;

/// A Huffman table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// By the next [`LOOK`] bits: the symbol, its code's length << 8, and << 16 the length of code
    /// and value together; 0 where the code is longer.
    quick: [u32; 1 << LOOK],
    /// By length, the first code (in the upper of 16 bits) that is longer than that.
    beyond: [u32; 17],
    /// By length, what to add to a code for its place in `symbols`.
    place: [i32; 17],
    symbols: [u8; 256],
    /// Codes of each length, from 1.
    counts: [u8; 16],
    /// For coefficients in sequential images, by the next [`STRIDE`] bits, as many of them (with
    /// their values) as are whole in these bits, or else the first one: bits to skip in the lowest
    /// five, then a bit for the end of the block, then how many coefficients these are. 0 where the
    /// first code is longer or means nothing.
    strides: [u16; 1 << STRIDE],
    /// For coefficients in sequential images, by the next [`STRIDE`] bits, the first of them if it
    /// is whole in these bits: bits to skip in the lowest five, then by how much to go on in the
    /// block (64 and more: to its end), and in the upper 16 the value. 0 where it is not whole.
    values: [u32; 1 << STRIDE],
}

impl Table {
    /// Has no codes.
    const NONE: Self = Self {
        quick: [0; 1 << LOOK],
        beyond: [0; 17],
        place: [0; 17],
        symbols: [0; 256],
        counts: [0; 16],
        strides: [0; 1 << STRIDE],
        values: [0; 1 << STRIDE],
    };

    /// `counts[i]` codes of length i + 1, their symbols in order; `None` if there are not so many
    /// codes.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            counts: *counts,
            ..Self::NONE
        };
        table
            .symbols
            .get_mut(..symbols.len())?
            .copy_from_slice(symbols);
        let mut code = 0_u32;
        let mut index = 0_usize;
        for (length, &count) in (1_u32..).zip(counts) {
            table.place[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(index)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= LOOK {
                    let entry = entry(symbol, length);
                    let first = (code << (LOOK - length)) as usize;
                    table.quick[first..first + (1 << (LOOK - length))].fill(entry);
                }
                code += 1;
                index += 1;
            }
            table.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// With what is looked up for coefficients only.
    pub(super) fn for_coefficients(mut self) -> Self {
        for ahead in 0..1 << STRIDE {
            self.strides[ahead as usize] = self.stride(ahead);
            self.values[ahead as usize] = self.value(ahead);
        }
        self
    }

    pub(super) fn is(&self, counts: &[u8; 16], symbols: &[u8]) -> bool {
        self.counts == *counts && self.symbols.starts_with(symbols)
    }

    fn stride(&self, ahead: u32) -> u16 {
        let (mut skipped, mut coefficients) = (0, 0);
        while skipped < STRIDE {
            let left = ahead << skipped & ((1 << STRIDE) - 1);
            let entry = self.quick[(left >> (STRIDE - LOOK)) as usize];
            let (run, size) = (entry >> 4 & 15, entry & 15);
            let whole = entry >> 16;
            let means_nothing = size == 0 && run != 0 && run != 15;
            let first = skipped == 0;
            // Bits behind the last of `ahead` are unknown, and so is a code that would use them.
            if entry == 0 || means_nothing || (!first && skipped + whole > STRIDE) {
                break;
            }
            skipped += whole;
            if run == 0 && size == 0 {
                return (skipped | 1 << 5 | coefficients << 6) as u16;
            }
            coefficients += run + 1;
        }
        (skipped | coefficients << 6) as u16
    }

    fn value(&self, ahead: u32) -> u32 {
        let entry = self.quick[(ahead >> (STRIDE - LOOK)) as usize];
        let (run, size, whole) = (entry >> 4 & 15, entry & 15, entry >> 16);
        if entry == 0 || whole > STRIDE {
            return 0;
        }
        match (run, size) {
            (0, 0) => whole | END_OF_BLOCK << 5,
            (15, 0) => whole | 16 << 5,
            (_, 0) => 0,
            _ => {
                let stored = ahead >> (STRIDE - whole) & ((1 << size) - 1);
                let value = extend(stored, size) as u16;
                whole | (run + 1) << 5 | u32::from(value) << 16
            }
        }
    }
}

/// A step in a block that leads out of it.
const END_OF_BLOCK: u32 = 64;

/// The number that `stored` stands for: of the values of a size, the lower half are the negative
/// ones.
#[inline]
fn extend(stored: u32, size: u32) -> i32 {
    let negative = size > 0 && stored >> (size - 1) == 0;
    let value = stored as i32;
    if negative {
        value - (1 << size) + 1
    } else {
        value
    }
}

fn entry(symbol: u8, length: u32) -> u32 {
    u32::from(symbol) | length << 8 | (length + u32::from(symbol & 15)) << 16
}

/// The bits between two markers, with the stuffed zeros removed.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to take.
    pub(super) at: usize,
    /// The next bits, from the top. Below `count` of them are zeros or a part of the next byte.
    buffer: u64,
    /// Bits in the buffer; negative once more were consumed than there are.
    count: i32,
    /// Whether `at` is at a marker or the end of the file.
    ended: bool,
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
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            buffer: 0,
            count: 0,
            ended: false,
        }
    }

    /// Tops up to at least 56 bits, as far as there are so many.
    #[inline]
    fn refill(&mut self) {
        if self.ended {
            return;
        }
        if let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let next = u64::from_be_bytes(*chunk);
            let inverted = !next;
            let no_ff = inverted.wrapping_sub(0x0101_0101_0101_0101) & !inverted;
            if no_ff & 0x8080_8080_8080_8080 == 0 {
                self.buffer |= next >> self.count;
                self.at += ((63 - self.count) >> 3) as usize;
                self.count |= 56;
                return;
            }
        }
        self.refill_bytewise();
    }

    fn refill_bytewise(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else {
                self.ended = true;
                return;
            };
            if byte == 0xff {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    self.ended = true;
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Makes sure of 32 bits, enough for a code and its value, as far as there are so many.
    #[inline]
    pub(super) fn need(&mut self) {
        if self.count < 32 {
            self.refill();
        }
    }

    #[inline]
    pub(super) fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits as i32;
    }

    /// Up to 16 bits as a number.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        let value = (self.buffer >> 48) as u32 >> (16 - bits);
        self.skip(bits);
        value
    }

    /// The next symbol's table entry. Consumes nothing.
    #[inline]
    pub(super) fn look(&self, table: &Table) -> Result<u32, Fault> {
        let quick = table.quick[(self.buffer >> (64 - LOOK)) as usize];
        if quick != 0 {
            return Ok(quick);
        }
        self.look_further(table)
    }

    #[cold]
    fn look_further(&self, table: &Table) -> Result<u32, Fault> {
        let ahead = (self.buffer >> 48) as u32;
        for length in LOOK + 1..=16 {
            if ahead < table.beyond[length as usize] {
                let code = (ahead >> (16 - length)) as i32;
                let index = code + table.place[length as usize];
                let symbol = usize::try_from(index)
                    .ok()
                    .and_then(|index| table.symbols.get(index))
                    .ok_or(Fault::NoCode)?;
                return Ok(entry(*symbol, length));
            }
        }
        Err(Fault::NoCode)
    }

    /// Nothing was consumed that is not there.
    #[inline]
    pub(super) fn enough(&self) -> Result<(), Fault> {
        if self.count < 0 {
            return Err(Fault::Short);
        }
        Ok(())
    }

    /// Ends at the marker that must be here, and gets ready for what may follow it.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.enough()?;
        // Less than a byte of padding, and none unread.
        if self.count >= 8 {
            return Err(Fault::Long);
        }
        match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
            (Some(0xff), Some(0)) => return Err(Fault::Long),
            (Some(0xff) | None, _) => {}
            _ => return Err(Fault::Long),
        }
        self.buffer = 0;
        self.count = 0;
        self.ended = false;
        Ok(())
    }
}

/// A block's mean, which is stored as its difference to that of the component's block before.
#[inline]
pub(super) fn read_dc(bits: &mut Bits, dc: &Table, means: &mut Means) -> Result<(), Fault> {
    bits.need();
    let entry = bits.look(dc)?;
    let size = entry & 0xff;
    // With 8 bits per channel no difference has more.
    if size > 11 {
        return Err(Fault::BadSymbol);
    }
    bits.skip(entry >> 8 & 0xff);
    means.last += extend(bits.take(size), size);
    if means.last.abs() > means.largest {
        return Err(Fault::OutOfRange);
    }
    bits.enough()
}

/// The means of a component's blocks in a scan. An error in one is carried on to all that follow, so
/// that this is where data that was out of step for a while gives itself away.
pub(super) struct Means {
    pub(super) last: i32,
    /// What no mean of 8-bit samples exceeds.
    pub(super) largest: i32,
}

/// A block of a sequential scan.
#[inline]
pub(super) fn skip_block(
    bits: &mut Bits,
    dc: &Table,
    ac: &Table,
    means: &mut Means,
) -> Result<(), Fault> {
    read_dc(bits, dc, means)?;
    let mut k = 1;
    while k < 64 {
        bits.need();
        let stride = u32::from(ac.strides[(bits.buffer >> (64 - STRIDE)) as usize]);
        let after = k + (stride >> 6);
        if stride != 0 && after < 64 {
            bits.skip(stride & 31);
            k = after;
            if stride & 1 << 5 != 0 {
                break;
            }
            continue;
        }
        // One by one: a long code, or the end of the block among the coefficients of a stride.
        let entry = bits.look(ac)?;
        bits.skip(entry >> 16);
        let (run, size) = (entry >> 4 & 15, entry & 15);
        if size == 0 {
            match run {
                0 => break,
                15 => {}
                _ => return Err(Fault::BadSymbol),
            }
        }
        k += run + 1;
    }
    if k > 64 {
        return Err(Fault::Overrun);
    }
    bits.enough()
}

/// Reads a block of a sequential scan: coefficients times their divisors, row by row. Says whether
/// there is more than its mean.
///
/// `block` must be all zeros where there was more than a mean before.
#[inline]
pub(super) fn read_block(
    bits: &mut Bits,
    dc: &Table,
    ac: &Table,
    means: &mut Means,
    divisors: &Divisors,
    block: &mut [i16; 64],
) -> Result<bool, Fault> {
    let Divisors(divisors) = divisors;
    read_dc(bits, dc, means)?;
    // As libjpeg's vector code multiplies: the low 16 bits. Only damage can exceed them.
    let scaled = |value: i16, k: usize| value.wrapping_mul(divisors[k] as i16);
    block[0] = scaled(means.last as i16, 0);
    let mut k = 0;
    while k < 63 {
        bits.need();
        let known = ac.values[(bits.buffer >> (64 - STRIDE)) as usize];
        if known != 0 {
            bits.skip(known & 31);
            let step = known >> 5 & 127;
            if step == END_OF_BLOCK {
                break;
            }
            k += step as usize;
            if k > 63 {
                return Err(Fault::Overrun);
            }
            block[PLACES[k] as usize] = scaled((known >> 16) as i16, k);
            continue;
        }
        let entry = bits.look(ac)?;
        let (run, size) = (entry >> 4 & 15, entry & 15);
        bits.skip(entry >> 8 & 0xff);
        let value = extend(bits.take(size), size) as i16;
        if size == 0 {
            match run {
                0 => break,
                15 => {}
                _ => return Err(Fault::BadSymbol),
            }
        }
        k += run as usize + 1;
        if k > 63 {
            return Err(Fault::Overrun);
        }
        block[PLACES[k] as usize] = scaled(value, k);
    }
    bits.enough()?;
    Ok(k > 0)
}

/// Where in a block, row by row, the coefficients stand in the order in which they are stored.
const PLACES: [u8; 64] = places();

/// Along the diagonals, up and down in turn.
const fn places() -> [u8; 64] {
    let mut places = [0; 64];
    let (mut row, mut column) = (0_u8, 0_u8);
    let mut k = 0;
    while k < 64 {
        places[k] = row * 8 + column;
        if (row + column).is_multiple_of(2) {
            if column == 7 {
                row += 1;
            } else if row == 0 {
                column += 1;
            } else {
                (row, column) = (row - 1, column + 1);
            }
        } else if row == 7 {
            column += 1;
        } else if column == 0 {
            row += 1;
        } else {
            (row, column) = (row + 1, column - 1);
        }
        k += 1;
    }
    places
}

/// The largest mean (of a block, times eight, less that of grey) that 8-bit samples have, as it is
/// stored. Two steps more are allowed for what encoders round.
pub(super) fn largest_mean(divisor: u16, missing_bits: u8) -> i32 {
    let step = i32::from(divisor.max(1)) << missing_bits;
    1024 / step + 2
}

pub(super) fn explain(fault: Fault, bits: &Bits) -> ImageError {
    let at_end = bits.at >= bits.bytes.len()
        // A stuffed byte or marker of which only the first half is left.
        || (bits.at + 1 == bits.bytes.len() && bits.bytes[bits.at] == 0xff);
    let reason = match fault {
        Fault::Short if at_end => {
            return ImageError::truncated("JPEG blocks are missing", bits.bytes.len());
        }
        Fault::Short => "JPEG data ends before the last block",
        Fault::Long => "JPEG data goes on behind the last block",
        Fault::NoCode => "JPEG data that is in no Huffman table",
        Fault::BadSymbol => "a JPEG symbol that has no meaning here",
        Fault::Overrun => "a JPEG block with too many coefficients",
        Fault::OutOfRange => "a JPEG block that is brighter than white or darker than black",
        Fault::LongRun => "JPEG data with a run of blocks behind the last one",
    };
    ImageError::damaged(reason, bits.at)
}

/// Stands for a table that was never defined: no bits mean anything.
pub(super) static NO_TABLE: Table = Table::NONE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_longer_than_the_quick_table_are_found() {
        // One code of each length up to 16: 0, 10, 110, ...
        let symbols: Vec<u8> = (1..=16).map(|i| i << 4).collect();
        let table = Table::new(&[1; 16], &symbols).unwrap();
        for length in 1..=16_u32 {
            let mut bits = Bits::new(&[], 0);
            bits.buffer = !(u64::MAX >> (length - 1));
            let entry = bits.look(&table).unwrap();
            assert_eq!(
                (entry & 0xff, entry >> 8 & 0xff),
                (length << 4 & 0xff, length)
            );
        }
        let mut bits = Bits::new(&[], 0);
        bits.buffer = u64::MAX;
        assert!(matches!(bits.look(&table), Err(Fault::NoCode)));
    }

    #[test]
    fn impossible_tables_are_refused() {
        // Three codes of one bit, and a list of symbols that is too short.
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Table::new(&counts, &[1, 2, 3]).is_none());
        counts[0] = 2;
        assert!(Table::new(&counts, &[1]).is_none());
    }

    #[test]
    fn bits_are_the_bytes_without_stuffing() {
        let mut bytes = vec![0x12, 0xff, 0x00, 0x34];
        bytes.extend(std::iter::repeat_n(0x56, 20));
        bytes.extend([0xff, 0xd9]);
        let mut bits = Bits::new(&bytes, 0);
        let mut seen = Vec::new();
        for _ in 0..23 {
            bits.need();
            seen.push(bits.take(8) as u8);
            bits.enough().unwrap();
        }
        assert_eq!(seen[..3], [0x12, 0xff, 0x34]);
        assert!(seen[3..].iter().all(|&byte| byte == 0x56));
        bits.finish().unwrap();
        assert_eq!(bits.at, bytes.len() - 2);
        bits.need();
        bits.take(1);
        assert!(matches!(bits.enough(), Err(Fault::Short)));
    }
}
