//! The decoded samples of the components, and their conversion to rows of RGB.
//!
//! A region is extended by the neighbours that chroma upsampling reads, so that every pixel equals
//! libjpeg's of the whole image.

use std::ops::Range;

use smallvec::SmallVec;

use super::colour::{SourceRows, Upsampler, rgb_from_cmyk, rgb_from_ycbcr};
use super::segments::{Encoding, Frame};
use crate::pixels::{ImageError, Rect, resize_scratch};

/// The planes of an image's components. Holds scratch memory only.
#[derive(Debug, Default)]
pub(super) struct Planes {
    planes: [Plane; 4],
    upsamplers: [Upsampler; 4],
}

impl Planes {
    pub(super) fn allocate(&mut self, layouts: &[Layout]) -> Result<(), ImageError> {
        for (component, plane) in self.planes.iter_mut().enumerate() {
            match layouts.get(component) {
                Some(layout) => plane.allocate(layout)?,
                // Frees what a giant image before left.
                None => resize_scratch(&mut plane.bytes, 0)?,
            }
        }
        Ok(())
    }

    pub(super) fn plane(&mut self, component: usize) -> &mut Plane {
        &mut self.planes[component]
    }

    /// Upsamples the planes and converts them to RGB.
    pub(super) fn convert_to_rgb(
        &mut self,
        layouts: &[Layout],
        encoding: Encoding,
        region: Rect,
        rgb: &mut Vec<u8>,
    ) -> Result<(), ImageError> {
        let Self { planes, upsamplers } = self;
        for (plane, layout) in planes.iter_mut().zip(layouts) {
            plane.repeat_edges(layout);
        }
        let width = region.width as usize;
        resize_scratch(rgb, width * region.height as usize * 3)?;
        for (y, out) in (region.y..).zip(rgb.chunks_exact_mut(width * 3)) {
            let mut rows: [&[u8]; 4] = [&[]; 4];
            let sources = layouts.iter().zip(planes.iter()).zip(upsamplers.iter_mut());
            for (row, ((layout, plane), upsampler)) in rows.iter_mut().zip(sources) {
                *row = layout.row(plane, upsampler, y, region);
            }
            let [first, second, third, fourth] = rows;
            let pixels = out.as_chunks_mut::<3>().0.iter_mut();
            match encoding {
                Encoding::Grey => pixels
                    .zip(first)
                    .for_each(|(pixel, &grey)| *pixel = [grey; 3]),
                Encoding::YCbCr => rgb_from_ycbcr(first, second, third, out),
                Encoding::Rgb => {
                    let others = second.iter().zip(third);
                    for ((pixel, &r), (&g, &b)) in pixels.zip(first).zip(others) {
                        *pixel = [r, g, b];
                    }
                }
                Encoding::Cmyk => rgb_from_cmyk([first, second, third], fourth, false, out),
                Encoding::Ycck => rgb_from_cmyk([first, second, third], fourth, true, out),
            }
        }
        Ok(())
    }
}

/// The part of a component that a region needs.
#[derive(Debug)]
pub(super) struct Layout {
    /// Upsampling factors, horizontally and vertically: 1 to 4.
    upsampling: (u32, u32),
    /// Width and height of the whole component in samples.
    size: (u32, u32),
    /// The blocks to decode.
    pub(super) columns: Range<u32>,
    pub(super) rows: Range<u32>,
}

impl Layout {
    /// The layouts of all components.
    pub(super) fn all(frame: &Frame, region: Rect) -> Result<SmallVec<[Self; 4]>, ImageError> {
        let all = 0..frame.components.len();
        all.map(|component| Self::new(frame, component, region))
            .collect()
    }

    fn new(frame: &Frame, component: usize, region: Rect) -> Result<Self, ImageError> {
        let max = frame.max_sampling_factors();
        let own = frame.components[component].sampling;
        if !max.0.is_multiple_of(own.0) || !max.1.is_multiple_of(own.1) {
            return Err(ImageError::unsupported(
                "a JPEG whose sampling factors are no multiples of each other",
            ));
        }
        let (h, v) = (max.0 / own.0, max.1 / own.1);
        let blocks = |start: u32, length: u32, side: u32, pixels: u32| {
            // With a neighbour on each side to interpolate from, where there is one.
            let reach = u32::from(pixels == 2);
            let first = (start / pixels).saturating_sub(reach);
            let end = ((start + length).div_ceil(pixels) + reach).min(side);
            first / 8..end.div_ceil(8)
        };
        let size = (frame.width.div_ceil(h), frame.height.div_ceil(v));
        Ok(Self {
            upsampling: (h, v),
            size,
            columns: blocks(region.x, region.width, size.0, h),
            rows: blocks(region.y, region.height, size.1, v),
        })
    }

    /// The component's upsampled row `y` of the region. The choice of filter is libjpeg's
    /// (`jinit_upsampler`).
    fn row<'a>(
        &self,
        plane: &'a Plane,
        upsampler: &'a mut Upsampler,
        y: u32,
        region: Rect,
    ) -> &'a [u8] {
        let end = region.x + region.width;
        let columns = |h: u32| region.x / h..end.div_ceil(h);
        let (h, v) = self.upsampling;
        let near = y / v;
        let above = y.is_multiple_of(2);
        let far = match above {
            true => near.saturating_sub(1),
            false => (near + 1).min(self.size.1 - 1),
        };
        let upsampled = match (h, v) {
            (1, 2) => {
                let row = |y| plane.columns(y, columns(1));
                return upsampler.h1v2_fancy(row(near), row(far), above);
            }
            (2, 1 | 2) if self.size.0 > 2 => {
                // Numbered as in `with_neighbours`: 0 is the neighbour of the first sample.
                let columns = columns(2).start..columns(2).end + 2;
                let row = |y| plane.with_neighbours(y, columns.clone());
                upsampler.h2_fancy(SourceRows {
                    near: row(near),
                    far: (v == 2).then(|| row(far)),
                })
            }
            (1, _) => return plane.columns(near, columns(1)),
            _ => upsampler.replicate(plane.columns(near, columns(h)), h as usize),
        };
        &upsampled[(region.x % h) as usize..][..region.width as usize]
    }
}

/// The decoded samples of a component: whole blocks, with a column on each side for neighbours.
#[derive(Debug, Default)]
pub(super) struct Plane {
    bytes: Vec<u8>,
    stride: usize,
    /// Position of the first block in the component, in samples.
    x0: u32,
    y0: u32,
}

impl Plane {
    fn allocate(&mut self, layout: &Layout) -> Result<(), ImageError> {
        self.stride = layout.columns.len() * 8 + 2;
        self.x0 = layout.columns.start * 8;
        self.y0 = layout.rows.start * 8;
        // Every sample is written before it is read, so nothing has to be cleared.
        let length = self.stride * layout.rows.len() * 8;
        Ok(resize_scratch(&mut self.bytes, length)?)
    }

    pub(super) fn store_block(&mut self, column: u32, row: u32, samples: &[u8; 64]) {
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
