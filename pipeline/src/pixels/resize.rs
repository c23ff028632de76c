//! Resizing: bilinear with antialiasing in 8 bits, within one level of Pillow's.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};
use thiserror::Error;

use super::{Pixels, Rect};

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
    /// The output buffer has the wrong length.
    #[error("an output of {found} bytes where {expected} are needed")]
    WrongLength {
        /// `size * size * 3`.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// The resizing library refused.
    #[error("cannot resize: {0}")]
    Library(String),
}

/// Scales parts of images into outputs. One per worker thread, for its scratch memory.
#[derive(Debug, Default)]
pub struct Resizer {
    library: fast_image_resize::Resizer,
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
        if out.len() != plan.output_bytes() {
            return Err(RenderError::WrongLength {
                expected: plan.output_bytes(),
                found: out.len(),
            });
        }

        let refused = |error: &dyn std::error::Error| RenderError::Library(error.to_string());
        // Typed images: with the others every kind of pixel and filter would be compiled in.
        let image =
            TypedImageRef::<U8x3>::from_buffer(decoded.width, decoded.height, pixels.bytes())
                .map_err(|error| refused(&error))?;
        // The library's crop option lets the filter see beyond the crop; this view does not. So the
        // view bounds the source, and the option chooses the output within it.
        let source = TypedCroppedImage::from_ref(
            &image,
            plan.source.x - decoded.x,
            plan.source.y - decoded.y,
            plan.source.width,
            plan.source.height,
        )
        .map_err(|error| refused(&error))?;
        let (left, width) = span(plan.source.width, plan.scaled.0, plan.window.0, plan.size);
        let (top, height) = span(plan.source.height, plan.scaled.1, plan.window.1, plan.size);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, width, height);
        let mut target = TypedImage::<U8x3>::from_buffer(plan.size, plan.size, out)
            .map_err(|error| refused(&error))?;
        self.library
            .resize_typed(&source, &mut target, &options)
            .map_err(|error| refused(&error))?;

        if plan.flip {
            for row in out.chunks_exact_mut(plan.size as usize * 3) {
                mirror(row);
            }
        }
        Ok(())
    }
}

/// Start and length, in source pixels, of `size` pixels at `offset` of `source` scaled to `scaled`.
fn span(source: u32, scaled: u32, offset: u32, size: u32) -> (f64, f64) {
    let source = f64::from(source);
    // Multiplied first: exact where the answer is an integer, for then the library may copy.
    let start = source * f64::from(offset) / f64::from(scaled);
    let length = source * f64::from(size) / f64::from(scaled);
    // Rounding must not lead out of the source.
    (start, length.min(source - start))
}

/// Reverses a row of RGB pixels.
fn mirror(row: &mut [u8]) {
    let (pixels, _) = row.as_chunks_mut::<3>();
    pixels.reverse();
}

#[cfg(test)]
mod tests {
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
            (plan((0, 0, 4, 4), (4, 4), (0, 0)), 47, "47 bytes where 48"),
        ];
        for (plan, length, expected) in cases {
            let mut out = vec![9; length];
            let error = Resizer::new().render(pixels, &plan, &mut out).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(out.iter().all(|&byte| byte == 9));
        }
    }
}
