//! Walks over a JPEG's compressed data without making pixels of it.
//!
//! A JPEG has no checksums, but its code is tight: a scan must give exactly the blocks that the
//! frame header promises and then, but for the padding of its last byte, be at a marker. Data that
//! was cut, padded, or put out of step by a flipped bit practically never adds up so. (A flipped bit
//! that leaves all code lengths as they were only changes a value. No decoder can see that.)
//!
//! Values are skipped, so this costs a fraction of the decoding.

use super::segments::{DHT, DQT, DRI, EOI, Encoding, Frame, SOI, SOS, Segment, Segments};
use crate::pixels::ImageError;

/// Codes up to this length are found with one look.
const LOOK: u32 = 10;

/// So many bits are looked at to skip several coefficients at once.
const STRIDE: u32 = 12;

/// A Huffman table.
#[derive(Debug, Clone)]
struct Table {
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
    };

    /// `counts[i]` codes of length i + 1, their symbols in order; `None` if there are not so many
    /// codes.
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
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

    fn with_strides(mut self) -> Self {
        for ahead in 0..1 << STRIDE {
            self.strides[ahead as usize] = self.stride(ahead);
        }
        self
    }

    fn is(&self, counts: &[u8; 16], symbols: &[u8]) -> bool {
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
}

fn entry(symbol: u8, length: u32) -> u32 {
    u32::from(symbol) | length << 8 | (length + u32::from(symbol & 15)) << 16
}

/// The bits between two markers, with the stuffed zeros removed.
struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to take.
    at: usize,
    /// The next bits, from the top. Below `count` of them are zeros or a part of the next byte.
    buffer: u64,
    /// Bits in the buffer; negative once more were consumed than there are.
    count: i32,
    /// Whether `at` is at a marker or the end of the file.
    ended: bool,
}

