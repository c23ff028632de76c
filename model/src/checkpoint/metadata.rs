//! What a checkpoint says about itself.

use std::collections::BTreeMap;
use std::fmt::Display;

use anyhow::{Result, ensure};
use rsflow_graph::Preprocess;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::Best;
use crate::nn::compute::ComputeHints;
use crate::nn::layers::{NormOptions, Norms};
use crate::nn::networks::Network;
use crate::nn::parameters::join_problems;
use crate::nn::switchable::{BatchNorms, check_resolutions};
use crate::nn::transfer::{Channels, Normalize};

/// The version of the format that this program writes, and the newest that it reads. 2: quantized
/// networks, packed or not. 3: the place in an epoch is counted in samples. 4: batch norms have options.
pub const FORMAT: u32 = 4;

/// What a checkpoint says about itself beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the format, [`FORMAT`].
    pub format: u32,
    /// What the network was built from.
    pub network: Network,
    /// The names of the classes, in the order of the logits; empty names where they are not known.
    pub classes: Vec<String>,
    /// The resolutions, in the order of alpha.
    pub resolutions: Vec<u32>,
    /// Whether each of them has a batch norm of its own.
    #[serde(default)]
    pub batch_norms: BatchNorms,
    /// What all of them have in common.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norms: NormOptions,
    /// Further resolutions, which were never trained: only the running statistics of their batch
    /// norms were measured. They are not part of the ensemble.
    #[serde(default)]
    pub calibrated: Vec<u32>,
    /// How images are made that it is measured on; see [`Metadata::image_input`]. `None` in files
    /// from before this was kept, and from other programs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "checked_preprocess"
    )]
    pub preprocess: Option<Preprocess>,
    /// What is done to the values of images, which lie in 0..1, before the network gets them.
    #[serde(default)]
    pub normalize: Option<Normalize>,
    /// The order in which the network gets their colours.
    #[serde(default)]
    pub channels: Channels,
    /// Whether convolutions multiplied float32 when it was trained; taken to be so in files from
    /// before this was kept, and from other programs.
    #[serde(default = "yes")]
    pub trained_in_float32: bool,
    /// Whether the weights of quantizers are there as codes only; see [`packed`](super::packed).
    #[serde(default)]
    pub packed: bool,
    /// Whether its weights are a moving average, without those that were trained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub averaged: bool,
    /// The epoch that the next step belongs to, from 0.
    pub epoch: u64,
    /// Samples of that epoch's order that were trained on, by all processes together.
    #[serde(default)]
    pub sample_in_epoch: u64,
    /// The same in steps, in files of formats 1 and 2.
    #[serde(default, rename = "step_in_epoch", skip_serializing)]
    pub old_step_in_epoch: Option<u64>,
    /// Steps done since the start of the run.
    pub step: u64,
    /// Steps of each of the run's epochs; `None` in files from before this was kept.
    #[serde(default)]
    pub steps_per_epoch: Option<u64>,
    /// Samples of each of them, of all processes together; `None` in files of formats 1 and 2.
    #[serde(default)]
    pub samples_per_epoch: Option<u64>,
    /// A hash of the names of the training images and their classes, in their order; `None` in files
    /// from before this was kept, and from other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_names: Option<String>,
    /// The same of the validation images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_names: Option<String>,
    /// The seed of the run.
    pub seed: u64,
    /// The best validation so far; `None` before the first.
    pub best: Option<Best>,
    /// The last validation of the run; `None` before the first, and in files from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validated>,
    /// The learning rate of the last step; `None` before the first, and where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Seconds that it was trained for, of a run whose time is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_seconds: Option<f64>,
    /// Sums over the steps of the epoch that the next step belongs to; `None` before its first step, and in files
    /// from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingSums>,
    /// The scale of the loss, where it was trained in float16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleState>,
    /// Updates of the optimizer so far, where its rule depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_updates: Option<u64>,
    /// Of these, those that parameters without a gradient have missed, by name, where the rule depends on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub optimizer_missed: BTreeMap<String, u64>,
    /// The recipe's text, overrides applied; empty if another program trained it.
    pub recipe: String,
}

fn is_default(norms: &NormOptions) -> bool {
    *norms == NormOptions::default()
}

fn yes() -> bool {
    true
}

