//! Resizing: bilinear with antialiasing in 8 bits, bit for bit as Pillow 13; or bicubic without
//! antialiasing, as OpenCV ([`cubic`]).
//!
//! A bilinear resize has two passes, one in width and one in height. Each is an exact integer sum that is
//! rounded to 8 bits, so scalar ([`plain`]) and vector kernels give the same result.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod coefficients;
mod cubic;
mod plain;
mod rows;

use thiserror::Error;

use self::coefficients::AxisWeights;
use self::rows::Rows;
use super::{OutOfMemory, Pixels, Rect, resize_scratch};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// Bilinear with antialiasing, as Pillow's `BILINEAR`.
    #[default]
    Bilinear,
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
            Filter::Bilinear => self.bilinear(pixels, plan, out)?,
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

    fn bilinear(
        &mut self,
        pixels: Pixels<'_>,
        plan: &ResizePlan,
        out: &mut [u8],
    ) -> Result<(), OutOfMemory> {
        let part = plan.source;
        let size = plan.size as usize;
        for (axis, source, scaled, offset) in [
            (&mut self.x, part.width, plan.scaled.0, plan.window.0),
            (&mut self.y, part.height, plan.scaled.1, plan.window.1),
        ] {
            axis.reserve(source, scaled, plan.size)?;
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

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    /// An image whose red is the column and whose green is the row.
    fn picture(width: u32, height: u32) -> Vec<u8> {
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7]))
            .collect()
    }

    fn render(plan: &ResizePlan, width: u32, height: u32) -> Vec<u8> {
        let bytes = picture(width, height);
        let pixels = Pixels::new(&bytes, Rect::whole(width, height)).unwrap();
        let mut out = vec![0; plan.output_bytes()];
        Resizer::new().resize(pixels, plan, &mut out).unwrap();
        out
    }

    fn plan(source: (u32, u32, u32, u32), scaled: (u32, u32), window: (u32, u32)) -> ResizePlan {
        let (x, y, width, height) = source;
        ResizePlan {
            source: Rect {
                x,
                y,
                width,
                height,
            },
            scaled,
            window,
            size: 4,
            flip: false,
            filter: Filter::Bilinear,
        }
    }

    #[test]
    fn the_same_size_is_a_copy_and_a_flip_reverses_columns() {
        let mut plan = plan((3, 2, 4, 4), (4, 4), (0, 0));
        let straight = render(&plan, 9, 8);
        assert_eq!(straight[..12], [3, 2, 7, 4, 2, 7, 5, 2, 7, 6, 2, 7]);
        plan.flip = true;
        let flipped = render(&plan, 9, 8);
        assert_eq!(flipped[..12], [6, 2, 7, 5, 2, 7, 4, 2, 7, 3, 2, 7]);
        assert_eq!(flipped[36..39], [6, 5, 7]);
    }

    #[test]
    fn a_window_is_cropped_from_the_whole_resized_image() {
        let whole = ResizePlan {
            size: 20,
            ..plan((1, 1, 50, 50), (20, 20), (0, 0))
        };
        let expected = render(&whole, 60, 55);
        for (x, y) in [(0, 0), (5, 3), (16, 16)] {
            let part = render(&plan((1, 1, 50, 50), (20, 20), (x, y)), 60, 55);
            for (row, found) in part.chunks_exact(12).enumerate() {
                let start = ((y as usize + row) * 20 + x as usize) * 3;
                assert_eq!(found, &expected[start..start + 12], "window ({x}, {y})");
            }
        }
    }

    #[test]
    fn pixels_of_a_part_of_the_image_are_found_by_image_coordinates() {
        let bytes = picture(10, 10);
        let covers = Rect {
            x: 100,
            y: 200,
            width: 10,
            height: 10,
        };
        let pixels = Pixels::new(&bytes, covers).unwrap();
        let mut out = vec![0; 48];
        let inside = plan((103, 202, 4, 4), (4, 4), (0, 0));
        Resizer::new().resize(pixels, &inside, &mut out).unwrap();
        assert_eq!(out[..3], [3, 2, 7]);
    }

    #[test]
    fn plans_that_do_not_fit_are_errors() {
        let bytes = picture(10, 10);
        let pixels = Pixels::new(&bytes, Rect::whole(10, 10)).unwrap();
        let cases = [
            (plan((7, 0, 4, 4), (4, 4), (0, 0)), 48, "is not within"),
            (plan((0, 0, 0, 4), (4, 4), (0, 0)), 48, "is not within"),
            (plan((0, 0, 4, 4), (4, 4), (1, 0)), 48, "output at (1, 0)"),
            (plan((0, 0, 4, 4), (0, 4), (0, 0)), 48, "resized to 0x4"),
            (
                plan((0, 0, 4, 4), (4, 4), (0, 0)),
                47,
                "47 bytes, expected 48",
            ),
        ];
        for (plan, length, expected) in cases {
            let mut out = vec![9; length];
            let error = Resizer::new().resize(pixels, &plan, &mut out).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(out.iter().all(|&byte| byte == 9));
        }
    }

    /// All kernels of this machine on random plans of one source: the result depends neither on the
    /// kernel nor on the content of the scratch memory.
    #[test]
    fn every_kernel_gives_the_same_bytes() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut bytes = vec![0; 3 * 4000 * 60];
        rng.fill_bytes(&mut bytes);
        let mut resizers: Vec<Resizer> = Kernel::all()
            .into_iter()
            .map(|kernel| Resizer {
                kernel,
                ..Resizer::new()
            })
            .collect();
        // One in four sides is extreme, the others are those of small photographs.
        let side = |rng: &mut Xoshiro256PlusPlus, large| match rng.random_range(0..8) {
            0 => rng.random_range(1..4),
            1 => rng.random_range(1..=large),
            _ => rng.random_range(1..60),
        };
        for _ in 0..2000 {
            let (mut width, mut height) = (side(&mut rng, 4000), side(&mut rng, 60));
            if rng.random() {
                (width, height) = (height, width);
            }
            let covers = Rect::whole(width, height);
            let pixels = Pixels::new(&bytes[..(width * height * 3) as usize], covers).unwrap();
            let (x, y) = (rng.random_range(0..width), rng.random_range(0..height));
            let source = Rect {
                x,
                y,
                width: rng.random_range(1..=width - x),
                height: rng.random_range(1..=height - y),
            };
            let plans: Vec<ResizePlan> = (0..rng.random_range(1..4))
                .map(|_| {
                    let scaled = (side(&mut rng, 300), side(&mut rng, 300));
                    let size = rng.random_range(1..=scaled.0.min(scaled.1));
                    let window = (
                        rng.random_range(0..=scaled.0 - size),
                        rng.random_range(0..=scaled.1 - size),
                    );
                    ResizePlan {
                        source,
                        scaled,
                        window,
                        size,
                        flip: rng.random(),
                        filter: match rng.random() {
                            true => Filter::Bilinear,
                            false => Filter::Cubic,
                        },
                    }
                })
                .collect();
            let mut expected: Option<Vec<Vec<u8>>> = None;
            for resizer in &mut resizers {
                let mut outputs: Vec<Vec<u8>> = plans
                    .iter()
                    .map(|plan| vec![0; plan.output_bytes()])
                    .collect();
                for (plan, out) in plans.iter().zip(&mut outputs) {
                    resizer.resize(pixels, plan, out).unwrap();
                }
                match &expected {
                    None => expected = Some(outputs),
                    Some(expected) => {
                        assert!(*expected == outputs, "{:?}: {plans:?}", resizer.kernel);
                    }
                }
            }
        }
    }
}
