//! What a [`Preprocess`] says, done to an image: by the nodes a step at a time, by [`pixels`] at once.

use rsflow_graph::{Interpolation, Preprocess, Resize};

use crate::images::Outputs;
use crate::pixels::{
    self, Decoder, Filter, Header, ImageError, Limits, Orientation, ResizeError, ResizePlan,
    Resizer, Verify, crop,
};

// `pixels` knows no graph, so it has a constant of its own.
const _: () = assert!(pixels::DEFAULT_MAX_PIXELS == rsflow_graph::DEFAULT_MAX_PIXELS);

/// The header of an image file, with the size of the upright image, and how that lies in the file.
///
/// # Errors
/// Damage, unsupported files, too many pixels.
pub fn open(by: &Preprocess, bytes: &[u8]) -> Result<(Header, Orientation), ImageError> {
    let limits = Limits {
        max_pixels: by.max_pixels,
    };
    let stored = pixels::header(bytes, &limits)?;
    let orientation = match by.exif_orientation {
        true => Orientation::of(bytes, stored.format),
        false => Orientation::default(),
    };
    Ok((orientation.turn(stored), orientation))
}

/// What each size is made of.
pub fn outputs(by: &Preprocess, header: &Header, sizes: &[u32]) -> Outputs {
    let (width, height) = (header.width, header.height);
    let interpolated = |plan: ResizePlan| ResizePlan {
        filter: match by.interpolation {
            Interpolation::AntialiasedBilinear => Filter::Bilinear,
            Interpolation::AntialiasedBicubic => Filter::Bicubic,
            Interpolation::Bicubic => Filter::Cubic,
        },
        ..plan
    };
    match by.resize {
        Resize::ShortSide => {
            let plan = |&size| interpolated(crop::validation(width, height, size, by.fraction));
            Outputs::Rendered(sizes.iter().map(plan).collect())
        }
        Resize::Cascade { side } => Outputs::Sampled {
            picture: interpolated(crop::cascaded_center_crop(width, height, side, by.fraction)),
            sizes: sizes.to_vec(),
        },
    }
}

/// Why one image could not be prepared; see [`pixels`].
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The resizing.
    #[error(transparent)]
    Resize(#[from] ResizeError),
}

/// The pixels of an image file at one size: `[size, size, 3]`, RGB.
///
/// # Errors
/// Damage and unsupported files; a size or a side of 0.
pub fn pixels(by: &Preprocess, bytes: &[u8], size: u32) -> Result<Vec<u8>, PreprocessError> {
    let mut sizes = pixels_at(by, bytes, &[size])?;
    Ok(sizes.swap_remove(0))
}

/// The same at several sizes, of an image that is decoded once.
///
/// # Errors
/// As [`pixels`].
pub fn pixels_at(
    by: &Preprocess,
    bytes: &[u8],
    sizes: &[u32],
) -> Result<Vec<Vec<u8>>, PreprocessError> {
    let (header, orientation) = open(by, bytes)?;
    let mut decoder = Decoder::new();
    let whole = header.whole();
    let decoded = decoder.decode_upright(bytes, &header, orientation, whole, Verify::Full)?;
    let mut resizer = Resizer::new();
    let mut rendered = |plan: &ResizePlan| {
        let mut out = vec![0; plan.output_bytes()];
        resizer.resize(decoded, plan, &mut out)?;
        Ok::<_, ResizeError>(out)
    };
    match outputs(by, &header, sizes) {
        Outputs::Rendered(plans) => Ok(plans.iter().map(rendered).collect::<Result<_, _>>()?),
        Outputs::Sampled { picture: plan, .. } => {
            let picture = rendered(&plan)?;
            let sampled = sizes.iter().map(|&size| {
                let mut out = vec![0; size as usize * size as usize * 3];
                resizer.sample_nearest(&picture, plan.size, &mut out, size)?;
                Ok::<_, ResizeError>(out)
            });
            Ok(sampled.collect::<Result<_, _>>()?)
        }
    }
}
