//! Huffman decoding: tables, and the blocks of a sequential scan, which are read or skipped.

use super::bits::{BitReader, EntropyError};

/// Codes up to this length are decoded with one table lookup.
const LOOKAHEAD_BITS: u32 = 10;

/// Lookahead of the tables that decode or skip several coefficients at once.
const MULTI_LOOKAHEAD_BITS: u32 = 11;

/// A Huffman table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Indexed by the next [`LOOKAHEAD_BITS`] bits; 0 where the code is longer.
    ///
    /// ```text
    /// bit   31 ................ 16     15 ...... 8     7 ... 0
    ///       bits of code and value     bits of code     symbol
    /// ```
    lookup: [u32; 1 << LOOKAHEAD_BITS],
    /// Indexed by code length: one more than the largest code of that length, left-aligned in 16
    /// bits. The next 16 bits are below it if and only if their code is no longer than that.
    maxcode: [u32; 17],
    /// Indexed by code length: added to a code, gives its index in `symbols`.
    valoffset: [i32; 17],
    symbols: [u8; 256],
    /// Number of codes of each length, from 1 to 16.
    counts: [u8; 16],
    /// To skip AC coefficients of sequential scans, indexed by the next [`MULTI_LOOKAHEAD_BITS`] bits:
    /// all coefficients (code and value) that are complete in these bits, or else the first one. 0
    /// where the first code is longer than [`LOOKAHEAD_BITS`] bits or is not a valid symbol.
    ///
    /// ```text
    /// bit   15 ........ 6         5         4 ...... 0
    ///       coefficients    end of block   bits to skip
    /// ```
    ///
    /// There are at most 10 + 15 bits to skip: a first code of [`LOOKAHEAD_BITS`] bits with a value of
    /// 15 bits.
    skip_table: [u16; 1 << MULTI_LOOKAHEAD_BITS],
    /// To read AC coefficients of sequential scans, indexed by the next [`MULTI_LOOKAHEAD_BITS`] bits:
    /// one or two coefficients that are complete in these bits, see [`Pair`].
    pair_table: [Pair; 1 << MULTI_LOOKAHEAD_BITS],
}

impl Table {
    /// A table without codes.
    const EMPTY: Self = Self {
        lookup: [0; 1 << LOOKAHEAD_BITS],
        maxcode: [0; 17],
        valoffset: [0; 17],
        symbols: [0; 256],
        counts: [0; 16],
        skip_table: [0; 1 << MULTI_LOOKAHEAD_BITS],
        pair_table: [Pair(0); 1 << MULTI_LOOKAHEAD_BITS],
    };

