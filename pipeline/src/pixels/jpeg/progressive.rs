//! Decodes progressive JPEGs: all scans into coefficients, then the coefficients of the region into
//! samples.

use smallvec::SmallVec;

use super::bits::{BitReader, EntropyError};
use super::huffman::{DcPredictor, NATURAL_ORDER, Table, extend, max_dc, read_dc};
use super::idct;
use super::planes::{Layout, Plane, Planes};
use super::scan::{McuReader, Scan, ScanComponent};
use super::segments::Frame;
use super::smoothing::Smoothing;
use super::tables::{QuantTable, Tables, Undefined};
use crate::pixels::{ImageError, OutOfMemory};

/// What the scans so far have coded of a component.
#[derive(Debug)]
pub(super) struct Coefficients {
    /// The blocks of all MCUs, row by row, each in row-major order. Blocks beyond the component's edges
    /// fill up the last MCUs.
    blocks: Vec<[i16; 64]>,
    /// For each block, whether it may have AC coefficients that are not zero.
    has_ac: Vec<bool>,
    /// Number of blocks in a row.
    stride: usize,
    /// Width and height of the component in blocks.
    size: (u32, u32),
    /// Number of blocks in an MCU, vertically.
    pub(super) mcu_rows: u32,
    /// For each coefficient in zigzag order, the successive approximation bit position (Al) of its last
    /// scan: the number of low bits that are still missing. `None` before its first scan.
    pub(super) al: [Option<u8>; NATURAL_ORDER.len()],
    /// The quantization table as it was defined before the first scan of the component.
    pub(super) quant: Option<QuantTable>,
}

impl Default for Coefficients {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            has_ac: Vec::new(),
            stride: 0,
            size: (0, 0),
            mcu_rows: 1,
            al: [None; 64],
            quant: None,
        }
    }
}

impl Coefficients {
    /// Frees what a giant image before left.
    pub(super) fn clear(&mut self) {
        /// Of 128 bytes.
        const WORTH_KEEPING: usize = 1 << 18;
        self.blocks.clear();
        self.blocks.shrink_to(WORTH_KEEPING);
        self.has_ac.clear();
        self.has_ac.shrink_to(WORTH_KEEPING);
    }

    fn start(&mut self, frame: &Frame, component: usize) -> Result<(), ImageError> {
        let mcus = frame.mcus();
        let sampling = frame.components[component].sampling;
        self.clear();
        self.stride = (mcus.0 * sampling.0) as usize;
        self.mcu_rows = sampling.1;
        self.size = frame.blocks(component);
        self.al = [None; 64];
        self.quant = None;
        let blocks = self.stride * (mcus.1 * sampling.1) as usize;
        let reserved = self.blocks.try_reserve_exact(blocks);
        let reserved = reserved.and_then(|()| self.has_ac.try_reserve_exact(blocks));
        reserved.map_err(|_| {
            ImageError::OutOfMemory(OutOfMemory {
                bytes: blocks * size_of::<[i16; 64]>(),
            })
        })?;
        self.blocks.resize(blocks, [0; 64]);
        self.has_ac.resize(blocks, false);
        Ok(())
    }

    fn index(&self, column: u32, row: u32) -> usize {
        row as usize * self.stride + column as usize
    }

    pub(super) fn size(&self) -> (u32, u32) {
        self.size
    }

    pub(super) fn dc(&self, column: u32, row: u32) -> i16 {
        self.blocks[self.index(column, row)][0]
    }

    /// Records what a scan codes. The error is a scan that is out of order.
    fn begin_scan(&mut self, scan: &Scan) -> Result<(), &'static str> {
        let (ah, al) = scan.approximation;
        if scan.band.0 > 0 && self.al[0].is_none() {
            return Err("AC scan before the first DC scan");
        }
        for known in &mut self.al[scan.band.0 as usize..=scan.band.1 as usize] {
            if *known != (ah > 0).then_some(ah) {
                return Err("scan out of order (successive approximation)");
            }
            *known = Some(al);
        }
        Ok(())
    }

    /// Whether no bit of the coefficients is missing, except those of bands without any scan.
    fn is_complete(&self) -> bool {
        self.al[0].is_some() && self.al.iter().flatten().all(|&bits| bits == 0)
    }

    /// Transforms the blocks of the region.
    fn store(&self, layout: &Layout, smoothing: Option<&Smoothing>, plane: &mut Plane) {
        let Some(quant) = &self.quant else {
            // A component is complete only after its scans.
            return;
        };
        for row in layout.rows.clone() {
            for column in layout.columns.clone() {
                let mut block = self.blocks[self.index(column, row)];
                if let Some(smoothing) = smoothing {
                    smoothing.apply(self, quant, (column, row), &mut block);
                }
                let samples = match block[1..].iter().all(|&coefficient| coefficient == 0) {
                    true => [idct::idct_dc_only(block[0], quant); 64],
                    false => idct::idct(&block, quant),
                };
                plane.store_block(column, row, &samples);
            }
        }
    }
}

