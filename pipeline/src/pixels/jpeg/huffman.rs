//! Huffman-coded data: tables, bits, and the blocks of a sequential scan, read or skipped.

use super::bits::{Bits, Fault};

/// Codes up to this length are found with one look.
const LOOK: u32 = 10;

/// So many bits are looked at to skip several coefficients at once.
const STRIDE: u32 = 11;

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
    /// For skipping coefficients in sequential images, by the next [`STRIDE`] bits: as many of them
    /// (code and value) as are whole in these bits, or else the first one. 0 where the first code is
    /// longer than [`LOOK`] bits or is not a valid symbol.
    ///
    /// ```text
    /// bit   15 ........ 6         5         4 ...... 0
    ///       coefficients    end of block   bits to skip
    /// ```
    ///
    /// Bits to skip are at most 10 + 15: a first code of [`LOOK`] bits with a value of 15.
    strides: [u16; 1 << STRIDE],
    /// For coefficients in sequential images, by the next [`STRIDE`] bits, one or two of them that
    /// are whole in these bits, see [`Pair`].
    pairs: [Pair; 1 << STRIDE],
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
        pairs: [Pair(0); 1 << STRIDE],
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
            self.pairs[ahead as usize] = self.pair(ahead);
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

    /// The next symbol's entry, as in `quick`. Consumes nothing.
    #[inline]
    pub(super) fn look(&self, bits: &Bits) -> Result<u32, Fault> {
        let quick = self.quick[bits.peek(LOOK) as usize];
        if quick != 0 {
            return Ok(quick);
        }
        self.look_further(bits.peek(16))
    }

    #[cold]
    fn look_further(&self, ahead: u32) -> Result<u32, Fault> {
        for length in LOOK + 1..=16 {
            if ahead < self.beyond[length as usize] {
                let code = (ahead >> (16 - length)) as i32;
                let index = code + self.place[length as usize];
                let symbol = usize::try_from(index)
                    .ok()
                    .and_then(|index| self.symbols.get(index))
                    .ok_or(Fault::NoCode)?;
                return Ok(entry(*symbol, length));
            }
        }
        Err(Fault::NoCode)
    }

    fn pair(&self, ahead: u32) -> Pair {
        let Some(first) = self.whole(ahead, 0) else {
            return Pair(0);
        };
        if first.step == 0 {
            return Pair(first.bits);
        }
        let mut pair = first.bits | first.step << 4 | u32::from(first.value as u8) << 16;
        if let Some(second) = self.whole(ahead, first.bits) {
            pair += second.bits | second.step << 9 | u32::from(second.value as u8) << 24;
            pair |= u32::from(second.step == 0) << 14;
        }
        Pair(pair)
    }

    /// The coefficient that starts behind the first `skipped` of the bits `ahead`, if it is whole in
    /// these and small.
    fn whole(&self, ahead: u32, skipped: u32) -> Option<Coefficient> {
        let left = ahead << skipped & ((1 << STRIDE) - 1);
        let entry = self.quick[(left >> (STRIDE - LOOK)) as usize];
        let (run, size, bits) = (entry >> 4 & 15, entry & 15, entry >> 16);
        if entry == 0 || skipped + bits > STRIDE {
            return None;
        }
        let (step, value) = match (run, size) {
            (0, 0) => (0, 0),
            (15, 0) => (16, 0),
            (_, 0) => return None,
            _ => {
                let stored = left >> (STRIDE - bits) & ((1 << size) - 1);
                (run + 1, extend(stored, size))
            }
        };
        let value = i8::try_from(value).ok()?;
        Some(Coefficient { bits, step, value })
    }
}

/// A coefficient in the lookup.
struct Coefficient {
    /// Of code and value.
    bits: u32,
    /// By how much to go on in the block; 0 at its end.
    step: u32,
    value: i8,
}

/// One or two coefficients that are whole in [`STRIDE`] bits and small enough for an `i8`. All zero
/// where the first one is not.
///
/// ```text
/// bit   31 .... 24    23 .... 16        14           13 ... 9      8 .... 4     3 ... 0
///       2nd value     1st value    end after 1st     2nd step      1st step     bits
/// ```
///
/// A step is the run of zeros and the coefficient itself, 1 to 16. The first step is 0 at the end of
/// the block, the second one where there is no second coefficient. Both together have at most 11
/// bits, which fit into four.
#[derive(Debug, Clone, Copy)]
struct Pair(u32);

