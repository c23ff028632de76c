//! A decoder that makes pixels of the wanted region only.
//!
//! For sequential JPEGs with one scan, which nearly all photographs are. Blocks outside the region
//! are stepped over, several coefficients at a time, and what lies below it is not looked at (unless
//! all is to be verified). Every pixel is the one that libjpeg would give of the whole image: the
//! region is widened inside by what interpolation of the colours looks at.

use std::ops::Range;

use smallvec::SmallVec;

use super::bits::{Bits, Fault};
use super::check::{Scan, restart_marker};
use super::colour::{Stored, Upsampled, rgb_from_ycbcr};
use super::huffman::{Block, Means, Table, largest_mean, read_block, skip_block};
use super::idct;
use super::segments::{Application, EOI, Encoding, Frame, SOI, SOS, Segments};
use super::tables::{Divisors, Tables};
use crate::pixels::{Header, ImageError, Rect, Verify, resize_scratch};

/// Holds scratch memory only.
#[derive(Debug, Default)]
pub(in crate::pixels) struct RegionDecoder {
    tables: Tables,
    coded: Vec<u8>,
    planes: [Plane; 3],
    colours: [Upsampled; 2],
}

/// What comes before the compressed data of a file that this decoder is for.
struct Opened {
    frame: Frame,
    encoding: Encoding,
    scan: Scan,
    /// Where the data starts.
    at: usize,
}