/// The coefficients of all components. Holds scratch memory only.
#[derive(Debug, Default)]
pub(super) struct Progressive {
    components: [Coefficients; 4],
}

impl Progressive {
    /// Frees what a giant image before left.
    pub(super) fn clear(&mut self) {
        self.components.iter_mut().for_each(Coefficients::clear);
    }

    pub(super) fn start(&mut self, frame: &Frame) -> Result<(), ImageError> {
        self.clear();
        let all = 0..frame.components.len();
        all.zip(&mut self.components)
            .try_for_each(|(component, coefficients)| coefficients.start(frame, component))
    }

    /// Prepares to read a scan.
    pub(super) fn scan<'a>(
        &'a mut self,
        frame: &Frame,
        scan: &Scan,
        tables: &'a Tables,
    ) -> Result<ProgressiveScan<'a>, ImageError> {
        let undefined = |undefined: Undefined| undefined.at(scan.offset);
        let is_dc = scan.band.0 == 0;
        let mut components = SmallVec::new();
        for &component in &scan.components {
            let coefficients = &mut self.components[component.index];
            let begun = coefficients.begin_scan(scan);
            begun.map_err(|reason| ImageError::damaged(reason, scan.offset))?;
            if coefficients.quant.is_none() {
                let slot = frame.components[component.index].quant_table;
                coefficients.quant = Some(*tables.quant(slot).map_err(undefined)?);
            }
            let first = coefficients.quant.as_ref().map_or(1, |quant| quant.0[0]);
            let table = match (is_dc, scan.is_refinement()) {
                (true, true) => None,
                (true, false) => Some(tables.dc(component.dc).map_err(undefined)?),
                (false, _) => Some(tables.ac(component.ac).map_err(undefined)?),
            };
            components.push(Component {
                component,
                table,
                predictor: DcPredictor {
                    pred: 0,
                    max: max_dc(first, scan.approximation.1),
                },
            });
        }
        Ok(ProgressiveScan {
            components,
            coefficients: &mut self.components,
            coding: Coding {
                start: scan.band.0 as usize,
                end: scan.band.1 as usize,
                al: scan.approximation.1,
                is_refinement: scan.is_refinement(),
                eobrun: 0,
            },
        })
    }

    /// Transforms the blocks of the region. `None` if scans are missing.
    pub(super) fn store(&self, layouts: &[Layout], planes: &mut Planes) -> Option<()> {
        let components = &self.components[..layouts.len()];
        if !components.iter().all(Coefficients::is_complete) {
            return None;
        }
        let smoothing = Smoothing::new(components);
        for (component, (coefficients, layout)) in components.iter().zip(layouts).enumerate() {
            coefficients.store(layout, smoothing.as_ref(), planes.plane(component));
        }
        Some(())
    }
}

/// A scan that is decoded into coefficients.
pub(super) struct ProgressiveScan<'a> {
    components: SmallVec<[Component<'a>; 4]>,
    coefficients: &'a mut [Coefficients; 4],
    coding: Coding,
}

/// A component while its blocks are decoded.
struct Component<'a> {
    component: ScanComponent,
    /// `None` in refinement scans of DC coefficients, which have no codes.
    table: Option<&'a Table>,
    predictor: DcPredictor,
}

/// How a scan codes its coefficients.
struct Coding {
    /// The spectral band in zigzag order, both included. DC coefficients have bands of their own.
    start: usize,
    end: usize,
    /// Number of low bits of the coefficients that this scan leaves out.
    al: u8,
    is_refinement: bool,
    /// End-of-band run: number of following blocks without further coefficients in the band.
    eobrun: u32,
}

