//! A decoder for a region of an image.
//!
//! Supports sequential JPEGs with one scan, which nearly all photographs are. Blocks outside the region
//! are skipped, several coefficients at a time, and blocks below it are not read (except to verify the
//! whole file). Every pixel equals libjpeg's of the whole image: the region is extended internally by
//! the neighbours that chroma upsampling reads.

use std::ops::Range;

use smallvec::SmallVec;

use super::bits::{BitReader, EntropyError};
use super::check::{Scan, restart_marker};
use super::colour::{SourceRows, Upsampler, rgb_from_ycbcr};
use super::huffman::{Block, DcPredictor, Table, max_dc, read_block, skip_block};
use super::idct;
use super::segments::{AppMarkers, EOI, Encoding, Frame, SOI, SOS, Segments};
use super::tables::{QuantTable, Tables};
use crate::pixels::{Header, ImageError, Rect, Verify, resize_scratch};

/// A decoder for a region. Holds scratch memory only.
#[derive(Debug, Default)]
pub(in crate::pixels) struct RegionDecoder {
    tables: Tables,
    coded: Vec<u8>,
    planes: [Plane; 3],
    upsamplers: [Upsampler; 2],
}

/// The headers of a supported file, up to its entropy-coded data.
struct ScanStart {
    frame: Frame,
    encoding: Encoding,
    scan: Scan,
    /// Offset of the entropy-coded data.
    at: usize,
}

