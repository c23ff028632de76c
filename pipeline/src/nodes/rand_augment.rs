//! `RandAugment`: a few operations of random kinds on each crop, all of one strength.

use anyhow::Result;
use rsflow_graph::{
    Build, Context, Incoming, Input, Map, Node, NodeKind, Payload, Port, Report, Schema, Stage,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_probability, incoming, input, output};
use crate::images::Crop;
use crate::pixels::augment::policy::{self, Timm};

/// Changes each crop by a few operations of random kinds, before it is resized, the same for all
/// resolutions: RandAugment (Cubuk et al. 2020). Kinds, strengths and pixels are those of torchvision's
/// `RandAugment` on Pillow images, or of timm's.
///
/// torchvision has 14 kinds: nothing, shears and shifts along either axis, rotation, brightness, colour,
/// contrast, sharpness, fewer bits, inverted bright levels, stretched and equalized histograms.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// The crops.
    input: Input,
    /// How many operations are drawn for an image, one after the other, perhaps of the same kind.
    #[serde(default = "default_operations")]
    operations: u32,
    /// The strength of all operations: for `Torchvision` a bin, from 0 (nothing changes) to `bins` - 1;
    /// for `Timm` a level, from 0 to its `max_magnitude`.
    #[serde(default = "default_magnitude")]
    magnitude: u32,
    /// The number of strengths that torchvision distinguishes; 31 if left out. `Timm` has none.
    #[serde(default)]
    bins: Option<u32>,
    /// Whose kinds and strengths.
    #[serde(default)]
    policy: Policy,
    /// The colour (red, green, blue) of what a shear, shift or rotation brings in from outside. If left
    /// out, black for `Torchvision` and ImageNet's mean colour, (124, 116, 104), for `Timm`.
    #[serde(default)]
    fill: Option<(u8, u8, u8)>,
}

/// Whose RandAugment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
enum Policy {
    /// torchvision's, of `operations` kinds; nearest neighbour.
    #[default]
    Torchvision,
    /// timm's, with 15 kinds; each shear, shift and rotation is bilinear or bicubic, drawn at random.
    /// `rand-m6-mstd0.5-inc1` is `magnitude: 6, policy: Timm(magnitude_std: 0.5, increasing: true)`.
    Timm {
        /// The standard deviation of the strength, which is normally distributed around `magnitude`. Above
        /// 100 the strength is uniform from 0 to `magnitude` instead.
        #[serde(default)]
        magnitude_std: f64,
        /// Whether a higher strength always changes more (`inc1`). Otherwise fewer bits, inverted bright
        /// levels and the four of brightness to sharpness do the most at 0.
        #[serde(default)]
        increasing: bool,
        /// The probability that a drawn operation is carried out.
        #[serde(default = "default_probability")]
        probability: f64,
        /// The largest strength; what is drawn above it is replaced by it.
        #[serde(default = "default_max_magnitude")]
        max_magnitude: u32,
    },
}

fn default_operations() -> u32 {
    2
}

fn default_magnitude() -> u32 {
    9
}

fn default_probability() -> f64 {
    0.5
}

fn default_max_magnitude() -> u32 {
    10
}

/// torchvision's default, and the upper bounds that catch typos.
const BINS: u32 = 31;
const MAX_BINS: u64 = 1 << 10;
const MAX_OPERATIONS: u64 = 1 << 6;
const MAX_LEVEL: u64 = 30;

impl RandAugment {
    /// torchvision's colour of what lies outside.
    fn fill(&self) -> [u8; 3] {
        self.fill.unwrap_or_default().into()
    }

    fn bins(&self) -> u32 {
        self.bins.unwrap_or(BINS)
    }

    /// timm's parameters, if they are timm's.
    fn timm(&self) -> Option<Timm> {
        let Policy::Timm {
            magnitude_std,
            increasing,
            probability,
            max_magnitude,
        } = self.policy
        else {
            return None;
        };
        let (r, g, b) = self.fill.unwrap_or((124, 116, 104));
        Some(Timm {
            operations: self.operations,
            probability,
            magnitude: self.magnitude.into(),
            magnitude_std,
            largest: max_magnitude.into(),
            increasing,
            fill: [r, g, b],
        })
    }
}

impl Node for RandAugment {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let operations = self.operations.into();
        report.limit("operations", operations, 1..=MAX_OPERATIONS, "2 is usual");
        match self.policy {
            Policy::Torchvision => {
                let bins = self.bins();
                report.limit("bins", bins.into(), 2..=MAX_BINS, "leave it out for 31");
                if self.magnitude >= bins.max(2) {
                    report.parameter(
                        "magnitude",
                        format!(
                            "`magnitude` must be less than `bins`, {bins}, not {}",
                            self.magnitude
                        ),
                        "9 of 31 bins is usual",
                    );
                }
            }
            Policy::Timm {
                magnitude_std,
                probability,
                max_magnitude,
                ..
            } => {
                if self.bins.is_some() {
                    report.parameter(
                        "bins",
                        "`bins` is for `policy: Torchvision`; timm's strengths are no bins",
                        "leave it out",
                    );
                }
                check_probability("policy.probability", probability, report);
                let largest = max_magnitude.into();
                let field = "policy.max_magnitude";
                report.limit(field, largest, 1..=MAX_LEVEL, "10 is timm's default");
                if self.magnitude > max_magnitude {
                    report.parameter(
                        "magnitude",
                        format!(
                            "`magnitude` must be at most {max_magnitude}, not {}",
                            self.magnitude
                        ),
                        "`max_magnitude` of the policy raises the limit",
                    );
                }
                if !(magnitude_std >= 0.0 && magnitude_std.is_finite()) {
                    report.parameter(
                        "policy.magnitude_std",
                        format!("`magnitude_std` must be 0 or above, not {magnitude_std}"),
                        "0.5 is usual",
                    );
                }
            }
        }
        vec![incoming(inputs)]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl Map for RandAugment {
    type In = Crop;
    type Out = Crop;

    fn apply(&self, mut crop: Crop, context: &Context) -> Result<Crop> {
        let (size, random) = (crop.size(), &mut context.random("operations"));
        let drawn = match self.timm() {
            Some(timm) => timm.draw(size, random),
            None => {
                let (operations, bins) = (self.operations, self.bins());
                policy::rand_augment(
                    operations,
                    (self.magnitude, bins),
                    self.fill(),
                    size,
                    random,
                )
            }
        };
        crop.augment(drawn, context);
        Ok(crop)
    }
}

impl NodeKind for RandAugment {
    const NAME: &'static str = "RandAugment";
    const SUMMARY: &'static str = "changes each crop by a few operations of random kinds";
    const INPUTS: &'static [Port] = &[input(Crop::NAME)];
    const OUTPUTS: &'static [Port] = &[output(Crop::NAME)];
    const EXAMPLE: &'static str =
        r#"RandAugment(input: "train_crops", operations: 2, magnitude: 9)"#;
    const TUNING_HINT: &'static str = "fewer `NODE.operations` help";
}
