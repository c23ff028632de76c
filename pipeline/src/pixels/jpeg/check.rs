//! Verifies that a JPEG's entropy-coded data is complete, without decoding pixels.
//!
//! JPEG has no checksums, but its coding has little redundancy: a scan must hold exactly the blocks that
//! the frame header promises and then, except for the padding of its last byte, end at a marker. Data
//! that was truncated, padded, or put out of sync by a flipped bit practically never does. (A flipped
//! bit that changes no code length only changes a value; no decoder can detect that.)
//!
//! Coefficients are skipped, so this costs a fraction of decoding them.

use smallvec::SmallVec;

use super::bits::{BitReader, EntropyError};
use super::huffman::{DcPredictor, Table, max_dc, read_dc, skip_block};
use super::segments::{AppMarkers, EOI, Encoding, Frame, SOI, SOS, Segment, Segments};
use super::tables::{QuantTable, Tables};
use crate::pixels::ImageError;

/// The spectral band of a progressive scan, from coefficient `start` (Ss) to `end` (Se) in zigzag order.
struct Band {
    start: u32,
    end: u32,
    /// End-of-band run: number of following blocks without further coefficients in the band.
    eobrun: u32,
}

impl Band {
    /// Checks that no end-of-band run continues, as at a restart and at the end of a scan.
    fn check_eobrun(&self) -> Result<(), EntropyError> {
        match self.eobrun {
            0 => Ok(()),
            _ => Err(EntropyError::EobRunTooLong),
        }
    }