impl RegionDecoder {
    /// Decodes `region` into `rgb`, `[region.height, region.width, 3]`. Returns `false` if the file is
    /// of an unsupported kind; the content of `rgb` is then unspecified.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        header: &Header,
        region: Rect,
        verify: Verify,
        rgb: &mut Vec<u8>,
    ) -> Result<bool, ImageError> {
        let Some(start) = self.open(bytes)? else {
            return Ok(false);
        };
        if (start.frame.width, start.frame.height) != (header.width, header.height) {
            return Err(ImageError::damaged("the JPEG header changed", 0));
        }
        let layouts: SmallVec<[Layout; 3]> = (0..start.frame.components.len())
            .map(|component| Layout::new(&start.frame, component, region))
            .collect();
        for (plane, layout) in self.planes.iter_mut().zip(&layouts) {
            plane.allocate(layout);
        }
        self.read(bytes, &start, &layouts, verify)?;
        for (plane, layout) in self.planes.iter_mut().zip(&layouts) {
            plane.repeat_edges(layout);
        }
        self.convert_to_rgb(&layouts, start.encoding, region, rgb);
        Ok(true)
    }

    /// Reads the headers up to the scan. `None` if the file is of an unsupported kind.
    fn open(&mut self, bytes: &[u8]) -> Result<Option<ScanStart>, ImageError> {
        self.tables.clear();
        let mut app_markers = AppMarkers::default();
        let mut frame: Option<Frame> = None;
        let mut segments = Segments::new(bytes);
        loop {
            let segment = segments.next()?;
            match segment.marker {
                SOS => {
                    let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
                    let frame = frame.ok_or_else(|| damaged("a scan before the frame header"))?;
                    let scan = Scan::parse(&segment, &frame)
                        .ok_or_else(|| damaged("invalid scan header (SOS)"))?;
                    let encoding = app_markers.encoding(&frame);
                    let fits = !frame.progressive
                        && scan.components.len() == frame.components.len()
                        && matches!(encoding, Encoding::Grey | Encoding::Rgb | Encoding::YCbCr)
                        && Sampling::all_fit(&frame);
                    let at = segments.at;
                    return Ok(fits.then_some(ScanStart {
                        frame,
                        encoding,
                        scan,
                        at,
                    }));
                }
                // `check` reports what is wrong with these.
                EOI => return Ok(None),
                SOI if segment.offset > 2 => return Ok(None),
                _ => {
                    self.tables.read_segment(&segment)?;
                    app_markers.read_segment(&segment);
                    if let Some(parsed) = Frame::parse(&segment)? {
                        if frame.is_some() {
                            return Ok(None);
                        }
                        frame = Some(parsed);
                    }
                }
            }
        }
    }

    /// Decodes the scan's blocks into the planes, down to the last row of the region.
    fn read(
        &mut self,
        bytes: &[u8],
        start: &ScanStart,
        layouts: &[Layout],
        verify: Verify,
    ) -> Result<(), ImageError> {
        let Self {
            tables,
            planes,
            coded,
            ..
        } = self;
        let ScanStart { frame, scan, .. } = start;
        let mut components: SmallVec<[ScanComponent; 3]> = scan
            .components
            .iter()
            .map(|&(component, dc, ac)| {
                let quant = tables.quant(frame.components[component].quant_table);
                let QuantTable([first, ..]) = quant;
                ScanComponent {
                    component,
                    dc: tables.dc(dc),
                    ac: tables.ac(ac),
                    quant,
                    predictor: DcPredictor {
                        pred: 0,
                        max: max_dc(*first, 0),
                    },
                }
            })
            .collect();

        let max = frame.max_sampling_factors();
        // In a scan of one component an MCU is one block, whatever its sampling factors.
        let mcu = if layouts.len() == 1 { (1, 1) } else { max };
        let columns = frame.width.div_ceil(8 * mcu.0);
        let rows = frame.height.div_ceil(8 * mcu.1);
        let wanted = layouts.iter().map(|layout| layout.last_mcu()).max();
        let rows_to_read = match verify {
            Verify::Region => wanted.unwrap_or(rows),
            Verify::Full => rows,
        };
        let mut bits = BitReader::new(bytes, start.at, std::mem::take(coded));
        let mut until_restart = tables.restart_interval;
        let mut restarts = 0_u8;
        let mut block = Block::ZERO;
        for row in 0..rows_to_read {
            for column in 0..columns {
                if tables.restart_interval > 0 {
                    if until_restart == 0 {
                        let marker = bits.finish().map_err(|error| bits.explain(error))?;
                        bits.restart_at(restart_marker(bytes, marker, restarts)?);
                        restarts = (restarts + 1) % 8;
                        components.iter_mut().for_each(|c| c.predictor.pred = 0);
                        until_restart = tables.restart_interval;
                    }
                    until_restart -= 1;
                }
                for component in &mut components {
                    let layout = &layouts[component.component];
                    let plane = &mut planes[component.component];
                    component
                        .read_mcu((column, row), layout, plane, &mut bits, &mut block)
                        .map_err(|error| bits.explain(error))?;
                }
            }
        }
        if rows_to_read == rows {
            let marker = bits.finish().map_err(|error| bits.explain(error))?;
            end_of_image(bytes, marker)?;
            self.coded = bits.into_scratch();
            return Ok(());
        }
        // A truncated file has no end-of-image marker. The search is cheap, as the marker is at the end.
        let rest = bytes.get(bits.end()..).unwrap_or_default();
        self.coded = bits.into_scratch();
        if !rest.windows(2).rev().any(|pair| pair == [0xff, EOI]) {
            return Err(ImageError::truncated(
                "no end-of-image marker (EOI) in the JPEG stream",
                bytes.len(),
            ));
        }
        Ok(())
    }

    /// Upsamples the planes and converts them to RGB.
    fn convert_to_rgb(
        &mut self,
        layouts: &[Layout],
        encoding: Encoding,
        region: Rect,
        rgb: &mut Vec<u8>,
    ) {
        let Self {
            planes, upsamplers, ..
        } = self;
        let width = region.width as usize;
        resize_scratch(rgb, width * region.height as usize * 3);
        for (y, out) in (region.y..).zip(rgb.chunks_exact_mut(width * 3)) {
            let first = planes[0].columns(y, region.x..region.x + region.width);
            if encoding == Encoding::Grey {
                for (pixel, &grey) in out.as_chunks_mut::<3>().0.iter_mut().zip(first) {
                    *pixel = [grey; 3];
                }
                continue;
            }
            let [second, third] = upsamplers;
            let second = layouts[1].row(&planes[1], second, y, region);
            let third = layouts[2].row(&planes[2], third, y, region);
            if encoding == Encoding::YCbCr {
                rgb_from_ycbcr(first, second, third, out);
                continue;
            }
            let others = second.iter().zip(third);
            for ((pixel, &r), (&g, &b)) in
                out.as_chunks_mut::<3>().0.iter_mut().zip(first).zip(others)
            {
                *pixel = [r, g, b];
            }
        }
    }
}

