//! Resizing: with antialiasing in 8 bits, bit for bit as Pillow 13; or bicubic without antialiasing, as
//! OpenCV ([`cubic`]).
//!
//! An antialiased resize has two passes, one in width and one in height. Each is an exact integer sum that is
//! rounded to 8 bits, so scalar ([`plain`]) and vector kernels give the same result.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod coefficients;
mod cubic;
mod plain;
mod rows;
#[cfg(test)]
mod tests;
mod vectorized;

use thiserror::Error;

use self::coefficients::{AxisWeights, Shape};
use self::rows::Rows;
#[cfg(test)]
pub(super) use self::vectorized::tests as instructions;
pub(super) use self::vectorized::{Instructions, vectorized};
use super::{OutOfMemory, Pixels, Rect, resize_scratch};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// Bilinear with antialiasing, as Pillow's `BILINEAR`.
    #[default]
    Bilinear,
    /// The mean of the source pixels that are covered, as Pillow's `BOX`.
    Box,
    /// Bicubic (a = -0.5) with antialiasing, as Pillow's `BICUBIC`.
    Bicubic,
    /// Lanczos (a = 3) with antialiasing, as Pillow's `LANCZOS`.
    Lanczos,
    /// Bicubic without antialiasing, as OpenCV's `INTER_CUBIC`.
    Cubic,
}

/// How to crop and resize an image to a square output: `source` is resized to `scaled`, and the output
/// is cropped from the result at `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResizePlan {
    /// The part of the image that is resized, in image coordinates. The filter reads nothing outside
    /// it, as if it had been cropped first.
    pub source: Rect,
    /// The width and height to which `source` is resized.
    pub scaled: (u32, u32),
    /// Offset (x, y) of the output in the resized image.
    pub window: (u32, u32),
    /// Width and height of the output, which must be within the resized image.
    pub size: u32,
    /// Whether the output is mirrored horizontally.
    pub flip: bool,
    pub filter: Filter,
}

impl ResizePlan {
    /// The length in bytes of the output, `[size, size, 3]`.
    #[must_use]
    pub const fn output_bytes(&self) -> usize {
        self.size as usize * self.size as usize * 3
    }
}

/// A [`ResizePlan`] that does not fit the image or the output. Does not depend on pixel values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// The plan's source is empty or not within the decoded pixels.
    #[error("the source {source_rect:?} of a resize is not within the decoded {decoded:?}")]
    SourceNotDecoded { source_rect: Rect, decoded: Rect },
    /// The output is empty or not within the resized image.
    #[error(
        "the {size}x{size} output at {window:?} is not within the image resized to {}x{}",
        scaled.0, scaled.1
    )]
    WindowOutside {
        size: u32,
        window: (u32, u32),
        scaled: (u32, u32),
    },
    /// An input or output buffer is not `[size, size, 3]`; lengths in bytes.
    #[error("buffer holds {found} bytes, expected {expected}")]
    WrongLength { expected: usize, found: usize },
    /// The memory for the first pass cannot be had.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Resizes images. Holds scratch memory, so use one per worker thread.
#[derive(Debug, Default)]
pub struct Resizer {
    kernel: Kernel,
    x: AxisWeights,
    y: AxisWeights,
    /// The output of the first pass.
    intermediate: Vec<u8>,
    cubic: cubic::Scratch,
    /// The source columns of [`Resizer::sample_nearest`].
    columns: Vec<usize>,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Scratch,
    #[cfg(target_arch = "x86_64")]
    avx512: avx512::Scratch,
}