/// Refuses what no image can be made by, with the name of the key, which serde does not tell.
fn checked_preprocess<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Preprocess>, D::Error> {
    let wrong = |error: &dyn Display| {
        let error = format!("`preprocess` is damaged, or written by a newer program: {error}");
        D::Error::custom(error)
    };
    let by = Option::<Preprocess>::deserialize(from).map_err(|error| wrong(&error))?;
    match by.map(|by| by.check()).transpose() {
        Ok(_) => Ok(by),
        Err(error) => Err(wrong(&format_args!("{error:#}"))),
    }
}

fn nan_for_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// All that is done to an image file before the network gets it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ImageInput {
    /// From the file to pixels: uint8 RGB, `[size, size, 3]`. They are then divided by 255.
    pub preprocess: Preprocess,
    /// What is done to these values.
    pub normalize: Option<Normalize>,
    /// The order of the colours, last.
    pub channels: Channels,
}

/// The largest number of resolutions of a checkpoint, trained and calibrated.
const MAX_RESOLUTIONS: usize = 256;
/// Upper bound of the numbers of epochs, steps and samples: up to it sums and products with lengths
/// of a run do not overflow.
const MAX_COUNT: u64 = 1 << 53;

impl Metadata {
    /// Refuses what no network can be built or run from.
    ///
    /// # Errors
    /// The message names the key.
    pub(super) fn check(&self) -> Result<()> {
        let problems = self.network.check().into_iter().map(|(_, problem)| problem);
        let problems: Vec<String> = problems.collect();
        ensure!(problems.is_empty(), "`network`: {}", problems.join("; "));
        let problems = self.norms.check().into_iter().map(|(_, problem)| problem);
        let problems: Vec<String> = problems.collect();
        ensure!(problems.is_empty(), "`norms`: {}", problems.join("; "));
        ensure!(!self.classes.is_empty(), "`classes` is empty");
        let resolutions = [&self.resolutions[..], &self.calibrated].concat();
        ensure!(
            resolutions.len() <= MAX_RESOLUTIONS,
            "it has {} resolutions, more than {MAX_RESOLUTIONS}",
            resolutions.len()
        );
        ensure!(!self.resolutions.is_empty(), "`resolutions` is empty");
        let problems = check_resolutions(&self.network, &resolutions)?;
        ensure!(problems.is_empty(), "{}", join_problems(&problems));
        if let Some(Normalize { mean, std }) = &self.normalize {
            // The dtype that images are normalized in.
            ensure!(
                mean.iter().all(|&mean| (mean as f32).is_finite()),
                "`normalize.mean` must be finite, not {mean:?}"
            );
            ensure!(
                std.iter()
                    .all(|&std| std as f32 > 0.0 && (std as f32).is_finite()),
                "`normalize.std` must be positive and finite, not {std:?}"
            );
        }
        if let Some(LossScaleState { scale, steps }) = self.loss_scale {
            ensure!(
                scale > 0.0 && scale.is_finite() && steps >= 0,
                "`loss_scale` must be positive, not {scale} since {steps} steps"
            );
        }
        if let Some(seconds) = self.trained_seconds {
            ensure!(
                seconds >= 0.0 && seconds.is_finite(),
                "`trained_seconds` must be at least 0, not {seconds}"
            );
        }
        if let Some(sums) = &self.training {
            sums.check()?;
        }
        let old_step = self.old_step_in_epoch.unwrap_or(0);
        let steps = self.steps_per_epoch.unwrap_or(0);
        let samples = self.samples_per_epoch.unwrap_or(0);
        for (key, count) in [
            ("epoch", self.epoch),
            ("sample_in_epoch", self.sample_in_epoch),
            ("step_in_epoch", old_step),
            ("step", self.step),
            ("steps_per_epoch", steps),
            ("samples_per_epoch", samples),
            ("optimizer_updates", self.optimizer_updates.unwrap_or(0)),
        ] {
            ensure!(
                count <= MAX_COUNT,
                "`{key}` is {count}, more than {MAX_COUNT}"
            );
        }
        Ok(())
    }

    /// That of a network which has not been trained yet.
    pub fn new(network: Network, classes: Vec<String>, resolutions: Vec<u32>) -> Self {
        Self {
            format: FORMAT,
            network,
            classes,
            resolutions,
            batch_norms: BatchNorms::Private,
            norms: NormOptions::default(),
            calibrated: vec![],
            preprocess: None,
            normalize: None,
            channels: Channels::default(),
            trained_in_float32: true,
            packed: false,
            averaged: false,
            epoch: 0,
            sample_in_epoch: 0,
            old_step_in_epoch: None,
            step: 0,
            steps_per_epoch: None,
            samples_per_epoch: None,
            training_names: None,
            validation_names: None,
            seed: 0,
            best: None,
            validation: None,
            learning_rate: None,
            trained_seconds: None,
            training: None,
            loss_scale: None,
            optimizer_updates: None,
            optimizer_missed: BTreeMap::new(),
            recipe: String::new(),
        }
    }