impl RegionDecoder {
    /// Decodes `region` into `rgb`, `[region.height, region.width, 3]`. `false` if the file is of
    /// another kind than this decoder is for; `rgb` then holds nothing of worth.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        header: &Header,
        region: Rect,
        verify: Verify,
        rgb: &mut Vec<u8>,
    ) -> Result<bool, ImageError> {
        let Some(opened) = self.open(bytes)? else {
            return Ok(false);
        };
        if (opened.frame.width, opened.frame.height) != (header.width, header.height) {
            return Err(ImageError::damaged("the JPEG header changed", 0));
        }
        let layouts: SmallVec<[Layout; 3]> = (0..opened.frame.components.len())
            .map(|component| Layout::new(&opened.frame, component, region))
            .collect();
        for (plane, layout) in self.planes.iter_mut().zip(&layouts) {
            plane.lay(layout);
        }
        self.read(bytes, &opened, &layouts, verify)?;
        for (plane, layout) in self.planes.iter_mut().zip(&layouts) {
            plane.repeat_edges(layout);
        }
        self.write(&layouts, opened.encoding, region, rgb);
        Ok(true)
    }

    /// Reads up to the scan. `None` if the file is of another kind.
    fn open(&mut self, bytes: &[u8]) -> Result<Option<Opened>, ImageError> {
        self.tables.clear();
        let mut application = Application::default();
        let mut frame: Option<Frame> = None;
        let mut segments = Segments::new(bytes);
        loop {
            let segment = segments.next()?;
            match segment.marker {
                SOS => {
                    let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
                    let frame = frame.ok_or_else(|| damaged("a scan before the frame header"))?;
                    let scan = Scan::parse(&segment, &frame)
                        .ok_or_else(|| damaged("a scan header that makes no sense"))?;
                    let encoding = application.encoding(&frame);
                    let fits = !frame.progressive
                        && scan.components.len() == frame.components.len()
                        && matches!(encoding, Encoding::Grey | Encoding::Rgb | Encoding::YCbCr)
                        && Sampling::all_fit(&frame);
                    let at = segments.at;
                    return Ok(fits.then_some(Opened {
                        frame,
                        encoding,
                        scan,
                        at,
                    }));
                }
                // Whoever is for all kinds of file says what is wrong.
                EOI => return Ok(None),
                SOI if segment.offset > 2 => return Ok(None),
                _ => {
                    self.tables.see(&segment)?;
                    application.see(&segment);
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

    /// Reads the scan's blocks into the planes, down to the last that is wanted.
    fn read(
        &mut self,
        bytes: &[u8],
        opened: &Opened,
        layouts: &[Layout],
        verify: Verify,
    ) -> Result<(), ImageError> {
        let Self {
            tables,
            planes,
            coded,
            ..
        } = self;
        let Opened { frame, scan, .. } = opened;
        let mut channels: SmallVec<[Channel; 3]> = scan
            .components
            .iter()
            .map(|&(component, dc, ac)| {
                let divisors = tables.divisors(frame.components[component].divisor);
                let Divisors([first, ..]) = divisors;
                Channel {
                    component,
                    dc: tables.dc(dc),
                    ac: tables.ac(ac),
                    divisors,
                    means: Means {
                        last: 0,
                        largest: largest_mean(*first, 0),
                    },
                }
            })
            .collect();

        let most = frame.most_samples();
        // One channel alone stands block after block, whatever sampling it claims.
        let unit = if layouts.len() == 1 { (1, 1) } else { most };
        let columns = frame.width.div_ceil(8 * unit.0);
        let rows = frame.height.div_ceil(8 * unit.1);
        let wanted = layouts.iter().map(|layout| layout.last_unit()).max();
        let rows_to_read = match verify {
            Verify::Region => wanted.unwrap_or(rows),
            Verify::Full => rows,
        };
        let mut bits = Bits::new(bytes, opened.at, std::mem::take(coded));
        let mut until_restart = tables.restart_interval;
        let mut restarts = 0_u8;
        let mut block = Block::ZERO;
        for row in 0..rows_to_read {
            for column in 0..columns {
                if tables.restart_interval > 0 {
                    if until_restart == 0 {
                        let marker = bits.finish().map_err(|fault| bits.explain(fault))?;
                        bits.start_at(restart_marker(bytes, marker, restarts)?);
                        restarts = (restarts + 1) % 8;
                        channels.iter_mut().for_each(|c| c.means.last = 0);
                        until_restart = tables.restart_interval;
                    }
                    until_restart -= 1;
                }
                for channel in &mut channels {
                    let layout = &layouts[channel.component];
                    let plane = &mut planes[channel.component];
                    channel
                        .read_unit((column, row), layout, plane, &mut bits, &mut block)
                        .map_err(|fault| bits.explain(fault))?;
                }
            }
        }
        if rows_to_read == rows {
            let marker = bits.finish().map_err(|fault| bits.explain(fault))?;
            end_of_image(bytes, marker)?;
            self.coded = bits.into_scratch();
            return Ok(());
        }
        // A file that was cut off has no end marker. Cheap to see: it is the last thing in a file.
        let rest = bytes.get(bits.end()..).unwrap_or_default();
        self.coded = bits.into_scratch();
        if !rest.windows(2).rev().any(|pair| pair == [0xff, EOI]) {
            return Err(ImageError::truncated(
                "there is no end-of-image marker in the JPEG stream",
                bytes.len(),
            ));
        }
        Ok(())
    }

    /// Makes pixels of the planes.
    fn write(&mut self, layouts: &[Layout], encoding: Encoding, region: Rect, rgb: &mut Vec<u8>) {
        let Self {
            planes, colours, ..
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
            let [second, third] = colours;
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

/// The end-of-image marker must follow, with nothing of the image before it.
fn end_of_image(bytes: &[u8], at: usize) -> Result<(), ImageError> {
    let mut segments = Segments::new(bytes);
    segments.at = at;
    loop {
        let segment = segments.next()?;
        match segment.marker {
            EOI => return Ok(()),
            SOS | SOI => {
                return Err(ImageError::damaged(
                    "a scan after the last one",
                    segment.offset,
                ));
            }
            _ => {}
        }
    }
}

/// How the samples of a channel stand to the pixels.
#[derive(Debug, Clone, Copy)]
struct Sampling {
    /// Blocks in a unit, across and down.
    blocks: (u32, u32),
    /// Pixels for each sample, across and down: 1 or 2.
    pixels: (u32, u32),
}

impl Sampling {
    fn new(frame: &Frame, component: usize) -> Option<Self> {
        let most = frame.most_samples();
        let mine = frame.components[component].sampling;
        let alone = frame.components.len() == 1;
        let ratio = |most: u32, mine: u32| {
            let ratio = most / mine;
            (most.is_multiple_of(mine) && ratio <= 2).then_some(ratio)
        };
        Some(Self {
            blocks: if alone { (1, 1) } else { mine },
            pixels: (ratio(most.0, mine.0)?, ratio(most.1, mine.1)?),
        })
    }

    /// Whether this decoder is for images with such channels: the first at full resolution.
    fn all_fit(frame: &Frame) -> bool {
        let mut all = (0..frame.components.len()).map(|component| Self::new(frame, component));
        let first = all.next().flatten();
        first.is_some_and(|first| first.pixels == (1, 1)) && all.all(|other| other.is_some())
    }
}

/// Which part of a channel is wanted, and how it becomes a row of pixels.
#[derive(Debug)]
struct Layout {
    sampling: Sampling,
    /// Samples in the whole channel, across and down.
    size: (u32, u32),
    /// Wanted blocks.
    columns: Range<u32>,
    rows: Range<u32>,
}

impl Layout {
    fn new(frame: &Frame, component: usize, region: Rect) -> Self {
        // Checked when the file was opened; else the plainest layout.
        let sampling = Sampling::new(frame, component).unwrap_or(Sampling {
            blocks: (1, 1),
            pixels: (1, 1),
        });
        let blocks = |start: u32, length: u32, side: u32, pixels: u32| {
            // With a neighbour on each side to interpolate from, as far as there is one.
            let reach = pixels - 1;
            let first = (start / pixels).saturating_sub(reach);
            let end = ((start + length).div_ceil(pixels) + reach).min(side);
            first / 8..end.div_ceil(8)
        };
        let (across, down) = sampling.pixels;
        let size = (frame.width.div_ceil(across), frame.height.div_ceil(down));
        Self {
            sampling,
            size,
            columns: blocks(region.x, region.width, size.0, across),
            rows: blocks(region.y, region.height, size.1, down),
        }
    }

    /// The row of units behind the last that is wanted.
    fn last_unit(&self) -> u32 {
        self.rows.end.div_ceil(self.sampling.blocks.1)
    }

    /// The channel's values for a row of the region.
    fn row<'a>(
        &self,
        plane: &'a Plane,
        upsampled: &'a mut Upsampled,
        y: u32,
        region: Rect,
    ) -> &'a [u8] {
        let (across, down) = self.sampling.pixels;
        let near = y / down;
        let above = y.is_multiple_of(2);
        let far = if above {
            near.saturating_sub(1)
        } else {
            (near + 1).min(self.size.1 - 1)
        };
        let end = region.x + region.width;
        let columns = if across == 1 {
            region.x..end
        } else {
            // In the plane's own count, in which 0 is the neighbour of the first sample.
            region.x / 2..end.div_ceil(2) + 2
        };
        let samples = |row| match across {
            1 => plane.columns(row, columns.clone()),
            _ => plane.with_neighbours(row, columns.clone()),
        };
        let stored = Stored {
            near: samples(near),
            far: (down == 2).then(|| (samples(far), above)),
        };
        if across == 1 {
            return upsampled.down(stored);
        }
        let row = match self.size.0 {
            0..=2 => upsampled.across_repeated(stored),
            _ => upsampled.across(stored),
        };
        &row[(region.x % 2) as usize..][..region.width as usize]
    }
}

/// The wanted samples of a channel: whole blocks, with a column on each side for neighbours.
#[derive(Debug, Default)]
struct Plane {
    bytes: Vec<u8>,
    stride: usize,
    /// Samples of the channel to the left of the first block, and above it.
    left: u32,
    above: u32,
}

impl Plane {
    fn lay(&mut self, layout: &Layout) {
        self.stride = layout.columns.len() * 8 + 2;
        self.left = layout.columns.start * 8;
        self.above = layout.rows.start * 8;
        // All that is read later is written before: nothing has to be cleared.
        let length = self.stride * layout.rows.len() * 8;
        resize_scratch(&mut self.bytes, length);
    }

    fn put(&mut self, column: u32, row: u32, samples: &[u8; 64]) {
        let left = (column * 8 - self.left) as usize + 1;
        let top = (row * 8 - self.above) as usize;
        let mut start = top * self.stride + left;
        for samples in samples.as_chunks::<8>().0 {
            self.bytes[start..start + 8].copy_from_slice(samples);
            start += self.stride;
        }
    }

    /// Beyond the channel's edges its last samples are repeated.
    fn repeat_edges(&mut self, layout: &Layout) {
        let end = (layout.size.0 - self.left) as usize + 1;
        for row in self.bytes.chunks_exact_mut(self.stride) {
            row[0] = row[1];
            if end < row.len() {
                row[end] = row[end - 1];
            }
        }
    }

    fn row(&self, y: u32) -> &[u8] {
        let start = (y - self.above) as usize * self.stride;
        &self.bytes[start..start + self.stride]
    }

    fn columns(&self, y: u32, columns: Range<u32>) -> &[u8] {
        self.with_neighbours(y, columns.start + 1..columns.end + 1)
    }

    /// Columns counted from the neighbour of the channel's first sample.
    fn with_neighbours(&self, y: u32, columns: Range<u32>) -> &[u8] {
        let from_left = |column: u32| (column - self.left) as usize;
        &self.row(y)[from_left(columns.start)..from_left(columns.end)]
    }
}

/// A channel while its blocks are read.
struct Channel<'a> {
    component: usize,
    dc: &'a Table,
    ac: &'a Table,
    divisors: &'a Divisors,
    means: Means,
}

impl Channel<'_> {
    /// Reads its blocks of one unit.
    #[inline]
    fn read_unit(
        &mut self,
        (column, row): (u32, u32),
        layout: &Layout,
        plane: &mut Plane,
        bits: &mut Bits,
        block: &mut Block,
    ) -> Result<(), Fault> {
        let (across, down) = layout.sampling.blocks;
        for row in row * down..(row + 1) * down {
            for column in column * across..(column + 1) * across {
                if !layout.rows.contains(&row) || !layout.columns.contains(&column) {
                    skip_block(bits, self.dc, self.ac, &mut self.means)?;
                    continue;
                }
                let samples = if read_block(bits, self.dc, self.ac, &mut self.means, block)? {
                    let samples = idct::samples(block, self.divisors);
                    block.clear();
                    samples
                } else {
                    [idct::flat(block, self.divisors); 64]
                };
                plane.put(column, row, &samples);
            }
        }
        Ok(())
    }
}