impl Resizer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resizes `pixels` by `plan` into `out`, `[size, size, 3]`, RGB. The cost depends on the output
    /// and its source pixels, not on the size of the whole resized image.
    ///
    /// # Errors
    /// A plan that does not fit `pixels` or `out`, or is inconsistent. `out` is then unchanged.
    pub fn resize(
        &mut self,
        pixels: Pixels<'_>,
        plan: &ResizePlan,
        out: &mut [u8],
    ) -> Result<(), ResizeError> {
        check(pixels, plan, out)?;
        match plan.filter {
            Filter::Bilinear => self.antialiased(pixels, plan, None, out)?,
            Filter::Box => self.antialiased(pixels, plan, Some(Shape::Box), out)?,
            Filter::Bicubic => self.antialiased(pixels, plan, Some(Shape::Bicubic), out)?,
            Filter::Lanczos => self.antialiased(pixels, plan, Some(Shape::Lanczos), out)?,
            Filter::Cubic => self.cubic(pixels, plan, out),
        }
        Ok(())
    }

    /// Resizes `from`, `[side, side, 3]`, to `out`, `[size, size, 3]`, by nearest neighbour as
    /// TensorFlow's `resize_nearest_neighbor`: the source index along each axis is
    /// `floor(index * (side / size))`, computed in f32.
    ///
    /// # Errors
    /// Lengths that do not match the sizes, or a size of 0. `out` is then unchanged.
    pub fn sample_nearest(
        &mut self,
        from: &[u8],
        side: u32,
        out: &mut [u8],
        size: u32,
    ) -> Result<(), ResizeError> {
        check_length(from, side)?;
        check_length(out, size)?;
        let scale = side as f32 / size as f32;
        let index = |output: u32| ((output as f32 * scale) as u32).min(side - 1) as usize;
        self.columns.clear();
        self.columns.extend((0..size).map(index));
        let (from, _) = from.as_chunks::<3>();
        let (out, _) = out.as_chunks_mut::<3>();
        for (y, out) in (0..size).zip(out.chunks_exact_mut(size as usize)) {
            let row = &from[index(y) * side as usize..][..side as usize];
            for (out, &column) in out.iter_mut().zip(&self.columns) {
                *out = row[column];
            }
        }
        Ok(())
    }

    fn cubic(&mut self, pixels: Pixels<'_>, plan: &ResizePlan, out: &mut [u8]) {
        let source = source(pixels, plan.source);
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(avx512) => avx512.cubic(source, plan, out, &mut self.cubic),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(avx2) => avx2.cubic(source, plan, out, &mut self.cubic),
            Kernel::Plain => cubic::resize(source, plan, out, &mut self.cubic),
        }
    }

    /// `shape` is the filter, if it is not bilinear.
    fn antialiased(
        &mut self,
        pixels: Pixels<'_>,
        plan: &ResizePlan,
        shape: Option<Shape>,
        out: &mut [u8],
    ) -> Result<(), OutOfMemory> {
        let part = plan.source;
        let size = plan.size as usize;
        for (axis, source, scaled, offset) in [
            (&mut self.x, part.width, plan.scaled.0, plan.window.0),
            (&mut self.y, part.height, plan.scaled.1, plan.window.1),
        ] {
            axis.reserve(source, scaled, plan.size, shape)?;
            if let Some(shape) = shape {
                axis.compute_shape(shape, source, scaled, offset, plan.size);
                continue;
            }
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512(avx512) => avx512.compute(axis, source, scaled, offset, plan.size),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2(avx2) => avx2.compute(axis, source, scaled, offset, plan.size),
                Kernel::Plain => axis.compute(source, scaled, offset, plan.size),
            }
        }
        // Only the source pixels that the window needs.
        let (left, width) = self.x.rebase();
        let (top, height) = self.y.rebase();
        let source = source(pixels, part)
            .slice_bytes(left * 3, width * 3)
            .slice_rows(top, height);

        let mut intermediate = std::mem::take(&mut self.intermediate);
        if height_first(plan) {
            let width = source.width;
            resize_scratch(&mut intermediate, width * size)?;
            self.vertical(source, &mut intermediate);
            let tall = Rows::new(&intermediate, width, width, size);
            self.horizontal(tall, plan.flip, out);
        } else {
            let width = size * 3;
            resize_scratch(&mut intermediate, width * height)?;
            self.horizontal(source, plan.flip, &mut intermediate);
            let wide = Rows::new(&intermediate, width, width, height);
            self.vertical(wide, out);
        }
        self.intermediate = intermediate;
        Ok(())
    }

    /// Resizes rows in width.
    fn horizontal(&mut self, from: Rows<'_>, flip: bool, to: &mut [u8]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(avx512) if from.width >= avx512::VECTOR_BYTES => {
                avx512.horizontal(from, &self.x, flip, to, &mut self.avx512);
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(avx2) if from.width >= avx2::VECTOR_BYTES && from.height >= avx2::ROWS => {
                avx2.horizontal(from, &self.x, flip, to, &mut self.avx2);
            }
            _ => plain::horizontal(from, &self.x, flip, to),
        }
    }

    /// Resizes in height.
    fn vertical(&mut self, from: Rows<'_>, to: &mut [u8]) {
        for (index, to) in to.chunks_exact_mut(from.width).enumerate() {
            let (first, weights) = self.y.weights(index);
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512(avx512) if from.width >= avx512::VECTOR_BYTES => {
                    avx512.vertical(from, first, weights, to, &mut self.avx512);
                }
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2(avx2) if from.width >= avx2::VECTOR_BYTES => {
                    avx2.vertical(from, first, weights, to, &mut self.avx2);
                }
                _ => plain::vertical(from, first, weights, to),
            }
        }
    }
}

