//! The tables that a JPEG file defines before its scans: DHT, DQT and DRI segments.

use super::huffman::{NATURAL_ORDER, Table};
use super::segments::{DHT, DQT, DRI, Segment};
use crate::pixels::ImageError;

/// Huffman and quantization tables by slot, and the restart interval.
#[derive(Debug, Default)]
pub(super) struct Tables {
    dc: [Slot; 4],
    ac: [Slot; 4],
    quant: [Option<QuantTable>; 4],
    /// Number of MCUs between restart markers; 0 if there are none.
    pub(super) restart_interval: u32,
}

/// A quantization table: the step of each coefficient, in row-major order.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuantTable(pub(super) [u16; 64]);

impl Tables {
    /// Removes the definitions of the previous file.
    pub(super) fn clear(&mut self) {
        for slot in self.dc.iter_mut().chain(&mut self.ac) {
            slot.defined = false;
        }
        self.quant = Default::default();
        self.restart_interval = 0;
    }

    /// Reads the tables of a DHT, DQT or DRI segment; ignores all others.
    pub(super) fn read_segment(&mut self, segment: &Segment) -> Result<(), ImageError> {
        let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
        match segment.marker {
            DHT => self
                .define_huffman(segment.body)
                .ok_or_else(|| damaged("invalid Huffman table (DHT)")),
            DQT => self
                .define_quantization(segment.body)
                .ok_or_else(|| damaged("invalid quantization table (DQT)")),
            DRI => {
                let &[high, low] = segment.body else {
                    return Err(damaged("invalid restart interval (DRI)"));
                };
                self.restart_interval = u32::from(u16::from_be_bytes([high, low]));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Defines the tables of Annex K.3 in the slots 0 and 1 where the file has not. The frames of Motion
    /// JPEG leave them out; libjpeg-turbo does the same (`std_huff_tables`), before the first scan of a
    /// sequential image.
    pub(super) fn define_standard_huffman(&mut self) {
        for (slot, standard) in self.dc.iter_mut().zip(&standard::DC) {
            slot.define_standard(standard, false);
        }
        for (slot, standard) in self.ac.iter_mut().zip(&standard::AC) {
            slot.define_standard(standard, true);
        }
    }

    /// The Huffman table for DC coefficients in a slot from 0 to 3.
    pub(super) fn dc(&self, slot: usize) -> Result<&Table, Undefined> {
        self.dc[slot].get().ok_or(Undefined("DC Huffman", slot))
    }

    /// The Huffman table for AC coefficients in a slot from 0 to 3.
    pub(super) fn ac(&self, slot: usize) -> Result<&Table, Undefined> {
        self.ac[slot].get().ok_or(Undefined("AC Huffman", slot))
    }

    /// The quantization table in a slot from 0 to 3.
    pub(super) fn quant(&self, slot: usize) -> Result<&QuantTable, Undefined> {
        let table = self.quant[slot].as_ref();
        table.ok_or(Undefined("quantization", slot))
    }

    fn define_huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&class_and_slot, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let (tables, is_ac) = match class_and_slot >> 4 {
                0 => (&mut self.dc, false),
                1 => (&mut self.ac, true),
                _ => return None,
            };
            let slot = tables.get_mut(usize::from(class_and_slot & 15))?;
            slot.define(counts, symbols, is_ac)?;
            body = rest;
        }
        Some(())
    }

    fn define_quantization(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&precision_and_slot, rest)) = body.split_first() {
            let wide = match precision_and_slot >> 4 {
                0 => false,
                1 => true,
                _ => return None,
            };
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            let slot = self.quant.get_mut(usize::from(precision_and_slot & 15))?;
            let QuantTable(quant) = slot.insert(QuantTable([0; 64]));
            for (k, place) in NATURAL_ORDER.into_iter().enumerate() {
                quant[usize::from(place)] = match wide {
                    true => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                    false => u16::from(values[k]),
                };
            }
            body = rest;
        }
        Some(())
    }
}

/// A slot for a Huffman table. Most files define the same tables, so a table is kept for the next file
/// and rebuilt only if it differs.
#[derive(Debug, Default)]
struct Slot {
    defined: bool,
    table: Option<Box<Table>>,
}

impl Slot {
    fn define(&mut self, counts: &[u8; 16], symbols: &[u8], is_ac: bool) -> Option<()> {
        let same = self
            .table
            .as_ref()
            .is_some_and(|t| t.matches(counts, symbols));
        if !same {
            let table = Table::new(counts, symbols)?;
            let table = if is_ac { table.with_ac_tables() } else { table };
            match &mut self.table {
                Some(before) => **before = table,
                none => *none = Some(Box::new(table)),
            }
        }
        self.defined = true;
        Some(())
    }

    fn define_standard(&mut self, (counts, symbols): &(&[u8; 16], &[u8]), is_ac: bool) {
        if !self.defined {
            // The standard's tables are valid.
            let _ = self.define(counts, symbols, is_ac);
        }
    }

    fn get(&self) -> Option<&Table> {
        self.table.as_deref().filter(|_| self.defined)
    }
}

/// A table that a scan uses and that the file has not defined before: which kind, and its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Undefined(&'static str, usize);

impl Undefined {
    pub(super) fn at(self, offset: usize) -> ImageError {
        let Self(kind, slot) = self;
        ImageError::damaged(format!("no {kind} table {slot} before this scan"), offset)
    }
}

/// The tables K.3 to K.6 of ITU-T T.81, for luminance and chrominance: the number of codes of each
/// length, and the symbols.
mod standard {
    type Huffman = (&'static [u8; 16], &'static [u8]);

    pub(super) const DC: [Huffman; 2] = [
        (
            &[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            &DC_SYMBOLS,
        ),
        (
            &[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
            &DC_SYMBOLS,
        ),
    ];
    pub(super) const AC: [Huffman; 2] = [
        (
            &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d],
            &LUMINANCE,
        ),
        (
            &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
            &CHROMINANCE,
        ),
    ];

    const DC_SYMBOLS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    #[rustfmt::skip]
    const LUMINANCE: [u8; 162] = [
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
        0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
        0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
        0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
        0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
        0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
        0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
        0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
        0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
        0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
        0xf9, 0xfa,
    ];
    #[rustfmt::skip]
    const CHROMINANCE: [u8; 162] = [
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
        0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
        0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
        0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
        0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
        0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
        0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
        0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
        0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
        0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
        0xf9, 0xfa,
    ];
}
