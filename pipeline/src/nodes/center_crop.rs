//! The map shared by all nodes that prepare validation images.

use anyhow::Result;
use rsflow_graph::{Context, Map, Preprocess, Schema};

use crate::images::{LazyImage, SizedImages};
use crate::preprocess;

/// The centre of each image, as the description says.
pub(super) struct CenterCrop {
    pub by: Preprocess,
    pub sizes: Vec<u32>,
}

impl CenterCrop {
    /// The schema of its output.
    pub fn schema(&self) -> Schema {
        Schema {
            resolutions: self.sizes.clone(),
            preprocess: Some(self.by),
            ..Schema::default()
        }
    }
}

impl Map for CenterCrop {
    type In = LazyImage;
    type Out = SizedImages;

    fn apply(&self, image: LazyImage, context: &Context) -> Result<SizedImages> {
        Ok(SizedImages {
            outputs: preprocess::outputs(&self.by, &image.header, &self.sizes),
            region: image.header.whole(),
            image,
            augmentations: vec![],
            lighting: vec![],
            meter: context.meter.clone(),
        })
    }
}
