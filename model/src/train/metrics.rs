//! The metrics of training and validation: written by the sinks, shown by the command.

use std::sync::Arc;

use rsflow_graph::{Batch, Payload, bytes_per_image};
use serde::{Serialize, Serializer};

use crate::checkpoint::Snapshot;

pub use crate::checkpoint::Row;

/// A metric. In JSON, an object with its variant in `kind`. The field names are JSON keys. Epochs count from 0
/// here, and from 1 in JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Metric {
    /// Once, with the first step of a run: what it trains on. Only for who shows images.
    #[serde(skip)]
    Samples(Samples),
    /// After a training step.
    Step(Step),
    /// During a validation.
    Validating(Validating),
    /// After an epoch: its training, and its validation; without rows where it was not validated.
    Epoch(Table),
    /// At the end of the run.
    Final(Table),
}

/// Images of the first training batch as they are before they are normalized and mixed: cropped, resized, flipped,
/// coloured.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The step that trains on them.
    pub step: u64,
    /// For each resolution the pixels `[images, resolution, resolution, 3]` (RGB); the same images in the same order.
    pub pixels: Arc<Vec<(u32, Vec<u8>)>>,
}

impl Samples {
    /// The largest number of images.
    pub const MOST: usize = 8;

    /// The first images of a batch. They are copied, which takes a millisecond: the batch's memory is needed again.
    pub fn of(batch: &Batch, step: u64) -> Self {
        let count = batch.labels().len().min(Self::MOST);
        let first = |(position, resolution)| {
            let bytes = count * bytes_per_image(resolution);
            (resolution, batch.pixels(position)[..bytes].to_vec())
        };
        let pixels = batch.resolutions().enumerate().map(first).collect();
        Samples {
            step,
            pixels: Arc::new(pixels),
        }
    }
}

/// A training step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    #[serde(serialize_with = "from_one")]
    pub epoch: u64,
    /// Steps since the start of the run, this one included.
    pub step: u64,
    /// Every `log_every` steps: reading them waits for the device.
    #[serde(flatten)]
    pub losses: Option<Losses>,
    pub learning_rate: f64,
    /// Since the last logged step. An image counts once, not once per resolution.
    pub images_per_second: f64,
    /// Steps in this epoch, this one included.
    #[serde(skip)]
    pub step_in_epoch: u64,
    #[serde(skip)]
    pub steps_per_epoch: u64,
    #[serde(skip)]
    pub epochs: u64,
    /// Images in the batch.
    #[serde(skip)]
    pub images: usize,
}

/// The terms of the loss; see [`crate::train::distillation`].
#[derive(Clone, Debug, Serialize)]
pub struct Losses {
    /// Total loss.
    pub loss: f64,
    /// For each resolution.
    #[serde(serialize_with = "by_resolution")]
    pub cross_entropy: Vec<(u32, f64)>,
    pub ensemble_cross_entropy: f64,
    /// Without its weight; absent without distillation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<f64>,
}

/// An epoch as a user counts.
fn from_one<S: Serializer>(epoch: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(epoch.saturating_add(1))
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An object with the resolutions as keys.
fn by_resolution<S: Serializer>(values: &[(u32, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().copied())
}

/// Progress of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct Validating {
    /// The epoch before it.
    #[serde(serialize_with = "from_one")]
    pub epoch: u64,
    /// Batches so far.
    pub batches: u64,
    /// Total batches.
    pub of: u64,
    /// Of the run; 0 in an evaluation.
    #[serde(skip)]
    pub epochs: u64,
}

/// The training of an epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// Steps that this is of: all of the epoch, or those since the run was resumed from a checkpoint that an
    /// older program had saved within the epoch.
    pub steps: u64,
    /// Images of these steps, of all processes.
    pub images: u64,
    /// The means over these steps, of each term over those that have it.
    #[serde(flatten)]
    pub losses: Losses,
    /// Accuracy in percent on the batches as they were trained on, at `top1_resolution`; absent if no step
    /// trained that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The largest one.
    pub top1_resolution: u32,
    /// Whether `top1` counts mixed images, as right where the label with the larger share is predicted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mixed_labels: bool,
    /// That of the last step.
    pub learning_rate: f64,
    /// Since the start of the epoch, or since the run was resumed within it; absent if it was resumed at its end.
    /// An image counts once, not once per resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    /// The most memory that tensors had on the first process's GPU since its first step; absent on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gpu_bytes: Option<u64>,
    #[serde(skip)]
    pub steps_per_epoch: u64,
}

/// An epoch, or the end of a run: training, and the results of the validation, if there was one.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The epoch before it.
    #[serde(serialize_with = "from_one")]
    pub epoch: u64,
    /// Steps since the start of the run.
    pub step: u64,
    /// A row for each resolution, in the order of the recipe, then for the ensemble.
    pub rows: Vec<Row>,
    /// The same of the average of the weights; empty if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub average: Vec<Row>,
    /// Classes of the network; 0 where nothing was validated.
    #[serde(skip)]
    pub classes: u32,
    /// Validation images.
    pub images: u64,
    /// Further ones that were left out: damaged ones, and those of a batch that is not full.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Seconds since the start of the epoch (of the run, for the final table).
    pub seconds: f64,
    /// The training before it, for an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
}

impl Payload for Metric {
    const NAME: &'static str = "metrics";
}

/// A checkpoint to write.
#[derive(Clone, Debug)]
pub struct Checkpointed {
    pub snapshot: Arc<Snapshot>,
    /// The number of finished epochs, if it is one at the end of an epoch.
    pub end_of_epoch: Option<u64>,
    /// Whether its validation is the best of the run so far.
    pub best: bool,
    /// Metrics that the trainer sent before it. They have to be on the disk before it is.
    pub metrics: u64,
}

impl Payload for Checkpointed {
    const NAME: &'static str = "checkpoints";
}
