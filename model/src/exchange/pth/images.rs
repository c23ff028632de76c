//! How images are made for a network of another program: timm's `config.json`, and the arguments of
//! timm's and torchvision's training scripts.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Interpolation, Preprocess};

use super::pickle::Value;
use crate::nn::transfer::Normalize;

/// The normalization that torchvision's weights were trained with.
const IMAGENET: Normalize = Normalize {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

/// How images are made, as far as it is known. What is not is as for torchvision's first weights:
/// ImageNet's mean and standard deviation, 0.875 of the short side, antialiased bilinear interpolation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageConfig {
    mean: Option<[f64; 3]>,
    std: Option<[f64; 3]>,
    /// timm's name, in lower case; not empty.
    interpolation: Option<String>,
    /// The share of the short side that is kept: timm's `crop_pct`.
    fraction: Option<f64>,
    class_names: Option<Vec<String>>,
}

impl ImageConfig {
    /// Reads timm's `config.json`: the fields `mean`, `std`, `interpolation`, `crop_pct` and
    /// `label_names` of `pretrained_cfg`, or, in the older form, beside each other. `None`: it is another
    /// program's, with none of them.
    ///
    /// # Errors
    /// It is not JSON, or a field has an impossible value; the message names the field.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let json: serde_json::Value = serde_json::from_str(text).context("it is not valid JSON")?;
        let fields = json.get("pretrained_cfg").unwrap_or(&json);
        let there = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let three = |name: &str| -> Result<Option<[f64; 3]>> {
            let numbers = |value: &serde_json::Value| {
                let numbers = value.as_array()?.iter().map(serde_json::Value::as_f64);
                numbers.collect::<Option<Vec<f64>>>()?.try_into().ok()
            };
            let read = |value| {
                numbers(value).with_context(|| {
                    let value = value.to_string();
                    format!("`{name}` must be three numbers, not {}", value.shown())
                })
            };
            there(name).map(read).transpose()
        };
        let std = three("std")?;
        ensure!(
            std.is_none_or(|std| std.iter().all(|&std| std > 0.0)),
            "`std` must be positive, not {std:?}"
        );
        let fraction = there("crop_pct").map(|value| {
            let fraction = value.as_f64().filter(|&fraction| is_fraction(fraction));
            fraction.with_context(|| {
                let value = value.to_string();
                format!(
                    "`crop_pct` must be above 0 and at most 1, not {}",
                    value.shown()
                )
            })
        });
        let names = |json: &serde_json::Value| -> Option<Vec<String>> {
            let names = json.get("label_names")?.as_array()?.iter();
            names.map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let found = ImageConfig {
            mean: three("mean")?,
            std,
            interpolation: there("interpolation")
                .and_then(serde_json::Value::as_str)
                .and_then(interpolation),
            fraction: fraction.transpose()?,
            class_names: names(fields).or_else(|| names(&json)),
        };
        Ok((found != Self::default()).then_some(found))
    }

    /// What the arguments of a training script say: timm's, or torchvision's sizes of validation. `None`
    /// if they say nothing.
    pub(super) fn of_arguments(arguments: Value) -> Option<Self> {
        let three = |name: &str| -> Option<[f64; 3]> {
            let numbers = arguments.attribute(name)?.items()?.map(Value::number);
            let numbers = numbers.collect::<Option<Vec<f64>>>()?;
            numbers.try_into().ok()
        };
        let number = |name: &str| arguments.attribute(name).and_then(Value::number);
        let sizes = number("val_crop_size").zip(number("val_resize_size"));
        let fraction =
            number("crop_pct").or_else(|| sizes.map(|(crop, resize)| share(crop, resize)));
        let name = arguments.attribute("interpolation").and_then(Value::text);
        let found = ImageConfig {
            mean: three("mean").filter(|mean| mean.iter().all(|mean| mean.is_finite())),
            std: three("std").filter(|std| std.iter().all(|&std| std > 0.0 && std.is_finite())),
            interpolation: name.and_then(interpolation),
            fraction: fraction.filter(|&fraction| is_fraction(fraction)),
            class_names: None,
        };
        (found != Self::default()).then_some(found)
    }

    /// The mean and the standard deviation.
    pub(super) fn normalize(&self) -> Normalize {
        Normalize {
            mean: self.mean.unwrap_or(IMAGENET.mean),
            std: self.std.unwrap_or(IMAGENET.std),
        }
    }

    /// Everything before them. `fraction` is the user's.
    pub(super) fn preprocess(&self, fraction: Option<f64>) -> Preprocess {
        let usual = Preprocess::default();
        Preprocess {
            interpolation: match self.interpolation.as_deref() {
                Some("bicubic") => Interpolation::AntialiasedBicubic,
                _ => usual.interpolation,
            },
            fraction: fraction.or(self.fraction).unwrap_or(usual.fraction),
            ..usual
        }
    }

    /// The interpolation that [`ImageConfig::preprocess`] replaces by bilinear.
    pub(super) fn replaced_interpolation(&self) -> Option<&str> {
        let name = self.interpolation.as_deref();
        name.filter(|name| !["bilinear", "bicubic"].contains(name))
    }

    /// The names of so many classes, if it has them and they differ.
    pub(super) fn class_names(&self, classes: usize) -> Option<&[String]> {
        let names = self.class_names.as_deref()?;
        let distinct: HashSet<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        (names.len() == classes && distinct.len() == classes).then_some(names)
    }
}

fn interpolation(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_lowercase())
}

fn is_fraction(fraction: f64) -> bool {
    fraction > 0.0 && fraction <= 1.0
}

/// `crop / resize`, rounded such that `crop / share` is not truncated to less than `resize`.
fn share(crop: f64, resize: f64) -> f64 {
    let share = crop / resize;
    match crop / share < resize {
        true => share.next_down(),
        false => share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_validation_come_back_from_their_share() {
        for crop in 16..600 {
            for resize in crop..=crop + 100 {
                let share = share(f64::from(crop), f64::from(resize));
                assert!(is_fraction(share));
                assert_eq!((f64::from(crop) / share) as u32, resize, "{crop}");
            }
        }
    }
}
