//! Images of a batch mixed with each other, and their labels with them.
//!
//! "mixup: Beyond Empirical Risk Minimization", ICLR 2018; "CutMix", ICCV 2019; as timm does it for a whole
//! batch: each image is mixed with the one at its place from the end. All resolutions get the same partner,
//! the same share and the same place of a cut.

use anyhow::Result;
use rand::RngExt;
use rand_distr::{Beta, Distribution};
use rsflow_base::keyed;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::nn::field_error::FieldError;

/// Mixes each training image with another one of its batch, and their labels by the same shares. Each process
/// mixes its own images.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Mixup: alpha of the distribution Beta(alpha, alpha) of the image's share; 0: none.
    #[serde(default)]
    pub mixup: f64,
    /// CutMix: the same of the share that a rectangle of the other image leaves; 0: none.
    #[serde(default)]
    pub cutmix: f64,
    /// The share of batches that are mixed, above 0 and at most 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// Of mixed batches, the share of CutMix where both have an alpha; 0 to 1.
    #[serde(default = "half")]
    pub cutmix_share: f64,
}

fn always() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

/// What happens to a batch. `share` is that of each image itself, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixed {
    Not,
    Mixup {
        share: f64,
    },
    /// The rectangle has the sides of the image times sqrt(1 - share), as far as it lies within. Its centre, from
    /// the left and from the top, is a fraction of the sides.
    CutMix {
        share: f64,
        centre: (f64, f64),
    },
}

impl Mix {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (field, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(alpha.is_finite() && alpha >= 0.0) {
                errors.push((field, format!("`{field}` must be at least 0, not {alpha}")));
            }
        }
        if self.mixup == 0.0 && self.cutmix == 0.0 {
            let fault = "`mix` needs `mixup` or `cutmix` above 0".to_owned();
            errors.push(("mixup", fault));
        }
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            errors.push((
                "probability",
                format!(
                    "`probability` must be above 0 and at most 1, not {}",
                    self.probability
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.cutmix_share) {
            errors.push((
                "cutmix_share",
                format!("`cutmix_share` must be 0 to 1, not {}", self.cutmix_share),
            ));
        }
        errors
    }

    /// What happens to the batch of a step, the same in all processes and after a resume.
    ///
    /// # Errors
    /// Those of [`Mix::check`].
    pub fn draw(&self, seed: u64, step: u64) -> Result<Mixed> {
        let random = &mut keyed::random(seed, "trainer", "mix", &[step]);
        let unit = |random: &mut _| RngExt::random::<f64>(random);
        if unit(random) >= self.probability {
            return Ok(Mixed::Not);
        }
        let cuts = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => unit(random) < self.cutmix_share,
            (_, cuts) => cuts,
        };
        let alpha = if cuts { self.cutmix } else { self.mixup };
        let share = Beta::new(alpha, alpha)?.sample(random);
        Ok(match cuts {
            false => Mixed::Mixup { share },
            true => Mixed::CutMix {
                share,
                centre: (unit(random), unit(random)),
            },
        })
    }
}

impl Mixed {
    /// Mixes the images, `[batch, 3, s, s]` of each resolution, and gives the shares of the classes,
    /// float `[batch, classes]`, of labels, int64 `[batch]`. After a cut the shares are those of the first
    /// resolution's pixels.
    ///
    /// # Errors
    /// On the CPU, a label out of range; out of memory.
    pub fn apply(
        self,
        images: Vec<Tensor>,
        labels: &Tensor,
        classes: i64,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let own = labels.f_one_hot(classes)?.f_to_kind(Kind::Float)?;
        let (images, share) = match self {
            Mixed::Not => return Ok((images, own)),
            Mixed::Mixup { share } => {
                let mix = |images: &Tensor| -> Result<Tensor> {
                    let others = images.f_flip([0])?.f_mul_scalar_(1.0 - share)?;
                    Ok(images.f_mul_scalar(share)?.f_add_(&others)?)
                };
                (images.iter().map(mix).collect::<Result<_>>()?, share)
            }
            Mixed::CutMix { share, centre } => {
                let mut left = None;
                for images in &images {
                    let (_, _, height, width) = images.size4()?;
                    let (top, rows) = cut(height, share, centre.1);
                    let (start, columns) = cut(width, share, centre.0);
                    let area = (rows * columns) as f64 / (height * width) as f64;
                    left.get_or_insert(1.0 - area);
                    if area > 0.0 {
                        let within = |images: &Tensor| {
                            images.f_narrow(2, top, rows)?.f_narrow(3, start, columns)
                        };
                        // A copy, so it does not matter that images are each other's partners.
                        let others = within(images)?.f_flip([0])?;
                        within(images)?.f_copy_(&others)?;
                    }
                }
                (images, left.unwrap_or(1.0))
            }
        };
        let others = own.f_flip([0])?.f_mul_scalar(1.0 - share)?;
        let shares = own.f_mul_scalar(share)?.f_add(&others)?;
        Ok((images, shares))
    }
}

/// Where a rectangle begins on a side of so many pixels, and how many it has there.
fn cut(side: i64, share: f64, centre: f64) -> (i64, i64) {
    let length = (side as f64 * (1.0 - share).sqrt()) as i64;
    let middle = (centre * side as f64) as i64;
    let from = (middle - length / 2).clamp(0, side);
    let to = (middle + length / 2).clamp(0, side);
    (from, to - from)
}
