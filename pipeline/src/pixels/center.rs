//! Validation preprocessing of a single image.

use super::{
    Decoder, ImageError, Limits, Orientation, ResizeError, ResizePlan, Resizer, Verify, crop,
    header,
};

/// The parameters of validation preprocessing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Center {
    /// The share of the short side that the centre crop keeps, in (0, 1].
    pub fraction: f64,
    /// `Some`: as `CascadedCenterCrop`, which resizes to this size and samples all sizes from the result
    /// by nearest neighbour. `None`: as `ResizeAndCenterCrop`, which resizes the image to each size.
    pub picture_side: Option<u32>,
    /// Whether to apply the EXIF orientation.
    pub exif_orientation: bool,
    pub limits: Limits,
}

/// The reference implementation's validation.
impl Default for Center {
    fn default() -> Self {
        Self {
            fraction: 0.875,
            picture_side: None,
            exif_orientation: false,
            limits: Limits::default(),
        }
    }
}

/// The error of [`Center::pixels`].
#[derive(Debug, thiserror::Error)]
pub enum CenterError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Resize(#[from] ResizeError),
}

impl Center {
    /// The pixels of an image file at one resolution: `[size, size, 3]`, RGB.
    ///
    /// # Errors
    /// Damaged and unsupported files; a `size` or `picture_side` of 0.
    pub fn pixels(&self, bytes: &[u8], size: u32) -> Result<Vec<u8>, CenterError> {
        let mut resizer = Resizer::new();
        let Some(side) = self.picture_side else {
            let plan = |width, height| crop::validation(width, height, size, self.fraction);
            return self.rendered(bytes, plan, &mut resizer);
        };
        let plan = |width, height| crop::cascaded_center_crop(width, height, side, self.fraction);
        let picture = self.rendered(bytes, plan, &mut resizer)?;
        let mut out = vec![0; size as usize * size as usize * 3];
        resizer.sample_nearest(&picture, side, &mut out, size)?;
        Ok(out)
    }

    /// Decodes the image and resizes it by the plan for its width and height.
    fn rendered(
        &self,
        bytes: &[u8],
        plan: impl Fn(u32, u32) -> ResizePlan,
        resizer: &mut Resizer,
    ) -> Result<Vec<u8>, CenterError> {
        let stored = header(bytes, &self.limits)?;
        let orientation = match self.exif_orientation {
            true => Orientation::of(bytes, stored.format),
            false => Orientation::default(),
        };
        let header = orientation.turn(stored);
        let plan = plan(header.width, header.height);
        let mut decoder = Decoder::new();
        let whole = header.whole();
        let pixels = decoder.decode_upright(bytes, &header, orientation, whole, Verify::Full)?;
        let mut out = vec![0; plan.output_bytes()];
        resizer.resize(pixels, &plan, &mut out)?;
        Ok(out)
    }
}