/// Checks that the end-of-image marker follows at `at`, without another scan before it.
fn end_of_image(bytes: &[u8], at: usize) -> Result<(), ImageError> {
    let mut segments = Segments::new(bytes);
    segments.at = at;
    loop {
        let segment = segments.next()?;
        match segment.marker {
            EOI => return Ok(()),
            SOS | SOI => {
                return Err(ImageError::damaged(
                    "unexpected scan after the only one",
                    segment.offset,
                ));
            }
            _ => {}
        }
    }
}

/// The sampling of a component, horizontally and vertically.
#[derive(Debug, Clone, Copy)]
struct Sampling {
    /// Number of blocks in an MCU.
    mcu_blocks: (u32, u32),
    /// Upsampling factors, 1 or 2.
    upsampling: (u32, u32),
}

impl Sampling {
    fn new(frame: &Frame, component: usize) -> Option<Self> {
        let max = frame.max_sampling_factors();
        let own = frame.components[component].sampling;
        let alone = frame.components.len() == 1;
        let ratio = |max: u32, own: u32| {
            let ratio = max / own;
            (max.is_multiple_of(own) && ratio <= 2).then_some(ratio)
        };
        Some(Self {
            mcu_blocks: if alone { (1, 1) } else { own },
            upsampling: (ratio(max.0, own.0)?, ratio(max.1, own.1)?),
        })
    }

    /// Whether this decoder supports the frame: the first component at full resolution, the others at
    /// full or half.
    fn all_fit(frame: &Frame) -> bool {
        let mut all = (0..frame.components.len()).map(|component| Self::new(frame, component));
        let first = all.next().flatten();
        first.is_some_and(|first| first.upsampling == (1, 1)) && all.all(|other| other.is_some())
    }
}

/// The part of a component that a region needs.
#[derive(Debug)]
struct Layout {
    sampling: Sampling,
    /// Width and height of the whole component in samples.
    size: (u32, u32),
    /// The blocks to decode.
    columns: Range<u32>,
    rows: Range<u32>,
}

impl Layout {
    fn new(frame: &Frame, component: usize, region: Rect) -> Self {
        // `open` has checked that it is supported.
        let sampling = Sampling::new(frame, component).unwrap_or(Sampling {
            mcu_blocks: (1, 1),
            upsampling: (1, 1),
        });
        let blocks = |start: u32, length: u32, side: u32, pixels: u32| {
            // With a neighbour on each side to interpolate from, where there is one.
            let reach = pixels - 1;
            let first = (start / pixels).saturating_sub(reach);
            let end = ((start + length).div_ceil(pixels) + reach).min(side);
            first / 8..end.div_ceil(8)
        };
        let (h, v) = sampling.upsampling;
        let size = (frame.width.div_ceil(h), frame.height.div_ceil(v));
        Self {
            sampling,
            size,
            columns: blocks(region.x, region.width, size.0, h),
            rows: blocks(region.y, region.height, size.1, v),
        }
    }

    /// Number of rows of MCUs down to the last one that is needed.
    fn last_mcu(&self) -> u32 {
        self.rows.end.div_ceil(self.sampling.mcu_blocks.1)
    }

