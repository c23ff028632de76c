//! The tables that a JPEG file defines before its scans: DHT, DQT and DRI segments.

use super::huffman::{NATURAL_ORDER, Table, UNDEFINED_TABLE};
use super::segments::{DHT, DQT, DRI, Segment};
use crate::pixels::ImageError;

/// Huffman and quantization tables by slot, and the restart interval.
#[derive(Debug, Default)]
pub(super) struct Tables {
    dc: [Slot; 4],
    ac: [Slot; 4],
    quant: [QuantTable; 4],
    /// Number of MCUs between restart markers; 0 if there are none.
    pub(super) restart_interval: u32,
}

/// A quantization table: the step of each coefficient, in row-major order.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuantTable(pub(super) [u16; 64]);

impl Default for QuantTable {
    fn default() -> Self {
        Self([1; 64])
    }
}

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

    /// The Huffman table for DC coefficients in a slot from 0 to 3.
    pub(super) fn dc(&self, slot: usize) -> &Table {
        self.dc[slot].get()
    }

    /// The Huffman table for AC coefficients in a slot from 0 to 3.
    pub(super) fn ac(&self, slot: usize) -> &Table {
        self.ac[slot].get()
    }

    pub(super) fn quant(&self, slot: usize) -> &QuantTable {
        &self.quant[slot]
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
            let QuantTable(quant) = self.quant.get_mut(usize::from(precision_and_slot & 15))?;
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

    fn get(&self) -> &Table {
        let table = self.table.as_deref().filter(|_| self.defined);
        table.unwrap_or(&UNDEFINED_TABLE)
    }
}
