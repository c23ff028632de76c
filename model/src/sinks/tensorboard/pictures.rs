//! Sample images for TensorBoard: a picture for each size, with the images beside each other.

use anyhow::{Context as _, Result};
use png::{BitDepth, ColorType, Encoder};

use super::messages::{Image, Value};
use crate::train::metrics::Samples;

/// Images in a row.
const COLUMNS: usize = 4;
/// White pixels between two images.
const GAP: usize = 2;
const WHITE: u8 = 255;

/// One value for each size.
pub fn values(samples: &Samples) -> Result<Vec<Value>> {
    let sizes = samples.pixels.iter();
    sizes
        .map(|(resolution, pixels)| {
            let grid = Grid::of(pixels, *resolution as usize);
            Ok(Value {
                tag: format!("images/{resolution}"),
                image: Some(grid.encoded().context("cannot encode sample images")?),
                ..Value::default()
            })
        })
        .collect()
}

/// A picture in RGB.
struct Grid {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Grid {
    /// Of images with that side, which follow each other in `images`.
    fn of(images: &[u8], side: usize) -> Self {
        let line = side * 3;
        let count = images.len() / (line * side).max(1);
        let extent = |images: usize| images * side + images.saturating_sub(1) * GAP;
        let (width, height) = (extent(count.min(COLUMNS)), extent(count.div_ceil(COLUMNS)));
        let mut pixels = vec![WHITE; width * height * 3];
        for (number, source) in images.chunks_exact(line.max(1)).enumerate() {
            let (image, row) = (number / side, number % side);
            let x = image % COLUMNS * (side + GAP);
            let y = image / COLUMNS * (side + GAP) + row;
            let start = (y * width + x) * 3;
            pixels[start..start + line].copy_from_slice(source);
        }
        Grid {
            width,
            height,
            pixels,
        }
    }

    fn encoded(&self) -> Result<Image> {
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(Image {
            height: i32::try_from(height)?,
            width: i32::try_from(width)?,
            colorspace: 3,
            encoded_image_string: file,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use super::*;

    /// The pixels of a PNG file.
    fn decoded(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.color_type, ColorType::Rgb);
        (info.width, info.height, pixels)
    }

    #[test]
    fn images_lie_in_rows_of_four() {
        // Each pixel says which image, row and column it is of.
        let images = |count: usize, side: usize| -> Vec<u8> {
            let pixel = |at: usize| {
                let (image, within) = (at / (side * side), at % (side * side));
                [image + 1, within / side, within % side].map(|it| it as u8)
            };
            (0..count * side * side).flat_map(pixel).collect()
        };
        for (count, columns, rows) in [(1, 1, 1), (3, 3, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2)] {
            let sides = [3, 2];
            let pixels = sides.map(|side| (side as u32, images(count, side)));
            let samples = Samples {
                step: 1,
                pixels: Arc::new(pixels.to_vec()),
            };
            let values = values(&samples).unwrap();
            assert_eq!(values.len(), sides.len());
            for (value, side) in values.iter().zip(sides) {
                assert_eq!(value.tag, format!("images/{side}"));
                let image = value.image.as_ref().unwrap();
                let (width, height, pixels) = decoded(&image.encoded_image_string);
                assert_eq!((image.width, image.height), (width as i32, height as i32));
                let cell = side + 2;
                let expected = (columns * cell - 2, rows * cell - 2);
                assert_eq!(
                    (width as usize, height as usize),
                    expected,
                    "{count} of {side}"
                );
                for (at, pixel) in pixels.chunks(3).enumerate() {
                    let (x, y) = (at % width as usize, at / width as usize);
                    let image = y / cell * 4 + x / cell;
                    let is_gap = x % cell >= side || y % cell >= side || image >= count;
                    let expected = match is_gap {
                        true => [255; 3],
                        false => [image + 1, y % cell, x % cell].map(|it| it as u8),
                    };
                    assert_eq!(pixel, expected, "{x}, {y}: {count} of {side}");
                }
            }
        }
    }
}