    /// Skips the band of a block in the first scan of its AC coefficients (libjpeg's
    /// `decode_mcu_AC_first`). Sets the bit of `nonzero` of each coefficient that is not zero.
    fn skip_ac_first(
        &mut self,
        bits: &mut BitReader,
        ac: &Table,
        nonzero: &mut u64,
    ) -> Result<(), EntropyError> {
        if self.eobrun > 0 {
            self.eobrun -= 1;
            return Ok(());
        }
        let mut k = self.start;
        while k <= self.end {
            bits.refill();
            let entry = ac.peek_symbol(bits)?;
            let (run, size) = (entry >> 4 & 15, entry & 15);
            bits.consume(entry >> 16);
            if size == 0 {
                if run < 15 {
                    self.eobrun = (1 << run) + bits.read_bits(run) - 1;
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            if k > self.end {
                return Err(EntropyError::TooManyCoefficients);
            }
            *nonzero |= 1 << k;
            k += 1;
        }
        // A run of sixteen zeros (ZRL) must not leave the band either.
        if k > self.end + 1 {
            return Err(EntropyError::TooManyCoefficients);
        }
        bits.check_overrun()
    }

    /// Skips the band of a block in a refinement scan (libjpeg's `decode_mcu_AC_refine`): one correction
    /// bit for each coefficient that is already nonzero, between the codes of those that become nonzero.
    fn skip_ac_refine(
        &mut self,
        bits: &mut BitReader,
        ac: &Table,
        nonzero: &mut u64,
    ) -> Result<(), EntropyError> {
        let mut k = self.start;
        if self.eobrun == 0 {
            while k <= self.end {
                bits.refill();
                let entry = ac.peek_symbol(bits)?;
                let (mut run, size) = (entry >> 4 & 15, entry & 15);
                bits.consume(entry >> 16);
                match size {
                    0 if run < 15 => {
                        self.eobrun = (1 << run) + bits.read_bits(run);
                        break;
                    }
                    0 | 1 => {}
                    _ => return Err(EntropyError::InvalidSymbol),
                }
                while k <= self.end {
                    if *nonzero >> k & 1 == 1 {
                        bits.refill();
                        bits.consume(1);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if k > self.end && (size == 1 || run > 0) {
                    return Err(EntropyError::TooManyCoefficients);
                }
                *nonzero |= u64::from(size) << (k & 63);
                k += 1;
            }
        }
        if self.eobrun > 0 {
            if k <= self.end {
                let band = u64::MAX >> (63 - self.end) & u64::MAX << k;
                let mut correction_bits = (*nonzero & band).count_ones();
                while correction_bits > 0 {
                    // A refill gives at least 56 bits.
                    let now = correction_bits.min(32);
                    bits.refill();
                    bits.consume(now);
                    correction_bits -= now;
                }
            }
            self.eobrun -= 1;
        }
        bits.check_overrun()
    }
}

/// What the scans so far have coded of a component.
#[derive(Debug, Default)]
struct ComponentProgress {
    /// Number of blocks in a row of `nonzero`.
    stride: usize,
    /// Progressive images only: for each block, a bit for each coefficient that is not zero.
    nonzero: Vec<u64>,
    /// For each coefficient, the successive approximation bit position (Al) of its last scan: the
    /// number of low bits that are still missing. `None` before its first scan.
    al: Vec<Option<u8>>,
}

/// The header of a file that was verified.
pub(super) struct Checked {
    pub(super) frame: Frame,
    pub(super) encoding: Encoding,
    /// Whether a scan has some of the components only.
    pub(super) separate_scans: bool,
}

/// Verifies that a JPEG's entropy-coded data is complete. Holds scratch memory only.
#[derive(Debug, Default)]
pub(in crate::pixels) struct Checker {
    tables: Tables,
    coded: Vec<u8>,
    progress: [ComponentProgress; 4],
}

/// The header of a scan (SOS).
pub(super) struct Scan {
    /// For each component: its index in the frame, its DC table and its AC table.
    pub(super) components: SmallVec<[(usize, usize, usize); 4]>,
    spectral: (u32, u32),
    /// Successive approximation (Ah, Al): the number of low bits that were missing before this scan (0
    /// in a first scan) and that are missing after it.
    approximation: (u8, u8),
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
                spectral: (u32::from(start), u32::from(end)),
                approximation: (approximation >> 4, approximation & 15),
            }
        } else {
            // Some encoders write invalid values into these fields of sequential images.
            Self {
                components,
                spectral: (0, 63),
                approximation: (0, 0),
            }
        };
        let band_is_valid = !frame.progressive
            || scan.spectral == (0, 0)
            || (scan.spectral.0 > 0
                && scan.spectral.0 <= scan.spectral.1
                && scan.spectral.1 < 64
                && scan.components.len() == 1);
        let (ah, al) = scan.approximation;
        let bits_are_valid = al <= 13 && (ah == 0 || ah == al + 1);
        // The standard's limit of blocks in an MCU, which all decoders enforce.
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
    /// Verifies the file up to its end-of-image marker; bytes after it are ignored.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<Checked, ImageError> {
        self.tables.clear();
        let mut app_markers = AppMarkers::default();
        let mut frame: Option<Frame> = None;
        let mut segments = Segments::new(bytes);
        let mut first = true;
        let mut separate_scans = false;
        loop {
            let segment = segments.next()?;
            let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
            if (segment.marker == SOI) != std::mem::take(&mut first) {
                return Err(damaged("unexpected start-of-image marker (SOI)"));
            }
            match segment.marker {
                SOS => {
                    let frame = frame
                        .as_ref()
                        .ok_or_else(|| damaged("a scan before the frame header"))?;
                    let scan = Scan::parse(&segment, frame)
                        .ok_or_else(|| damaged("invalid scan header (SOS)"))?;
                    self.begin_scan(frame, &scan).map_err(damaged)?;
                    separate_scans |= scan.components.len() < frame.components.len();
                    segments.at = self.check_scan(bytes, segments.at, frame, &scan)?;
                }
                EOI => {
                    let frame =
                        frame.ok_or_else(|| damaged("the image ends before its frame header"))?;
                    self.check_complete(&frame).map_err(damaged)?;
                    return Ok(Checked {
                        encoding: app_markers.encoding(&frame),
                        frame,
                        separate_scans,
                    });
                }
                _ => {
                    self.tables.read_segment(&segment)?;
                    app_markers.read_segment(&segment);
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
        let max = frame.max_sampling_factors();
        let columns = frame.width.div_ceil(8 * max.0) as usize;
        let rows = frame.height.div_ceil(8 * max.1) as usize;
        for (component, progress) in frame.components.iter().zip(&mut self.progress) {
            progress.al.clear();
            progress.al.resize(64, None);
            progress.stride = columns * component.sampling.0 as usize;
            progress.nonzero.clear();
            if frame.progressive {
                let blocks = progress.stride * rows * component.sampling.1 as usize;
                progress.nonzero.resize(blocks, 0);
            }
        }
    }

    /// Records what a scan codes. The error is a scan that is out of order.
    fn begin_scan(&mut self, frame: &Frame, scan: &Scan) -> Result<(), &'static str> {
        let (ah, al) = scan.approximation;
        for &(component, ..) in &scan.components {
            let missing = &mut self.progress[component].al;
            if frame.progressive && scan.spectral.0 > 0 && missing[0].is_none() {
                return Err("AC scan before the first DC scan");
            }
            for slot in &mut missing[scan.spectral.0 as usize..=scan.spectral.1 as usize] {
                let expected = (ah > 0).then_some(ah);
                if *slot != expected {
                    return Err("scan out of order (successive approximation)");
                }
                *slot = Some(al);
            }
        }
        Ok(())
    }

    /// Checks at the end of the image that no scan is missing.
    fn check_complete(&self, frame: &Frame) -> Result<(), &'static str> {
        for progress in &self.progress[..frame.components.len()] {
            let missing = &progress.al;
            if missing[0].is_none() || missing.iter().flatten().any(|&bits| bits > 0) {
                return Err("the image ends before its last scan");
            }
        }
        Ok(())
    }

    /// Verifies a scan's data. Returns the offset of the marker after it.
    fn check_scan(
        &mut self,
        bytes: &[u8],
        at: usize,
        frame: &Frame,
        scan: &Scan,
    ) -> Result<usize, ImageError> {
        let max = frame.max_sampling_factors();
        // In an interleaved scan, an MCU holds a rectangle of blocks of each component. In a scan of one
        // component, an MCU is one block, and blocks that only pad such rectangles are left out.
        let non_interleaved = scan.components.len() == 1;
        let sampling = match scan.components.as_slice() {
            [(component, ..)] => frame.components[*component].sampling,
            _ => (1, 1),
        };
        let columns = (frame.width * sampling.0).div_ceil(8 * max.0);
        let rows = (frame.height * sampling.1).div_ceil(8 * max.1);
        let Self {
            tables,
            coded,
            progress,
        } = self;
        let al = scan.approximation.1;
        let mut components: Vec<ScanComponent> = scan
            .components
            .iter()
            .map(|&(component, dc_slot, ac_slot)| ScanComponent {
                component,
                predictor: DcPredictor {
                    pred: 0,
                    max: {
                        let QuantTable(quant) =
                            tables.quant(frame.components[component].quant_table);
                        max_dc(quant[0], al)
                    },
                },
                sampling: if non_interleaved {
                    (1, 1)
                } else {
                    frame.components[component].sampling
                },
                dc: tables.dc(dc_slot),
                ac: tables.ac(ac_slot),
            })
            .collect();

        let mut bits = BitReader::new(bytes, at, std::mem::take(coded));
        let mut band = Band {
            start: scan.spectral.0,
            end: scan.spectral.1,
            eobrun: 0,
        };
        let refinement = scan.approximation.0 > 0;
        let mut read_mcu = |components: &mut [ScanComponent],
                            bits: &mut BitReader,
                            column: u32,
                            row: u32,
                            band: &mut Band| {
            for component in components {
                let (h, v) = component.sampling;
                if !frame.progressive {
                    for _ in 0..h * v {
                        skip_block(bits, component.dc, component.ac, &mut component.predictor)?;
                    }
                } else if band.start > 0 {
                    let progress = &mut progress[component.component];
                    let block = row as usize * progress.stride + column as usize;
                    let nonzero = &mut progress.nonzero[block];
                    if refinement {
                        band.skip_ac_refine(bits, component.ac, nonzero)?;
                    } else {
                        band.skip_ac_first(bits, component.ac, nonzero)?;
                    }
                } else if refinement {
                    bits.refill();
                    bits.consume(h * v);
                    bits.check_overrun()?;
                } else {
                    for _ in 0..h * v {
                        read_dc(bits, component.dc, &mut component.predictor)?;
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
                        band.check_eobrun().map_err(|error| bits.explain(error))?;
                        let marker = bits.finish().map_err(|error| bits.explain(error))?;
                        bits.restart_at(restart_marker(bytes, marker, restarts)?);
                        restarts = (restarts + 1) % 8;
                        components
                            .iter_mut()
                            .for_each(|component| component.predictor.pred = 0);
                        until_restart = tables.restart_interval;
                    }
                    until_restart -= 1;
                }
                read_mcu(&mut components, &mut bits, column, row, &mut band)
                    .map_err(|error| bits.explain(error))?;
            }
        }
        band.check_eobrun().map_err(|error| bits.explain(error))?;
        let marker = bits.finish().map_err(|error| bits.explain(error))?;
        self.coded = bits.into_scratch();
        Ok(marker)
    }
}

/// A component in a scan.
struct ScanComponent<'a> {
    component: usize,
    /// Number of blocks in an MCU, horizontally and vertically.
    sampling: (u32, u32),
    predictor: DcPredictor,
    dc: &'a Table,
    ac: &'a Table,
}

/// Checks that restart marker `number` (0 to 7) is at `at`. Returns the offset after it.
pub(super) fn restart_marker(bytes: &[u8], at: usize, number: u8) -> Result<usize, ImageError> {
    let mut segments = Segments::new(bytes);
    segments.at = at;
    let found = segments.next()?.marker;
    if found != 0xd0 + number {
        return Err(ImageError::damaged(
            format!("JPEG marker {found:02x} found, expected restart marker {number}"),
            at,
        ));
    }
    Ok(segments.at)
}
