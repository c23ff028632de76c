//! Resizing: bilinear with antialiasing in 8 bits, to the bit what Pillow 13 makes; or bicubic
//! without antialiasing, as OpenCV does it ([`cubic`]).
//!
//! Two passes, one in width and one in height, each an exact sum of integers that is rounded to 8
//! bits. So how a pass is computed is free: a pixel at a time ([`plain`]) or with vectors.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod coefficients;
mod cubic;
mod plain;
mod rows;

use thiserror::Error;

use self::coefficients::Axis;
use self::rows::Rows;
use super::{Pixels, Rect, resize_scratch};

/// What the pixels of a scaled picture are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// Bilinear with antialiasing, as Pillow's `BILINEAR`.
    #[default]
    Bilinear,
    /// Bicubic without antialiasing, as OpenCV's `INTER_CUBIC`.
    Cubic,
}

/// How a part of an image becomes a square output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rendition {
    /// The part of the image that is scaled. The filter reads nothing beyond it, as if it had been
    /// cut out first.
    pub source: Rect,
    /// The width and height that `source` is scaled to.
    pub scaled: (u32, u32),
    /// Columns and rows of the scaled picture to the left of and above the output.
    pub window: (u32, u32),
    /// Width and height of the output, which must lie within the scaled picture.
    pub size: u32,
    /// Whether the output is mirrored, left to right.
    pub flip: bool,
    /// What the pixels of the scaled picture are made of.
    pub filter: Filter,
}

impl Rendition {
    /// The length of the output, `[size, size, 3]`, in bytes.
    #[must_use]
    pub const fn output_bytes(&self) -> usize {
        self.size as usize * self.size as usize * 3
    }
}

/// Why a rendition cannot be made. It does not depend on what the pixels show.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The source is empty or not among the decoded pixels.
    #[error("the source {asked:?} of a resize is not within the decoded {decoded:?}")]
    SourceNotDecoded {
        /// The rendition's source.
        asked: Rect,
        /// What the pixels cover.
        decoded: Rect,
    },
    /// The output would not lie within the scaled picture, or is empty.
    #[error(
        "no {size}x{size} output at {window:?} of a picture scaled to {}x{}",
        scaled.0, scaled.1
    )]
    WindowOutside {
        /// The size of the output.
        size: u32,
        /// Its offset.
        window: (u32, u32),
        /// The size of the scaled picture.
        scaled: (u32, u32),
    },
    /// The buffer of an output, or of what is sampled, has the wrong length.
    #[error("buffer holds {found} bytes, expected {expected}")]
    WrongLength {
        /// `size * size * 3`.
        expected: usize,
        /// The length given.
        found: usize,
    },
}

/// Scales parts of images into outputs. One per worker thread, for its scratch memory.
#[derive(Debug, Default)]
pub struct Resizer {
    kernel: Kernel,
    x: Axis,
    y: Axis,
    /// What the first pass makes and the second reads.
    between: Vec<u8>,
    cubic: cubic::Scratch,
    /// The columns that [`Resizer::sample`] takes.
    columns: Vec<usize>,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Scratch,
    #[cfg(target_arch = "x86_64")]
    avx512: avx512::Scratch,
}

impl Resizer {
    /// A resizer without scratch memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes what `plan` describes into `out`, `[size, size, 3]`, RGB.
    ///
    /// Only the output is computed, however large the scaled picture would be.
    ///
    /// # Errors
    /// A plan that does not fit to `pixels`, to `out` or to itself. `out` is then unchanged.
    pub fn render(
        &mut self,
        pixels: Pixels<'_>,
        plan: &Rendition,
        out: &mut [u8],
    ) -> Result<(), RenderError> {
        check(pixels, plan, out)?;
        match plan.filter {
            Filter::Bilinear => self.bilinear(pixels, plan, out),
            Filter::Cubic => self.cubic(pixels, plan, out),
        }
        Ok(())
    }

