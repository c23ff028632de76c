//! A single image, made ready as validation makes many.

use super::{
    Decoder, ImageError, Limits, Orientation, RenderError, Rendition, Resizer, Verify, crop, header,
};

/// How the centre of an image is made ready.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Center {
    /// The share of the short side that is kept, above 0 and up to 1.
    pub fraction: f64,
    /// The side of the picture of which all sizes are samples, as `CascadedCenterCrop` makes them; if
    /// there is none, each is made of the image, as `ResizeAndCenterCrop` does.
    pub picture_side: Option<u32>,
    /// Whether images are turned as their EXIF orientation says.
    pub exif_orientation: bool,
    /// What images may be.
    pub limits: Limits,
}

/// As the reference validates.
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

/// Why one image could not be made ready; see [`Center::pixels`].
#[derive(Debug, thiserror::Error)]
pub enum CenterError {
    /// The file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The resizing.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl Center {
    /// The pixels of an image file at one size: `[size, size, 3]`, RGB.
    ///
    /// # Errors
    /// Damage and unsupported files; a size or a side of 0.
    pub fn pixels(&self, bytes: &[u8], size: u32) -> Result<Vec<u8>, CenterError> {
        let mut resizer = Resizer::new();
        let Some(side) = self.picture_side else {
            let plan = |width, height| crop::validation(width, height, size, self.fraction);
            return self.rendered(bytes, plan, &mut resizer);
        };
        let plan = |width, height| crop::covered(width, height, side, self.fraction);
        let picture = self.rendered(bytes, plan, &mut resizer)?;
        let mut out = vec![0; size as usize * size as usize * 3];
        resizer.sample(&picture, side, &mut out, size)?;
        Ok(out)
    }

    /// What the plan for an image of its width and height makes of it.
    fn rendered(
        &self,
        bytes: &[u8],
        plan: impl Fn(u32, u32) -> Rendition,
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
        resizer.render(pixels, &plan, &mut out)?;
        Ok(out)
    }
}