impl McuReader for ProgressiveScan<'_> {
    fn read(
        &mut self,
        (column, row): (u32, u32),
        bits: &mut BitReader,
    ) -> Result<(), EntropyError> {
        for component in &mut self.components {
            let coefficients = &mut self.coefficients[component.component.index];
            let (h, v) = component.component.mcu;
            for row in row * v..(row + 1) * v {
                for column in column * h..(column + 1) * h {
                    let index = coefficients.index(column, row);
                    if self.coding.start > 0 {
                        let has_ac = &mut coefficients.has_ac[index];
                        if self.coding.eobrun > 0 && !*has_ac {
                            // Nothing to correct either. Runs are long, so the block is not touched.
                            self.coding.eobrun -= 1;
                            continue;
                        }
                        *has_ac = true;
                    }
                    let block = &mut coefficients.blocks[index];
                    self.coding.read_block(component, bits, block)?;
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, bits: &mut BitReader) -> Result<(), EntropyError> {
        for component in &mut self.components {
            let (h, v) = component.component.mcu;
            for _ in 0..h * v {
                // Every block must consume bits, lest the data never ends.
                self.coding.eobrun = 0;
                self.coding.read_block(component, bits, &mut [0; 64])?;
            }
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), EntropyError> {
        match self.coding.eobrun {
            0 => Ok(()),
            _ => Err(EntropyError::EobRunTooLong),
        }
    }

    fn reset(&mut self) {
        self.coding.eobrun = 0;
        for component in &mut self.components {
            component.predictor.pred = 0;
        }
    }
}

impl Coding {
    fn read_block(
        &mut self,
        component: &mut Component,
        bits: &mut BitReader,
        block: &mut [i16; 64],
    ) -> Result<(), EntropyError> {
        match (component.table, self.start, self.is_refinement) {
            (None, ..) => {
                bits.refill();
                block[0] |= (bits.read_bits(1) << self.al) as i16;
                bits.check_overrun()
            }
            (Some(dc), 0, _) => {
                read_dc(bits, dc, &mut component.predictor)?;
                block[0] = (component.predictor.pred << self.al) as i16;
                Ok(())
            }
            (Some(ac), _, false) => self.read_ac_first(bits, ac, block),
            (Some(ac), _, true) => self.read_ac_refine(bits, ac, block),
        }
    }

    /// Reads the band of a block in the first scan of its AC coefficients (libjpeg's
    /// `decode_mcu_AC_first`).
    fn read_ac_first(
        &mut self,
        bits: &mut BitReader,
        ac: &Table,
        block: &mut [i16; 64],
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
            bits.consume(entry >> 8 & 0xff);
            if size == 0 {
                if run < 15 {
                    self.eobrun = (1 << run) + bits.read_bits(run) - 1;
                    break;
                }
                k += 16;
                continue;
            }
            k += run as usize;
            let value = extend(bits.read_bits(size), size) << self.al;
            if k > self.end {
                return Err(EntropyError::TooManyCoefficients);
            }
            block[usize::from(NATURAL_ORDER[k])] = value as i16;
            k += 1;
        }
        // A run of sixteen zeros (ZRL) must not leave the band either.
        if k > self.end + 1 {
            return Err(EntropyError::TooManyCoefficients);
        }
        bits.check_overrun()
    }

    /// Reads the band of a block in a refinement scan (libjpeg's `decode_mcu_AC_refine`): one correction
    /// bit for each coefficient that is already nonzero, between the codes of those that become nonzero.
    fn read_ac_refine(
        &mut self,
        bits: &mut BitReader,
        ac: &Table,
        block: &mut [i16; 64],
    ) -> Result<(), EntropyError> {
        let mut k = self.start;
        while self.eobrun == 0 && k <= self.end {
            bits.refill();
            let entry = ac.peek_symbol(bits)?;
            let (mut run, size) = (entry >> 4 & 15, entry & 15);
            bits.consume(entry >> 8 & 0xff);
            let value = match size {
                0 if run < 15 => {
                    self.eobrun = (1 << run) + bits.read_bits(run);
                    break;
                }
                0 => 0,
                1 => extend(bits.read_bits(1), 1) << self.al,
                _ => return Err(EntropyError::InvalidSymbol),
            };
            while k <= self.end {
                let coefficient = &mut block[usize::from(NATURAL_ORDER[k])];
                if *coefficient != 0 {
                    self.correct(bits, coefficient);
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if k <= self.end {
                block[usize::from(NATURAL_ORDER[k])] = value as i16;
            } else if size == 1 || run > 0 {
                return Err(EntropyError::TooManyCoefficients);
            }
            k += 1;
        }
        if self.eobrun > 0 {
            for &place in NATURAL_ORDER.get(k..=self.end).unwrap_or_default() {
                let coefficient = &mut block[usize::from(place)];
                if *coefficient != 0 {
                    self.correct(bits, coefficient);
                }
            }
            self.eobrun -= 1;
        }
        bits.check_overrun()
    }

    /// Reads the correction bit of a coefficient that is not zero.
    fn correct(&self, bits: &mut BitReader, coefficient: &mut i16) {
        bits.refill();
        let bit = 1_i16 << self.al;
        if bits.read_bits(1) == 1 && *coefficient & bit == 0 {
            let correction = if *coefficient > 0 { bit } else { -bit };
            // Only damaged data overflows.
            *coefficient = coefficient.wrapping_add(correction);
        }
    }
}