/// Whether the vertical pass comes first, which matters because each pass rounds to 8 bits.
///
/// Since version 13, Pillow does so where the height shrinks by more than twice as many pixels as the
/// width; before, the horizontal pass always came first.
fn height_first(plan: &ResizePlan) -> bool {
    let shrinks = |source: u32, scaled: u32| i64::from(source) - i64::from(scaled);
    let (width, height) = (plan.source.width, plan.source.height);
    let rows = shrinks(height, plan.scaled.1);
    rows > 0 && rows > 2 * shrinks(width, plan.scaled.0)
}

/// The rows of `part`, which is in image coordinates and within `pixels`.
fn source(pixels: Pixels<'_>, part: Rect) -> Rows<'_> {
    let all = pixels.covers();
    let stride = all.width as usize * 3;
    Rows::new(pixels.bytes(), stride, stride, all.height as usize)
        .slice_rows((part.y - all.y) as usize, part.height as usize)
        .slice_bytes((part.x - all.x) as usize * 3, part.width as usize * 3)
}

/// Checks a plan, before anything is written.
fn check(pixels: Pixels<'_>, plan: &ResizePlan, out: &[u8]) -> Result<(), ResizeError> {
    let decoded = pixels.covers();
    if !decoded.contains(&plan.source) {
        return Err(ResizeError::SourceNotDecoded {
            source_rect: plan.source,
            decoded,
        });
    }
    let output = Rect {
        x: plan.window.0,
        y: plan.window.1,
        width: plan.size,
        height: plan.size,
    };
    if !Rect::whole(plan.scaled.0, plan.scaled.1).contains(&output) {
        return Err(ResizeError::WindowOutside {
            size: plan.size,
            window: plan.window,
            scaled: plan.scaled,
        });
    }
    check_length(out, plan.size)
}

/// Checks that `bytes` has the length of `[size, size, 3]` and at least one pixel.
fn check_length(bytes: &[u8], size: u32) -> Result<(), ResizeError> {
    let expected = (size as usize * size as usize * 3).max(3);
    if size > 0 && bytes.len() == expected {
        Ok(())
    } else {
        Err(ResizeError::WrongLength {
            expected,
            found: bytes.len(),
        })
    }
}

/// The implementation of the passes. All give the same bits.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

/// The name of the fastest kernel that this processor supports.
#[must_use]
pub fn kernel() -> &'static str {
    match Kernel::default() {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(_) => "AVX2",
        Kernel::Plain => "plain",
    }
}

impl Default for Kernel {
    /// The fastest kernel that this processor supports.
    fn default() -> Self {
        Self::all().pop().unwrap_or(Kernel::Plain)
    }
}

impl Kernel {
    /// The kernels that this processor supports, the fastest last.
    fn all() -> Vec<Self> {
        let mut all = vec![Kernel::Plain];
        #[cfg(target_arch = "x86_64")]
        all.extend(avx2::Avx2::detect().map(Kernel::Avx2));
        #[cfg(target_arch = "x86_64")]
        all.extend(avx512::Avx512::detect().map(Kernel::Avx512));
        all
    }
}
