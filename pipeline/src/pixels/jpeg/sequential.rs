//! Decodes scans of sequential JPEGs (baseline and extended), of any grouping of the components.
//!
//! Blocks outside the region are skipped, several coefficients at a time.

use smallvec::SmallVec;

use super::bits::{BitReader, EntropyError};
use super::huffman::{Block, DcPredictor, Table, max_dc, read_block, skip_block};
use super::idct;
use super::planes::{Layout, Planes};
use super::scan::{McuReader, Scan};
use super::segments::Frame;
use super::tables::{QuantTable, Tables, Undefined};

/// A scan that is decoded into planes.
pub(super) struct SequentialScan<'a> {
    components: SmallVec<[Component<'a>; 4]>,
    layouts: &'a [Layout],
    planes: &'a mut Planes,
    block: Block,
}

impl<'a> SequentialScan<'a> {
    pub(super) fn new(
        frame: &Frame,
        scan: &Scan,
        tables: &'a Tables,
        layouts: &'a [Layout],
        planes: &'a mut Planes,
    ) -> Result<Self, Undefined> {
        let component = |component: &super::scan::ScanComponent| {
            let quant = tables.quant(frame.components[component.index].quant_table)?;
            let QuantTable([first, ..]) = quant;
            Ok(Component {
                index: component.index,
                mcu: component.mcu,
                dc: tables.dc(component.dc)?,
                ac: tables.ac(component.ac)?,
                quant,
                predictor: DcPredictor {
                    pred: 0,
                    max: max_dc(*first, 0),
                },
            })
        };
        Ok(Self {
            components: scan
                .components
                .iter()
                .map(component)
                .collect::<Result<_, _>>()?,
            layouts,
            planes,
            block: Block::ZERO,
        })
    }

    /// The number of rows of MCUs down to the last one that the region needs.
    pub(super) fn needed_rows(&self) -> u32 {
        let rows = self.components.iter().map(|component| {
            let end = self.layouts[component.index].rows.end;
            end.div_ceil(component.mcu.1)
        });
        rows.max().unwrap_or(0)
    }
}

impl McuReader for SequentialScan<'_> {
    #[inline]
    fn read(&mut self, at: (u32, u32), bits: &mut BitReader) -> Result<(), EntropyError> {
        let Self {
            components,
            layouts,
            planes,
            block,
        } = self;
        for component in components {
            let layout = &layouts[component.index];
            component.read_mcu(at, layout, planes, bits, block)?;
        }
        Ok(())
    }

    fn skip(&mut self, bits: &mut BitReader) -> Result<(), EntropyError> {
        for component in &mut self.components {
            for _ in 0..component.mcu.0 * component.mcu.1 {
                skip_block(bits, component.dc, component.ac, &mut component.predictor)?;
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for component in &mut self.components {
            component.predictor.pred = 0;
        }
    }
}

/// A component while its blocks are decoded.
struct Component<'a> {
    index: usize,
    mcu: (u32, u32),
    dc: &'a Table,
    ac: &'a Table,
    quant: &'a QuantTable,
    predictor: DcPredictor,
}

impl Component<'_> {
    /// Decodes its blocks of one MCU.
    #[inline]
    fn read_mcu(
        &mut self,
        (column, row): (u32, u32),
        layout: &Layout,
        planes: &mut Planes,
        bits: &mut BitReader,
        block: &mut Block,
    ) -> Result<(), EntropyError> {
        let (h, v) = self.mcu;
        let plane = planes.plane(self.index);
        for row in row * v..(row + 1) * v {
            for column in column * h..(column + 1) * h {
                if !layout.rows.contains(&row) || !layout.columns.contains(&column) {
                    skip_block(bits, self.dc, self.ac, &mut self.predictor)?;
                    continue;
                }
                let samples = if read_block(bits, self.dc, self.ac, &mut self.predictor, block)? {
                    let samples = idct::idct(block.coefficients(), self.quant);
                    block.clear();
                    samples
                } else {
                    let Block([dc, ..]) = block;
                    [idct::idct_dc_only(*dc, self.quant); 64]
                };
                plane.store_block(column, row, &samples);
            }
        }
        Ok(())
    }
}