    /// Makes `out`, `[size, size, 3]`, of pixels of `from`, `[side, side, 3]`: each the one whose index
    /// along each axis is index * side / size, rounded down. As TensorFlow's `resize_nearest_neighbor`
    /// does, quotient and product are those of f32.
    ///
    /// # Errors
    /// Lengths that do not fit to the sides, or a side of 0. `out` is then unchanged.
    pub fn sample(
        &mut self,
        from: &[u8],
        side: u32,
        out: &mut [u8],
        size: u32,
    ) -> Result<(), RenderError> {
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

    /// [`cubic::render`].
    fn cubic(&mut self, pixels: Pixels<'_>, plan: &Rendition, out: &mut [u8]) {
        let source = source(pixels, plan.source);
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(avx512) => avx512.cubic(source, plan, out, &mut self.cubic),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(avx2) => avx2.cubic(source, plan, out, &mut self.cubic),
            Kernel::Plain => cubic::render(source, plan, out, &mut self.cubic),
        }
    }

    fn bilinear(&mut self, pixels: Pixels<'_>, plan: &Rendition, out: &mut [u8]) {
        let part = plan.source;
        let size = plan.size as usize;
        for (axis, source, scaled, offset) in [
            (&mut self.x, part.width, plan.scaled.0, plan.window.0),
            (&mut self.y, part.height, plan.scaled.1, plan.window.1),
        ] {
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512(avx512) => avx512.fill(axis, source, scaled, offset, plan.size),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2(avx2) => avx2.fill(axis, source, scaled, offset, plan.size),
                Kernel::Plain => axis.fill(source, scaled, offset, plan.size),
            }
        }
        // Only what the window needs.
        let (left, width) = self.x.rebase();
        let (top, height) = self.y.rebase();
        let source = source(pixels, part)
            .slice_bytes(left * 3, width * 3)
            .slice_rows(top, height);

        let mut between = std::mem::take(&mut self.between);
        if height_first(plan) {
            let width = source.width;
            resize_scratch(&mut between, width * size);
            self.vertical(source, &mut between);
            let tall = Rows::new(&between, width, width, size);
            self.horizontal(tall, plan.flip, out);
        } else {
            let width = size * 3;
            resize_scratch(&mut between, width * height);
            self.horizontal(source, plan.flip, &mut between);
            let wide = Rows::new(&between, width, width, height);
            self.vertical(wide, out);
        }
        self.between = between;
    }

    /// Scales rows in width.
    fn horizontal(&mut self, from: Rows<'_>, flip: bool, to: &mut [u8]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(avx512) if from.width >= avx512::VECTOR => {
                avx512.horizontal(from, &self.x, flip, to, &mut self.avx512);
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(avx2) if from.width >= avx2::VECTOR && from.height >= avx2::ROWS => {
                avx2.horizontal(from, &self.x, flip, to, &mut self.avx2);
            }
            _ => plain::horizontal(from, &self.x, flip, to),
        }
    }

    /// Scales in height.
    fn vertical(&mut self, from: Rows<'_>, to: &mut [u8]) {
        for (index, to) in to.chunks_exact_mut(from.width).enumerate() {
            let (first, coefficients) = self.y.output(index);
            match self.kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512(avx512) if from.width >= avx512::VECTOR => {
                    avx512.vertical(from, first, coefficients, to, &mut self.avx512);
                }
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2(avx2) if from.width >= avx2::VECTOR => {
                    avx2.vertical(from, first, coefficients, to, &mut self.avx2);
                }
                _ => plain::vertical(from, first, coefficients, to),
            }
        }
    }
}

/// Whether the height is scaled before the width, which changes how often the levels are rounded.
///
/// Pillow does so since version 13 where the height shrinks by more than twice as many pixels as the
/// width; until then the width always came first.
fn height_first(plan: &Rendition) -> bool {
    let shrinks = |source: u32, scaled: u32| i64::from(source) - i64::from(scaled);
    let (width, height) = (plan.source.width, plan.source.height);
    let rows = shrinks(height, plan.scaled.1);
    rows > 0 && rows > 2 * shrinks(width, plan.scaled.0)
}