impl Pair {
    fn bits(self) -> u32 {
        self.0 & 15
    }

    fn steps(self) -> (usize, usize) {
        ((self.0 >> 4 & 31) as usize, (self.0 >> 9 & 31) as usize)
    }

    fn ends(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    fn values(self) -> (i16, i16) {
        (
            i16::from((self.0 >> 16) as i8),
            i16::from((self.0 >> 24) as i8),
        )
    }
}

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

/// A block's mean, which is stored as its difference to that of the component's block before.
#[inline]
pub(super) fn read_dc(bits: &mut Bits, dc: &Table, means: &mut Means) -> Result<(), Fault> {
    bits.need();
    let entry = dc.look(bits)?;
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
        let stride = u32::from(ac.strides[bits.peek(STRIDE) as usize]);
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
        let entry = ac.look(bits)?;
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

/// A block's coefficients, row by row, and behind them room for what damaged data has too many of.
pub(super) struct Block(pub(super) [i16; 128]);

impl Block {
    pub(super) const ZERO: Self = Self([0; 128]);

    pub(super) fn clear(&mut self) {
        self.0[..64].fill(0);
    }
}

/// Reads a block of a sequential scan, whose coefficients must all be zero before. Says whether it
/// has any but its mean.
#[inline]
pub(super) fn read_block(
    bits: &mut Bits,
    dc: &Table,
    ac: &Table,
    means: &mut Means,
    Block(block): &mut Block,
) -> Result<bool, Fault> {
    read_dc(bits, dc, means)?;
    block[0] = means.last as i16;
    let mut k = 0;
    while k < 63 {
        bits.need();
        let pair = ac.pairs[bits.peek(STRIDE) as usize];
        let (first, second) = pair.steps();
        // Behind the last coefficient of a block there is no second one of this block.
        if pair.0 != 0 && k + first < 63 {
            bits.skip(pair.bits());
            if first == 0 {
                break;
            }
            let values = pair.values();
            // No second one is a step of zero: the first then overwrites it.
            block[place(k + first + second)] = values.1;
            block[place(k + first)] = values.0;
            k += first + second;
            if pair.ends() {
                break;
            }
            continue;
        }
        let entry = ac.look(bits)?;
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
        block[place(k)] = value;
    }
    if k > 63 {
        return Err(Fault::Overrun);
    }
    bits.enough()?;
    Ok(k > 0)
}

/// The place in a [`Block`] of the coefficient with zigzag index `k`.
///
/// Damaged data can ask for a `k` above 63: at most 62 + 16, since the loops stop at 63 and a step is
/// at most 16. The second half of the table sends these to place 64, which nobody reads, so no
/// branch is needed here; the block's reader checks `k` once at the end. The masks tell the compiler
/// that no index is out of bounds.
#[inline]
fn place(k: usize) -> usize {
    const PLACES: [u8; 128] = {
        let mut places = [64; 128];
        let mut k = 0;
        while k < 64 {
            places[k] = STORED[k];
            k += 1;
        }
        places
    };
    usize::from(PLACES[k & 127] & 127)
}

/// Where in a block, row by row, the coefficients stand in the order in which they are stored.
pub(super) const STORED: [u8; 64] = places();

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

/// Stands for a table that was never defined: no bits mean anything.
pub(super) static NO_TABLE: Table = Table::NONE;

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
    fn codes_longer_than_the_quick_table_are_found() {
        // One code of each length up to 16: 0, 10, 110, ...
        let symbols: Vec<u8> = (1..=16).map(|i| i << 4).collect();
        let table = Table::new(&[1; 16], &symbols).unwrap();
        for length in 1..=16_u32 {
            let code = !(u64::MAX >> (length - 1));
            let bytes: Vec<u8> = code.to_be_bytes().into_iter().flat_map(stuffed).collect();
            let mut bits = Bits::new(&bytes, 0, Vec::new());
            bits.need();
            let entry = table.look(&bits).unwrap();
            assert_eq!(
                (entry & 0xff, entry >> 8 & 0xff),
                (length << 4 & 0xff, length)
            );
        }
        let ones = [0xff, 0].repeat(3);
        let mut bits = Bits::new(&ones, 0, Vec::new());
        bits.need();
        assert!(matches!(table.look(&bits), Err(Fault::NoCode)));
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
}