    /// [`Metadata::sample_in_epoch`] in every format, for a run whose batches (of all processes) have
    /// `batch` samples.
    pub fn samples_done(&self, batch: u64) -> u64 {
        let old = self
            .old_step_in_epoch
            .map(|steps| steps.saturating_mul(batch));
        old.unwrap_or(self.sample_in_epoch)
    }

    /// Whether it comes from another program, which knows no recipe: then neither seed nor the
    /// number of steps is known.
    pub fn is_imported(&self) -> bool {
        self.recipe.is_empty()
    }

    /// What an image goes through before the network gets it. `of_recipe` says how the validation of
    /// a recipe made images; it is asked where the checkpoint is from before this was kept. Where
    /// nothing is known, images are made as the reference does.
    pub fn image_input(&self, of_recipe: impl FnOnce(&str) -> Option<Preprocess>) -> ImageInput {
        let preprocess = self.preprocess.or_else(|| of_recipe(&self.recipe));
        ImageInput {
            preprocess: preprocess.unwrap_or_default(),
            normalize: self.normalize,
            channels: self.channels,
        }
    }

    /// As its network's, but for the precision, which is that of the training where the device has it:
    /// the accuracy is known of that.
    ///
    /// # Errors
    /// As [`Network::hints`].
    pub fn hints(&self) -> Result<ComputeHints> {
        let hints = self.network.hints()?;
        let float32 = hints.float32 || self.trained_in_float32;
        let slow_bfloat16 = false;
        Ok(ComputeHints {
            float32,
            slow_bfloat16,
            ..hints
        })
    }

    /// The resolutions whose batch norms it has.
    pub fn batch_norm_resolutions(&self) -> Vec<u32> {
        let mut norms = match self.batch_norms {
            BatchNorms::Private => self.resolutions.clone(),
            BatchNorms::Shared => self.resolutions.first().copied().into_iter().collect(),
        };
        norms.extend(&self.calibrated);
        norms
    }

    /// The batch norms of a network that uses those of these resolutions.
    pub fn norms_of(&self, resolutions: &[u32]) -> Norms {
        Norms {
            of: resolutions.to_vec(),
            options: self.norms,
        }
    }
}

/// The results of a validation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// The epoch before it, counted from 0.
    pub epoch: u64,
    /// Validation images.
    pub images: u64,
    /// A row for each resolution, in the order of the recipe, then for the ensemble.
    pub rows: Vec<Row>,
    /// The same of the average of the weights; empty if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub average: Vec<Row>,
}

/// The results of a resolution or of the ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `None`: the ensemble.
    pub resolution: Option<u32>,
    /// The resolution whose batch norms it used, usually its own. `None`: the ensemble, or interpolated ones.
    pub batch_norm: Option<u32>,
    /// The resolutions below and above whose batch norms were interpolated for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between: Option<(u32, u32)>,
    /// Accuracy in percent.
    pub top1: f64,
    /// Accuracy in percent.
    pub top5: f64,
    /// Mean cross-entropy. JSON has null for what is not finite.
    #[serde(deserialize_with = "nan_for_null")]
    pub loss: f64,
    /// Multiply-adds of one image; for the ensemble the sum over its members.
    pub multiply_adds: u64,
    /// Shared and private parameters.
    pub parameters: u64,
}

/// Sums over the steps of an epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSums {
    pub steps: u64,
    /// Of all processes.
    pub images: u64,
    /// Of the loss, the ensemble's cross-entropy, the images that were predicted right, the cross-entropy of each
    /// resolution, and the distillation.
    pub sums: Vec<f64>,
    /// In how many steps each of these was there; of how many images those that were predicted right are.
    pub counts: Vec<u64>,
}

impl TrainingSums {
    fn check(&self) -> Result<()> {
        let counts = self.counts.iter().chain([&self.steps, &self.images]);
        ensure!(
            self.sums.iter().all(|sum| sum.is_finite()) && counts.max() <= Some(&MAX_COUNT),
            "`training` has sums that are not finite, or counts above {MAX_COUNT}"
        );
        Ok(())
    }
}

/// The scale of the loss in float16.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaleState {
    /// The factor.
    pub scale: f64,
    /// Steps since it last changed.
    pub steps: i64,
}