/// What can be wrong with coded data.
#[derive(Debug, Clone, Copy)]
enum Fault {
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
    fn new(bytes: &'a [u8], at: usize) -> Self {
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
    fn need(&mut self) {
        if self.count < 32 {
            self.refill();
        }
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits as i32;
    }

    /// Up to 16 bits as a number.
    #[inline]
    fn take(&mut self, bits: u32) -> u32 {
        let value = (self.buffer >> 48) as u32 >> (16 - bits);
        self.skip(bits);
        value
    }

    /// The next symbol's table entry. Consumes nothing.
    #[inline]
    fn look(&self, table: &Table) -> Result<u32, Fault> {
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
    fn enough(&self) -> Result<(), Fault> {
        if self.count < 0 {
            return Err(Fault::Short);
        }
        Ok(())
    }

    /// Ends at the marker that must be here, and gets ready for what may follow it.
    fn finish(&mut self) -> Result<(), Fault> {
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
fn read_dc(bits: &mut Bits, dc: &Table, means: &mut Means) -> Result<(), Fault> {
    bits.need();
    let entry = bits.look(dc)?;
    let size = entry & 0xff;
    // With 8 bits per channel no difference has more.
    if size > 11 {
        return Err(Fault::BadSymbol);
    }
    bits.skip(entry >> 8 & 0xff);
    let value = bits.take(size) as i32;
    // Of the values of a size, the lower half stands for the negative ones.
    let negative = size > 0 && value >> (size - 1) == 0;
    means.last += if negative {
        value - (1 << size) + 1
    } else {
        value
    };
    if means.last.abs() > means.largest {
        return Err(Fault::OutOfRange);
    }
    bits.enough()
}

/// The means of a component's blocks in a scan. An error in one is carried on to all that follow, so
/// that this is where data that was out of step for a while gives itself away.
struct Means {
    last: i32,
    /// What no mean of 8-bit samples exceeds.
    largest: i32,
}

/// A block of a sequential scan.
#[inline]
fn skip_block(bits: &mut Bits, dc: &Table, ac: &Table, means: &mut Means) -> Result<(), Fault> {
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

/// A band of coefficients in a progressive scan.
struct Band {
    start: u32,
    end: u32,
    /// Blocks still to come whose band is empty.
    empty_blocks: u32,
}

impl Band {
    /// Coefficients that are new. `nonzero` has a bit for each that is not zero.
    fn skip_first(&mut self, bits: &mut Bits, ac: &Table, nonzero: &mut u64) -> Result<(), Fault> {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return Ok(());
        }
        let mut k = self.start;
        while k <= self.end {
            bits.need();
            let entry = bits.look(ac)?;
            let (run, size) = (entry >> 4 & 15, entry & 15);
            bits.skip(entry >> 16);
            if size == 0 {
                if run < 15 {
                    self.empty_blocks = (1 << run) + bits.take(run) - 1;
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            if k > self.end {
                return Err(Fault::Overrun);
            }
            *nonzero |= 1 << k;
            k += 1;
        }
        // A run of sixteen zeros may not lead out of the band either.
        if k > self.end + 1 {
            return Err(Fault::Overrun);
        }
        bits.enough()
    }

    /// One more bit for each coefficient that is not zero, between codes for those that become so.
    fn skip_refinement(
        &mut self,
        bits: &mut Bits,
        ac: &Table,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        let mut k = self.start;
        if self.empty_blocks == 0 {
            while k <= self.end {
                bits.need();
                let entry = bits.look(ac)?;
                let (mut run, size) = (entry >> 4 & 15, entry & 15);
                bits.skip(entry >> 16);
                match size {
                    0 if run < 15 => {
                        self.empty_blocks = (1 << run) + bits.take(run);
                        break;
                    }
                    0 | 1 => {}
                    _ => return Err(Fault::BadSymbol),
                }
                while k <= self.end {
                    if *nonzero >> k & 1 == 1 {
                        bits.need();
                        bits.skip(1);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if k > self.end && (size == 1 || run > 0) {
                    return Err(Fault::Overrun);
                }
                *nonzero |= u64::from(size) << (k & 63);
                k += 1;
            }
        }
        if self.empty_blocks > 0 {
            if k <= self.end {
                let band = u64::MAX >> (63 - self.end) & u64::MAX << k;
                let mut refined = (*nonzero & band).count_ones();
                while refined > 0 {
                    let now = refined.min(32);
                    bits.need();
                    bits.skip(now);
                    refined -= now;
                }
            }
            self.empty_blocks -= 1;
        }
        bits.enough()
    }
}

/// What a component has got so far.
#[derive(Debug, Default)]
struct Received {
    /// Blocks in a row of `nonzero`.
    stride: usize,
    /// Per block, in progressive images: which of its coefficients are not zero.
    nonzero: Vec<u64>,
    /// Per coefficient: how many low bits are still to come; `None` before its first scan.
    missing_bits: Vec<Option<u8>>,
}

/// What there is to know of a file whose data is all there.
pub(super) struct Checked {
    pub(super) frame: Frame,
    pub(super) encoding: Encoding,
    /// Whether there are scans that hold some of the components only.
    pub(super) separate_scans: bool,
}

/// Proves that a JPEG's compressed data is all there. Holds scratch memory only.
#[derive(Debug, Default)]
pub(in crate::pixels) struct Checker {
    dc: [Slot; 4],
    ac: [Slot; 4],
    /// By slot, by how much means are divided.
    divisors: [u16; 4],
    restart_interval: u32,
    received: [Received; 4],
}

/// The place of a Huffman table. Most files have the same tables, so one that is no longer defined
/// is kept.
#[derive(Debug, Default)]
struct Slot {
    defined: bool,
    table: Option<Box<Table>>,
}

impl Slot {
    fn define(&mut self, counts: &[u8; 16], symbols: &[u8], of_coefficients: bool) -> Option<()> {
        let same = self.table.as_ref().is_some_and(|t| t.is(counts, symbols));
        if !same {
            let table = Table::new(counts, symbols)?;
            self.table = Some(Box::new(if of_coefficients {
                table.with_strides()
            } else {
                table
            }));
        }
        self.defined = true;
        Some(())
    }

    fn get(&self) -> &Table {
        let table = self.table.as_deref().filter(|_| self.defined);
        table.unwrap_or(&NO_TABLE)
    }
}

/// The header of a scan.
struct Scan {
    /// Index in the frame's components, DC table, AC table.
    components: Vec<(usize, usize, usize)>,
    band: (u32, u32),
    /// How many low bits were missing before and are after this scan.
    missing_bits: (u8, u8),
}

impl Scan {
    fn parse(segment: &Segment, frame: &Frame) -> Option<Self> {
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
                (dc < 4 && ac < 4).then_some((index, dc, ac))
            })
            .collect::<Option<Vec<_>>>()?;
        let distinct = (1..components.len()).all(|i| {
            components[..i]
                .iter()
                .all(|earlier| earlier.0 != components[i].0)
        });
        let scan = if frame.progressive {
            Self {
                components,
                band: (u32::from(start), u32::from(end)),
                missing_bits: (approximation >> 4, approximation & 15),
            }
        } else {
            // Some encoders write nonsense into these fields of sequential images.
            Self {
                components,
                band: (0, 63),
                missing_bits: (0, 0),
            }
        };
        let band_is_valid = !frame.progressive
            || scan.band == (0, 0)
            || (scan.band.0 > 0
                && scan.band.0 <= scan.band.1
                && scan.band.1 < 64
                && scan.components.len() == 1);
        let (before, after) = scan.missing_bits;
        let bits_are_valid = after <= 13 && (before == 0 || before == after + 1);
        // Ten blocks in a unit is the standard's limit, and every decoder's.
        let blocks: u32 = scan
            .components
            .iter()
            .map(|c| frame.components[c.0].sampling)
            .map(|(h, v)| h * v)
            .sum();
        let few_blocks = scan.components.len() == 1 || blocks <= 10;
        (!scan.components.is_empty() && distinct && band_is_valid && bits_are_valid && few_blocks)
            .then_some(scan)
    }
}

impl Checker {
    /// Checks the file up to its end-of-image marker (what follows is not part of the image).
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<Checked, ImageError> {
        for slot in self.dc.iter_mut().chain(&mut self.ac) {
            slot.defined = false;
        }
        self.divisors = [1; 4];
        self.restart_interval = 0;
        let mut application = super::segments::Application::default();
        let mut frame: Option<Frame> = None;
        let mut segments = Segments::new(bytes);
        let mut first = true;
        let mut separate_scans = false;
        loop {
            let segment = segments.next()?;
            let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
            if (segment.marker == SOI) != std::mem::take(&mut first) {
                return Err(damaged("a JPEG within a JPEG"));
            }
            match segment.marker {
                DHT => self
                    .define_tables(segment.body)
                    .ok_or_else(|| damaged("a Huffman table that is none"))?,
                DQT => self
                    .define_divisors(segment.body)
                    .ok_or_else(|| damaged("a quantization table that is none"))?,
                DRI => {
                    let &[high, low] = segment.body else {
                        return Err(damaged("a restart interval of the wrong length"));
                    };
                    self.restart_interval = u32::from(u16::from_be_bytes([high, low]));
                }
                SOS => {
                    let frame = frame
                        .as_ref()
                        .ok_or_else(|| damaged("a scan before the frame header"))?;
                    let scan = Scan::parse(&segment, frame)
                        .ok_or_else(|| damaged("a scan header that makes no sense"))?;
                    self.receive(frame, &scan).map_err(damaged)?;
                    separate_scans |= scan.components.len() < frame.components.len();
                    segments.at = self.check_scan(bytes, segments.at, frame, &scan)?;
                }
                EOI => {
                    let frame =
                        frame.ok_or_else(|| damaged("the image ends before its frame header"))?;
                    self.complete(&frame).map_err(damaged)?;
                    return Ok(Checked {
                        encoding: application.encoding(&frame),
                        frame,
                        separate_scans,
                    });
                }
                _ => {
                    application.see(&segment);
                    if let Some(parsed) = Frame::parse(&segment)? {
                        if frame.is_some() {
                            return Err(damaged("a second frame header"));
                        }
                        self.start(&parsed);
                        frame = Some(parsed);
                    }
                }
            }
        }
    }

    fn define_tables(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&class_and_slot, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let (tables, of_coefficients) = match class_and_slot >> 4 {
                0 => (&mut self.dc, false),
                1 => (&mut self.ac, true),
                _ => return None,
            };
            let slot = tables.get_mut(usize::from(class_and_slot & 15))?;
            slot.define(counts, symbols, of_coefficients)?;
            body = rest;
        }
        Some(())
    }

    fn define_divisors(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&wide_and_slot, rest)) = body.split_first() {
            let wide = match wide_and_slot >> 4 {
                0 => false,
                1 => true,
                _ => return None,
            };
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            let slot = self.divisors.get_mut(usize::from(wide_and_slot & 15))?;
            *slot = if wide {
                u16::from_be_bytes([values[0], values[1]])
            } else {
                u16::from(values[0])
            };
            body = rest;
        }
        Some(())
    }

    fn start(&mut self, frame: &Frame) {
        let most = frame.most_samples();
        let columns = frame.width.div_ceil(8 * most.0) as usize;
        let rows = frame.height.div_ceil(8 * most.1) as usize;
        for (component, received) in frame.components.iter().zip(&mut self.received) {
            received.missing_bits.clear();
            received.missing_bits.resize(64, None);
            received.stride = columns * component.sampling.0 as usize;
            received.nonzero.clear();
            if frame.progressive {
                let blocks = received.stride * rows * component.sampling.1 as usize;
                received.nonzero.resize(blocks, 0);
            }
        }
    }

    /// Notes what a scan brings, or says why it cannot be its turn.
    fn receive(&mut self, frame: &Frame, scan: &Scan) -> Result<(), &'static str> {
        let (before, after) = scan.missing_bits;
        for &(component, ..) in &scan.components {
            let missing = &mut self.received[component].missing_bits;
            if frame.progressive && scan.band.0 > 0 && missing[0].is_none() {
                return Err("a scan of details before their means");
            }
            for slot in &mut missing[scan.band.0 as usize..=scan.band.1 as usize] {
                let expected = (before > 0).then_some(before);
                if *slot != expected {
                    return Err("a scan that does not continue the one before");
                }
                *slot = Some(after);
            }
        }
        Ok(())
    }

    /// Whether all scans were there at the end of the image.
    fn complete(&self, frame: &Frame) -> Result<(), &'static str> {
        for received in &self.received[..frame.components.len()] {
            let missing = &received.missing_bits;
            if missing[0].is_none() || missing.iter().flatten().any(|&bits| bits > 0) {
                return Err("the image ends before its last scan");
            }
        }
        Ok(())
    }

    /// Walks over a scan's data; gives the offset behind it.
    fn check_scan(
        &mut self,
        bytes: &[u8],
        at: usize,
        frame: &Frame,
        scan: &Scan,
    ) -> Result<usize, ImageError> {
        let most = frame.most_samples();
        // Several components take turns, a rectangle of blocks of each. One alone gives block after
        // block, without those that only pad such a rectangle.
        let alone = scan.components.len() == 1;
        let sampling = match scan.components.as_slice() {
            [(component, ..)] => frame.components[*component].sampling,
            _ => (1, 1),
        };
        let columns = (frame.width * sampling.0).div_ceil(8 * most.0);
        let rows = (frame.height * sampling.1).div_ceil(8 * most.1);
        let Self {
            dc,
            ac,
            received,
            divisors,
            ..
        } = self;
        let coarseness = scan.missing_bits.1;
        let mut parts: Vec<Part> = scan
            .components
            .iter()
            .map(|&(component, dc_slot, ac_slot)| Part {
                component,
                means: Means {
                    last: 0,
                    largest: largest_mean(
                        divisors[frame.components[component].divisor],
                        coarseness,
                    ),
                },
                sampling: if alone {
                    (1, 1)
                } else {
                    frame.components[component].sampling
                },
                dc: dc[dc_slot].get(),
                ac: ac[ac_slot].get(),
            })
            .collect();

        let mut bits = Bits::new(bytes, at);
        let mut band = Band {
            start: scan.band.0,
            end: scan.band.1,
            empty_blocks: 0,
        };
        let refinement = scan.missing_bits.0 > 0;
        let mut unit =
            |parts: &mut [Part], bits: &mut Bits, column: u32, row: u32, band: &mut Band| {
                for part in parts {
                    let (across, down) = part.sampling;
                    if !frame.progressive {
                        for _ in 0..across * down {
                            skip_block(bits, part.dc, part.ac, &mut part.means)?;
                        }
                    } else if band.start > 0 {
                        let received = &mut received[part.component];
                        let block = row as usize * received.stride + column as usize;
                        let nonzero = &mut received.nonzero[block];
                        if refinement {
                            band.skip_refinement(bits, part.ac, nonzero)?;
                        } else {
                            band.skip_first(bits, part.ac, nonzero)?;
                        }
                    } else if refinement {
                        bits.need();
                        bits.skip(across * down);
                        bits.enough()?;
                    } else {
                        for _ in 0..across * down {
                            read_dc(bits, part.dc, &mut part.means)?;
                        }
                    }
                }
                Ok(())
            };

        let mut until_restart = self.restart_interval;
        let mut restarts = 0_u8;
        for row in 0..rows {
            for column in 0..columns {
                if self.restart_interval > 0 {
                    if until_restart == 0 {
                        end_of_data(&mut bits, &band)?;
                        bits.at = restart_marker(bytes, bits.at, restarts)?;
                        restarts = (restarts + 1) % 8;
                        parts.iter_mut().for_each(|part| part.means.last = 0);
                        until_restart = self.restart_interval;
                    }
                    until_restart -= 1;
                }
                unit(&mut parts, &mut bits, column, row, &mut band)
                    .map_err(|fault| explain(fault, &bits))?;
            }
        }
        end_of_data(&mut bits, &band)?;
        Ok(bits.at)
    }
}

/// A component's share of a scan.
struct Part<'a> {
    component: usize,
    /// Blocks across and down in a unit.
    sampling: (u32, u32),
    means: Means,
    dc: &'a Table,
    ac: &'a Table,
}