    /// The table with `counts[i]` codes of length i + 1 (BITS) and these symbols in the order of their
    /// codes (HUFFVAL). `None` if a length has fewer codes than `counts` says, or symbols are missing.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            counts: *counts,
            ..Self::EMPTY
        };
        table
            .symbols
            .get_mut(..symbols.len())?
            .copy_from_slice(symbols);
        let mut code = 0_u32;
        let mut index = 0_usize;
        for (length, &count) in (1_u32..).zip(counts) {
            table.valoffset[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(index)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= LOOKAHEAD_BITS {
                    let entry = lookup_entry(symbol, length);
                    let first = (code << (LOOKAHEAD_BITS - length)) as usize;
                    table.lookup[first..first + (1 << (LOOKAHEAD_BITS - length))].fill(entry);
                }
                code += 1;
                index += 1;
            }
            table.maxcode[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Fills the tables that only AC coefficients use.
    pub(super) fn with_ac_tables(mut self) -> Self {
        for ahead in 0..1 << MULTI_LOOKAHEAD_BITS {
            self.skip_table[ahead as usize] = self.skip_entry(ahead);
            self.pair_table[ahead as usize] = self.pair_entry(ahead);
        }
        self
    }

    pub(super) fn matches(&self, counts: &[u8; 16], symbols: &[u8]) -> bool {
        self.counts == *counts && self.symbols.starts_with(symbols)
    }

    fn skip_entry(&self, ahead: u32) -> u16 {
        let (mut skipped, mut coefficients) = (0, 0);
        while skipped < MULTI_LOOKAHEAD_BITS {
            let left = ahead << skipped & ((1 << MULTI_LOOKAHEAD_BITS) - 1);
            let entry = self.lookup[(left >> (MULTI_LOOKAHEAD_BITS - LOOKAHEAD_BITS)) as usize];
            let (run, size) = (entry >> 4 & 15, entry & 15);
            let whole = entry >> 16;
            let is_invalid = size == 0 && run != 0 && run != 15;
            let first = skipped == 0;
            // The bits after `ahead` are unknown, so a code that reaches beyond it is too.
            if entry == 0 || is_invalid || (!first && skipped + whole > MULTI_LOOKAHEAD_BITS) {
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

    /// The next symbol's entry, in the format of `lookup`. Consumes nothing.
    #[inline]
    pub(super) fn peek_symbol(&self, bits: &BitReader) -> Result<u32, EntropyError> {
        let lookup = self.lookup[bits.peek(LOOKAHEAD_BITS) as usize];
        if lookup != 0 {
            return Ok(lookup);
        }
        self.peek_long_code(bits.peek(16))
    }

    #[cold]
    fn peek_long_code(&self, ahead: u32) -> Result<u32, EntropyError> {
        for length in LOOKAHEAD_BITS + 1..=16 {
            if ahead < self.maxcode[length as usize] {
                let code = (ahead >> (16 - length)) as i32;
                let index = code + self.valoffset[length as usize];
                let symbol = usize::try_from(index)
                    .ok()
                    .and_then(|index| self.symbols.get(index))
                    .ok_or(EntropyError::InvalidCode)?;
                return Ok(lookup_entry(*symbol, length));
            }
        }
        Err(EntropyError::InvalidCode)
    }

    fn pair_entry(&self, ahead: u32) -> Pair {
        let Some(first) = self.short_coefficient(ahead, 0) else {
            return Pair(0);
        };
        if first.step == 0 {
            return Pair(first.bits);
        }
        let mut pair = first.bits | first.step << 4 | u32::from(first.value as u8) << 16;
        if let Some(second) = self.short_coefficient(ahead, first.bits) {
            pair += second.bits | second.step << 9 | u32::from(second.value as u8) << 24;
            pair |= u32::from(second.step == 0) << 14;
        }
        Pair(pair)
    }

    /// The coefficient that starts after the first `skipped` bits of `ahead`, if it is complete in
    /// `ahead` and fits into an `i8`.
    fn short_coefficient(&self, ahead: u32, skipped: u32) -> Option<Coefficient> {
        let left = ahead << skipped & ((1 << MULTI_LOOKAHEAD_BITS) - 1);
        let entry = self.lookup[(left >> (MULTI_LOOKAHEAD_BITS - LOOKAHEAD_BITS)) as usize];
        let (run, size, bits) = (entry >> 4 & 15, entry & 15, entry >> 16);
        if entry == 0 || skipped + bits > MULTI_LOOKAHEAD_BITS {
            return None;
        }
        let (step, value) = match (run, size) {
            (0, 0) => (0, 0),
            (15, 0) => (16, 0),
            (_, 0) => return None,
            _ => {
                let stored = left >> (MULTI_LOOKAHEAD_BITS - bits) & ((1 << size) - 1);
                (run + 1, extend(stored, size))
            }
        };
        let value = i8::try_from(value).ok()?;
        Some(Coefficient { bits, step, value })
    }
}

/// A coefficient that was decoded while a lookup table is built.
struct Coefficient {
    /// Bits of code and value.
    bits: u32,
    /// How far to advance in the block: the run of zeros plus one; 0 at the end of the block.
    step: u32,
    value: i8,
}

/// One or two coefficients that are complete in [`MULTI_LOOKAHEAD_BITS`] bits and fit into an `i8`. All
/// zero where the first one is not.
///
/// ```text
/// bit   31 .... 24    23 .... 16        14           13 ... 9      8 .... 4     3 ... 0
///       2nd value     1st value    end after 1st     2nd step      1st step     bits
/// ```
///
/// A step is the run of zeros plus one for the coefficient itself, 1 to 16. The first step is 0 at the
/// end of the block, the second one where there is no second coefficient. Both together have at most
/// [`MULTI_LOOKAHEAD_BITS`] = 11 bits, which fit into the four bits of the field.
#[derive(Debug, Clone, Copy)]
struct Pair(u32);

impl Pair {
    fn bits(self) -> u32 {
        self.0 & 15
    }

    fn steps(self) -> (usize, usize) {
        ((self.0 >> 4 & 31) as usize, (self.0 >> 9 & 31) as usize)
    }

    fn ends_block(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    fn values(self) -> (i16, i16) {
        (
            i16::from((self.0 >> 16) as i8),
            i16::from((self.0 >> 24) as i8),
        )
    }
}

/// EXTEND of ITU-T T.81, F.2.2.1: of the values of a size, the lower half are negative.
#[inline]
pub(super) fn extend(stored: u32, size: u32) -> i32 {
    let negative = size > 0 && stored >> (size - 1) == 0;
    let value = stored as i32;
    if negative {
        value - (1 << size) + 1
    } else {
        value
    }
}

fn lookup_entry(symbol: u8, length: u32) -> u32 {
    u32::from(symbol) | length << 8 | (length + u32::from(symbol & 15)) << 16
}

/// Reads a DC coefficient, which is coded as the difference to the previous one of its component
/// (DPCM).
#[inline]
pub(super) fn read_dc(
    bits: &mut BitReader,
    dc: &Table,
    predictor: &mut DcPredictor,
) -> Result<(), EntropyError> {
    bits.refill();
    let entry = dc.peek_symbol(bits)?;
    let size = entry & 0xff;
    // The largest size of a difference with 8-bit samples.
    if size > 11 {
        return Err(EntropyError::InvalidSymbol);
    }
    bits.consume(entry >> 8 & 0xff);
    predictor.pred += extend(bits.read_bits(size), size);
    if predictor.pred.abs() > predictor.max {
        return Err(EntropyError::DcOutOfRange);
    }
    bits.check_overrun()
}

/// DC prediction of a component in a scan. An error in one difference propagates to all blocks that
/// follow, so the range check detects data that was out of sync for a while.
pub(super) struct DcPredictor {
    pub(super) pred: i32,
    /// The largest magnitude that 8-bit samples allow, see [`max_dc`].
    pub(super) max: i32,
}

/// Skips a block of a sequential scan. Only its DC coefficient is decoded, for the prediction of the
/// next.
#[inline]
pub(super) fn skip_block(
    bits: &mut BitReader,
    dc: &Table,
    ac: &Table,
    predictor: &mut DcPredictor,
) -> Result<(), EntropyError> {
    read_dc(bits, dc, predictor)?;
    let mut k = 1;
    while k < 64 {
        bits.refill();
        let stride = u32::from(ac.skip_table[bits.peek(MULTI_LOOKAHEAD_BITS) as usize]);
        let after = k + (stride >> 6);
        if stride != 0 && after < 64 {
            bits.consume(stride & 31);
            k = after;
            if stride & 1 << 5 != 0 {
                break;
            }
            continue;
        }
        // One at a time: a long code, or the block ends within the coefficients of the entry.
        let entry = ac.peek_symbol(bits)?;
        bits.consume(entry >> 16);
        let (run, size) = (entry >> 4 & 15, entry & 15);
        if size == 0 {
            match run {
                0 => break,
                15 => {}
                _ => return Err(EntropyError::InvalidSymbol),
            }
        }
        k += run + 1;
    }
    if k > 64 {
        return Err(EntropyError::TooManyCoefficients);
    }
    bits.check_overrun()
}

/// The 64 coefficients of a block in row-major order, then room for the surplus coefficients of damaged
/// data, see [`natural_index`].
pub(super) struct Block(pub(super) [i16; 128]);

impl Block {
    pub(super) const ZERO: Self = Self([0; 128]);

    pub(super) fn coefficients(&self) -> &[i16; 64] {
        // There are always 64.
        self.0.first_chunk().unwrap_or(&[0; 64])
    }

    pub(super) fn clear(&mut self) {
        self.0[..64].fill(0);
    }
}

/// Reads a block of a sequential scan into `block`, whose coefficients must all be zero. Returns
/// whether the block has AC coefficients.
#[inline]
pub(super) fn read_block(
    bits: &mut BitReader,
    dc: &Table,
    ac: &Table,
    predictor: &mut DcPredictor,
    Block(block): &mut Block,
) -> Result<bool, EntropyError> {
    read_dc(bits, dc, predictor)?;
    block[0] = predictor.pred as i16;
    let mut k = 0;
    while k < 63 {
        bits.refill();
        let pair = ac.pair_table[bits.peek(MULTI_LOOKAHEAD_BITS) as usize];
        let (first, second) = pair.steps();
        // After the last coefficient of the block, the second one would be of the next block.
        if pair.0 != 0 && k + first < 63 {
            bits.consume(pair.bits());
            if first == 0 {
                break;
            }
            let values = pair.values();
            // Without a second coefficient its step is 0, and the first overwrites it.
            block[natural_index(k + first + second)] = values.1;
            block[natural_index(k + first)] = values.0;
            k += first + second;
            if pair.ends_block() {
                break;
            }
            continue;
        }
        let entry = ac.peek_symbol(bits)?;
        let (run, size) = (entry >> 4 & 15, entry & 15);
        bits.consume(entry >> 8 & 0xff);
        let value = extend(bits.read_bits(size), size) as i16;
        if size == 0 {
            match run {
                0 => break,
                15 => {}
                _ => return Err(EntropyError::InvalidSymbol),
            }
        }
        k += run as usize + 1;
        block[natural_index(k)] = value;
    }
    if k > 63 {
        return Err(EntropyError::TooManyCoefficients);
    }
    bits.check_overrun()?;
    Ok(k > 0)
}

/// The index in a [`Block`] of the coefficient with zigzag index `k`.
///
/// Damaged data can ask for a `k` above 63: at most 62 + 16, since the loops stop at 63 and a step is
/// at most 16. The second half of the table maps these to index 64, which is never read, as the 16
/// extra entries of libjpeg's `jpeg_natural_order` do. So no branch is needed here; the block's reader
/// checks `k` once at the end. The masks tell the compiler that no index is out of bounds.
#[inline]
fn natural_index(k: usize) -> usize {
    const PADDED: [u8; 128] = {
        let mut order = [64; 128];
        let mut k = 0;
        while k < 64 {
            order[k] = NATURAL_ORDER[k];
            k += 1;
        }
        order
    };
    usize::from(PADDED[k & 127] & 127)
}

/// The row-major index of each coefficient in zigzag order (libjpeg's `jpeg_natural_order`).
pub(super) const NATURAL_ORDER: [u8; 64] = natural_order();

/// Walks along the diagonals, up and down in turn.
const fn natural_order() -> [u8; 64] {
    let mut order = [0; 64];
    let (mut row, mut column) = (0_u8, 0_u8);
    let mut k = 0;
    while k < 64 {
        order[k] = row * 8 + column;
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
    order
}

/// The largest magnitude of a quantized DC coefficient of 8-bit samples: 8 times 128 (the level shift)
/// divided by the quantization step `quant << al`. Allows two steps more for the rounding of encoders.
pub(super) fn max_dc(quant: u16, al: u8) -> i32 {
    let step = i32::from(quant.max(1)) << al;
    1024 / step + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(byte: u8) -> Vec<u8> {
        if byte == 0xff {
            vec![0xff, 0]
        } else {
            vec![byte]
        }
    }

    #[test]
    fn codes_longer_than_the_lookahead_are_decoded() {
        // One code of each length up to 16: 0, 10, 110, ...
        let symbols: Vec<u8> = (1..=16).map(|i| i << 4).collect();
        let table = Table::new(&[1; 16], &symbols).unwrap();
        for length in 1..=16_u32 {
            let code = !(u64::MAX >> (length - 1));
            let bytes: Vec<u8> = code.to_be_bytes().into_iter().flat_map(stuffed).collect();
            let mut bits = BitReader::new(&bytes, 0, Vec::new());
            bits.refill();
            let entry = table.peek_symbol(&bits).unwrap();
            assert_eq!(
                (entry & 0xff, entry >> 8 & 0xff),
                (length << 4 & 0xff, length)
            );
        }
        let ones = [0xff, 0].repeat(3);
        let mut bits = BitReader::new(&ones, 0, Vec::new());
        bits.refill();
        assert!(matches!(
            table.peek_symbol(&bits),
            Err(EntropyError::InvalidCode)
        ));
    }

    #[test]
    fn invalid_tables_are_refused() {
        // Three codes of one bit, and a list of symbols that is too short.
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Table::new(&counts, &[1, 2, 3]).is_none());
        counts[0] = 2;
        assert!(Table::new(&counts, &[1]).is_none());
    }
}