/// The rows of a part of the pixels.
fn source(pixels: Pixels<'_>, part: Rect) -> Rows<'_> {
    let all = pixels.covers();
    let stride = all.width as usize * 3;
    Rows::new(pixels.bytes(), stride, stride, all.height as usize)
        .slice_rows((part.y - all.y) as usize, part.height as usize)
        .slice_bytes((part.x - all.x) as usize * 3, part.width as usize * 3)
}

/// Finds what does not fit before anything is written.
fn check(pixels: Pixels<'_>, plan: &Rendition, out: &[u8]) -> Result<(), RenderError> {
    let decoded = pixels.covers();
    if !decoded.contains(&plan.source) {
        return Err(RenderError::SourceNotDecoded {
            asked: plan.source,
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
        return Err(RenderError::WindowOutside {
            size: plan.size,
            window: plan.window,
            scaled: plan.scaled,
        });
    }
    check_length(out, plan.size)
}

/// Whether `bytes` are a picture `[size, size, 3]` of at least one pixel.
fn check_length(bytes: &[u8], size: u32) -> Result<(), RenderError> {
    let expected = (size as usize * size as usize * 3).max(3);
    if size > 0 && bytes.len() == expected {
        Ok(())
    } else {
        Err(RenderError::WrongLength {
            expected,
            found: bytes.len(),
        })
    }
}

/// What computes. All give the same bits.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

/// What this processor resizes with.
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
    /// The fastest that this processor has.
    fn default() -> Self {
        Self::all().pop().unwrap_or(Kernel::Plain)
    }
}

impl Kernel {
    /// Those that this processor has, the fastest last.
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

    /// A picture whose red is the column and whose green is the row.
    fn picture(width: u32, height: u32) -> Vec<u8> {
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7]))
            .collect()
    }

    fn render(plan: &Rendition, width: u32, height: u32) -> Vec<u8> {
        let bytes = picture(width, height);
        let pixels = Pixels::new(&bytes, Rect::whole(width, height)).unwrap();
        let mut out = vec![0; plan.output_bytes()];
        Resizer::new().render(pixels, plan, &mut out).unwrap();
        out
    }

    fn plan(source: (u32, u32, u32, u32), scaled: (u32, u32), window: (u32, u32)) -> Rendition {
        let (x, y, width, height) = source;
        Rendition {
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
    fn a_window_is_cut_from_the_whole_scaled_picture() {
        let whole = Rendition {
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
        Resizer::new().render(pixels, &inside, &mut out).unwrap();
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
            (plan((0, 0, 4, 4), (0, 4), (0, 0)), 48, "scaled to 0x4"),
            (
                plan((0, 0, 4, 4), (4, 4), (0, 0)),
                47,
                "47 bytes, expected 48",
            ),
        ];
        for (plan, length, expected) in cases {
            let mut out = vec![9; length];
            let error = Resizer::new().render(pixels, &plan, &mut out).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(out.iter().all(|&byte| byte == 9));
        }
    }

    /// All kernels of this machine on random plans of one source: neither the vectors nor what was
    /// rendered before may show.
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
        // One in four sides is extreme, the others are like those of photographs made small.
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
            let plans: Vec<Rendition> = (0..rng.random_range(1..4))
                .map(|_| {
                    let scaled = (side(&mut rng, 300), side(&mut rng, 300));
                    let size = rng.random_range(1..=scaled.0.min(scaled.1));
                    let window = (
                        rng.random_range(0..=scaled.0 - size),
                        rng.random_range(0..=scaled.1 - size),
                    );
                    Rendition {
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
                    resizer.render(pixels, plan, out).unwrap();
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