/// Stands for a table that was never defined: no bits mean anything.
static NO_TABLE: Table = Table::NONE;

/// The largest mean (of a block, times eight, less that of grey) that 8-bit samples have, as it is
/// stored. Two steps more are allowed for what encoders round.
fn largest_mean(divisor: u16, missing_bits: u8) -> i32 {
    let step = i32::from(divisor.max(1)) << missing_bits;
    1024 / step + 2
}

fn end_of_data(bits: &mut Bits, band: &Band) -> Result<(), ImageError> {
    let run = if band.empty_blocks > 0 {
        Err(Fault::LongRun)
    } else {
        Ok(())
    };
    run.and_then(|()| bits.finish())
        .map_err(|fault| explain(fault, bits))
}

/// Gives the offset behind the restart marker that must be at `at`.
fn restart_marker(bytes: &[u8], at: usize, number: u8) -> Result<usize, ImageError> {
    let mut segments = Segments::new(bytes);
    segments.at = at;
    let found = segments.next()?.marker;
    if found != 0xd0 + number {
        return Err(ImageError::damaged(
            format!("JPEG marker {found:02x} in place of restart {number}"),
            at,
        ));
    }
    Ok(segments.at)
}

fn explain(fault: Fault, bits: &Bits) -> ImageError {
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
