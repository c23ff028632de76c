//! `Resize`: a crop at many resolutions.

use anyhow::Result;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use rsflow_graph::{
    Build, Context, Growth, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema,
    Stage,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_flip, check_sizes, incoming, input, output};
use crate::images::{Crop, Outputs, SizedImages};
use crate::pixels::{self, ResizePlan, crop};

/// Resizes each crop to every size, always from the crop itself: antialiased, as Pillow, bilinear unless
/// `filters` says otherwise; the filter reads no pixel outside the crop. Each size is flipped independently.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The crops.
    input: Input,
    /// Sides of the square outputs in pixels, from the largest to the smallest by convention. With
    /// top-down distillation each size is taught by those before it.
    sizes: Vec<u32>,
    /// The probability of a horizontal flip, drawn for each size independently.
    #[serde(default)]
    flip: f64,
    /// Lets sizes grow over the epochs: `Growth(from: 0.7, until: 60)`. Default: they are the same in every epoch.
    #[serde(default)]
    growth: Option<Growth>,
    /// The filters of which one is drawn for each image, the same for all sizes. `[Bilinear, Bicubic]` is
    /// timm's `random` interpolation.
    #[serde(default = "default_filters")]
    filters: Vec<Filter>,
}

fn default_filters() -> Vec<Filter> {
    vec![Filter::Bilinear]
}

/// A filter of Pillow's `resize`, all with antialiasing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
enum Filter {
    /// Each pixel is the mean of those that it covers.
    Box,
    /// Weights fall linearly, over one pixel of the output.
    Bilinear,
    /// A cubic (a = -0.5), over two pixels of the output.
    Bicubic,
    /// A windowed sine (a = 3), over three pixels of the output.
    Lanczos,
}

impl From<Filter> for pixels::Filter {
    fn from(filter: Filter) -> Self {
        match filter {
            Filter::Box => Self::Box,
            Filter::Bilinear => Self::Bilinear,
            Filter::Bicubic => Self::Bicubic,
            Filter::Lanczos => Self::Lanczos,
        }
    }
}

impl Resize {
    fn check_filters(&self, report: &mut Report) {
        let help = "such as `filters: [Bilinear, Bicubic]`";
        if self.filters.is_empty() {
            report.parameter("filters", "`filters` must not be empty", help);
        }
        let mut filters = self.filters.iter().enumerate();
        if let Some((_, filter)) = filters.find(|(at, filter)| self.filters[..*at].contains(filter))
        {
            let message = format!("{filter:?} is listed twice");
            report.parameter("filters", message, "remove one");
        }
    }

    /// The filter for all sizes of an image.
    fn filter(&self, context: &Context) -> pixels::Filter {
        match self.filters[..] {
            [only] => only.into(),
            ref filters => {
                let drawn = filters.choose(&mut context.random("filter")).copied();
                drawn.unwrap_or(Filter::Bilinear).into()
            }
        }
    }
}

impl Node for Resize {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        check_sizes(&self.sizes, report);
        check_flip(self.flip, report);
        self.check_filters(report);
        for (field, error, help) in self.growth.iter().flat_map(Growth::check) {
            report.parameter(&format!("growth.{field}"), error, help);
        }
        vec![Schema {
            resolutions: self.sizes.clone(),
            growth: self.growth,
            ..incoming(inputs)
        }]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for Resize {
    type In = Crop;
    type Out = SizedImages;

    fn apply(&self, crop: Crop, context: &Context) -> Result<SizedImages> {
        let Crop {
            image,
            region,
            augmentations,
        } = crop;
        let mut random = context.random("flip");
        let filter = self.filter(context);
        let epoch = context.key.epoch;
        let sizes = self.sizes.iter().map(|&full| match self.growth {
            None => full,
            Some(growth) => growth.size(full, epoch),
        });
        let renditions = sizes
            .map(|size| ResizePlan {
                filter,
                ..crop::training(region, size, random.random_bool(self.flip))
            })
            .collect();
        Ok(SizedImages {
            outputs: Outputs::Rendered(renditions),
            image,
            region,
            augmentations,
            lighting: vec![],
            meter: context.meter.clone(),
        })
    }
}

impl NodeKind for Resize {
    const NAME: &'static str = "Resize";
    const SUMMARY: &'static str = "resizes each crop to many sizes";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(SizedImages::NAME)];
    const EXAMPLE: &'static str =
        r#"Resize(input: "train_crops", sizes: [224, 192, 160, 128, 96], flip: 0.5)"#;
    const TUNING_HINT: &'static str = "fewer or smaller `NODE.sizes` help";
}
