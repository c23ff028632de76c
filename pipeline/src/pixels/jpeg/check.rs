//! Walks over a JPEG's compressed data without making pixels of it.
//!
//! A JPEG has no checksums, but its code is tight: a scan must give exactly the blocks that the
//! frame header promises and then, but for the padding of its last byte, be at a marker. Data that
//! was cut, padded, or put out of step by a flipped bit practically never adds up so. (A flipped bit
//! that leaves all code lengths as they were only changes a value. No decoder can see that.)
//!
//! Values are skipped, so this costs a fraction of the decoding.

use smallvec::SmallVec;

use super::bits::{Bits, Fault};
use super::huffman::{Means, Table, largest_mean, read_dc, skip_block};
use super::segments::{Application, EOI, Encoding, Frame, SOI, SOS, Segment, Segments};
use super::tables::{Divisors, Tables};
use crate::pixels::ImageError;

/// A band of coefficients in a progressive scan.
struct Band {
    start: u32,
    end: u32,
    /// Blocks still to come whose band is empty.
    empty_blocks: u32,
}

impl Band {
    /// No run of empty blocks goes on.
    fn end(&self) -> Result<(), Fault> {
        match self.empty_blocks {
            0 => Ok(()),
            _ => Err(Fault::LongRun),
        }
    }

    /// Coefficients that are new. `nonzero` has a bit for each that is not zero.
    fn skip_first(&mut self, bits: &mut Bits, ac: &Table, nonzero: &mut u64) -> Result<(), Fault> {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return Ok(());
        }
        let mut k = self.start;
        while k <= self.end {
            bits.need();
            let entry = ac.look(bits)?;
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
                let entry = ac.look(bits)?;
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
    tables: Tables,
    coded: Vec<u8>,
    received: [Received; 4],
}

/// The header of a scan.
pub(super) struct Scan {
    /// Index in the frame's components, DC table, AC table.
    pub(super) components: SmallVec<[(usize, usize, usize); 4]>,
    band: (u32, u32),
    /// How many low bits were missing before and are after this scan.
    missing_bits: (u8, u8),
}

impl Scan {
    pub(super) fn parse(segment: &Segment, frame: &Frame) -> Option<Self> {
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
            .collect::<Option<SmallVec<[_; 4]>>>()?;
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
        self.tables.clear();
        let mut application = Application::default();
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
                    self.tables.see(&segment)?;
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
            tables,
            coded,
            received,
        } = self;
        let coarseness = scan.missing_bits.1;
        let mut parts: Vec<Part> = scan
            .components
            .iter()
            .map(|&(component, dc_slot, ac_slot)| Part {
                component,
                means: Means {
                    last: 0,
                    largest: {
                        let Divisors(divisors) =
                            tables.divisors(frame.components[component].divisor);
                        largest_mean(divisors[0], coarseness)
                    },
                },
                sampling: if alone {
                    (1, 1)
                } else {
                    frame.components[component].sampling
                },
                dc: tables.dc(dc_slot),
                ac: tables.ac(ac_slot),
            })
            .collect();

        let mut bits = Bits::new(bytes, at, std::mem::take(coded));
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

        let mut until_restart = tables.restart_interval;
        let mut restarts = 0_u8;
        for row in 0..rows {
            for column in 0..columns {
                if tables.restart_interval > 0 {
                    if until_restart == 0 {
                        band.end().map_err(|fault| bits.explain(fault))?;
                        let marker = bits.finish().map_err(|fault| bits.explain(fault))?;
                        bits.start_at(restart_marker(bytes, marker, restarts)?);
                        restarts = (restarts + 1) % 8;
                        parts.iter_mut().for_each(|part| part.means.last = 0);
                        until_restart = tables.restart_interval;
                    }
                    until_restart -= 1;
                }
                unit(&mut parts, &mut bits, column, row, &mut band)
                    .map_err(|fault| bits.explain(fault))?;
            }
        }
        band.end().map_err(|fault| bits.explain(fault))?;
        let marker = bits.finish().map_err(|fault| bits.explain(fault))?;
        self.coded = bits.into_scratch();
        Ok(marker)
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

/// Gives the offset behind the restart marker that must be at `at`.
pub(super) fn restart_marker(bytes: &[u8], at: usize, number: u8) -> Result<usize, ImageError> {
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