    /// The component's upsampled row `y` of the region.
    fn row<'a>(
        &self,
        plane: &'a Plane,
        upsampler: &'a mut Upsampler,
        y: u32,
        region: Rect,
    ) -> &'a [u8] {
        let (h, v) = self.sampling.upsampling;
        let near = y / v;
        let above = y.is_multiple_of(2);
        let far = if above {
            near.saturating_sub(1)
        } else {
            (near + 1).min(self.size.1 - 1)
        };
        let end = region.x + region.width;
        let columns = if h == 1 {
            region.x..end
        } else {
            // Numbered as in `with_neighbours`: 0 is the neighbour of the first sample.
            region.x / 2..end.div_ceil(2) + 2
        };
        let samples = |row| match h {
            1 => plane.columns(row, columns.clone()),
            _ => plane.with_neighbours(row, columns.clone()),
        };
        let stored = SourceRows {
            near: samples(near),
            far: (v == 2).then(|| (samples(far), above)),
        };
        if h == 1 {
            return upsampler.h1v2_fancy(stored);
        }
        let row = match self.size.0 {
            0..=2 => upsampler.h2v1_replicate(stored),
            _ => upsampler.h2_fancy(stored),
        };
        &row[(region.x % 2) as usize..][..region.width as usize]
    }
}

/// The decoded samples of a component: whole blocks, with a column on each side for neighbours.
#[derive(Debug, Default)]
struct Plane {
    bytes: Vec<u8>,
    stride: usize,
    /// Position of the first block in the component, in samples.
    x0: u32,
    y0: u32,
}

impl Plane {
    fn allocate(&mut self, layout: &Layout) {
        self.stride = layout.columns.len() * 8 + 2;
        self.x0 = layout.columns.start * 8;
        self.y0 = layout.rows.start * 8;
        // Every sample is written before it is read, so nothing has to be cleared.
        let length = self.stride * layout.rows.len() * 8;
        resize_scratch(&mut self.bytes, length);
    }

    fn store_block(&mut self, column: u32, row: u32, samples: &[u8; 64]) {
        let left = (column * 8 - self.x0) as usize + 1;
        let top = (row * 8 - self.y0) as usize;
        let mut start = top * self.stride + left;
        for samples in samples.as_chunks::<8>().0 {
            self.bytes[start..start + 8].copy_from_slice(samples);
            start += self.stride;
        }
    }

    /// Repeats the first and last samples of each row beyond the component's edges.
    fn repeat_edges(&mut self, layout: &Layout) {
        let end = (layout.size.0 - self.x0) as usize + 1;
        for row in self.bytes.chunks_exact_mut(self.stride) {
            row[0] = row[1];
            if end < row.len() {
                row[end] = row[end - 1];
            }
        }
    }

    fn row(&self, y: u32) -> &[u8] {
        let start = (y - self.y0) as usize * self.stride;
        &self.bytes[start..start + self.stride]
    }

    fn columns(&self, y: u32, columns: Range<u32>) -> &[u8] {
        self.with_neighbours(y, columns.start + 1..columns.end + 1)
    }

    /// A range of columns of row `y`, where 0 is the neighbour of the component's first sample.
    fn with_neighbours(&self, y: u32, columns: Range<u32>) -> &[u8] {
        let from_left = |column: u32| (column - self.x0) as usize;
        &self.row(y)[from_left(columns.start)..from_left(columns.end)]
    }
}

/// A component while its blocks are decoded.
struct ScanComponent<'a> {
    component: usize,
    dc: &'a Table,
    ac: &'a Table,
    quant: &'a QuantTable,
    predictor: DcPredictor,
}

impl ScanComponent<'_> {
    /// Decodes its blocks of one MCU.
    #[inline]
    fn read_mcu(
        &mut self,
        (column, row): (u32, u32),
        layout: &Layout,
        plane: &mut Plane,
        bits: &mut BitReader,
        block: &mut Block,
    ) -> Result<(), EntropyError> {
        let (h, v) = layout.sampling.mcu_blocks;
        for row in row * v..(row + 1) * v {
            for column in column * h..(column + 1) * h {
                if !layout.rows.contains(&row) || !layout.columns.contains(&column) {
                    skip_block(bits, self.dc, self.ac, &mut self.predictor)?;
                    continue;
                }
                let samples = if read_block(bits, self.dc, self.ac, &mut self.predictor, block)? {
                    let samples = idct::idct(block, self.quant);
                    block.clear();
                    samples
                } else {
                    [idct::idct_dc_only(block, self.quant); 64]
                };
                plane.store_block(column, row, &samples);
            }
        }
        Ok(())
    }
}
