//! The tables that a JPEG file defines on the way to its scans.

use super::huffman::{NO_TABLE, STORED, Table};
use super::segments::{DHT, DQT, DRI, Segment};
use crate::pixels::ImageError;

/// By slot: Huffman tables, divisors, and the restart interval.
#[derive(Debug, Default)]
pub(super) struct Tables {
    dc: [Slot; 4],
    ac: [Slot; 4],
    divisors: [Divisors; 4],
    /// Units between restart markers; 0 where there are none.
    pub(super) restart_interval: u32,
}

/// By what the coefficients of a block were divided, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Divisors(pub(super) [u16; 64]);

impl Default for Divisors {
    fn default() -> Self {
        Self([1; 64])
    }
}

impl Tables {
    /// Forgets what the file before defined.
    pub(super) fn clear(&mut self) {
        for slot in self.dc.iter_mut().chain(&mut self.ac) {
            slot.defined = false;
        }
        self.divisors = Default::default();
        self.restart_interval = 0;
    }

    /// Takes a segment's tables in, if it holds any.
    pub(super) fn see(&mut self, segment: &Segment) -> Result<(), ImageError> {
        let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
        match segment.marker {
            DHT => self
                .define_codes(segment.body)
                .ok_or_else(|| damaged("invalid Huffman table (DHT)")),
            DQT => self
                .define_divisors(segment.body)
                .ok_or_else(|| damaged("invalid quantization table (DQT)")),
            DRI => {
                let &[high, low] = segment.body else {
                    return Err(damaged("a restart interval of the wrong length"));
                };
                self.restart_interval = u32::from(u16::from_be_bytes([high, low]));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The codes of blocks' means.
    pub(super) fn dc(&self, slot: usize) -> &Table {
        self.dc[slot].get()
    }

    /// The codes of all other coefficients.
    pub(super) fn ac(&self, slot: usize) -> &Table {
        self.ac[slot].get()
    }

    pub(super) fn divisors(&self, slot: usize) -> &Divisors {
        &self.divisors[slot]
    }

    fn define_codes(&mut self, mut body: &[u8]) -> Option<()> {
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
            let Divisors(divisors) = self.divisors.get_mut(usize::from(wide_and_slot & 15))?;
            for (k, place) in STORED.into_iter().enumerate() {
                divisors[usize::from(place)] = match wide {
                    true => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                    false => u16::from(values[k]),
                };
            }
            body = rest;
        }
        Some(())
    }
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
            let table = if of_coefficients {
                table.for_coefficients()
            } else {
                table
            };
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
        table.unwrap_or(&NO_TABLE)
    }
}
