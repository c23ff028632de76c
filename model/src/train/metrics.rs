//! What the trainer says while it works. The sinks keep it, the command shows it.

use std::sync::Arc;

use rsflow_graph::Payload;
use serde::{Serialize, Serializer};

use crate::checkpoint::Snapshot;

/// One thing that the trainer has to say. As JSON, an object whose `kind` tells which.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Metric {
    /// A training step is done.
    Step(Step),
    /// Some batches of a validation are done.
    Validating(Validating),
    /// An epoch is done and validated.
    Epoch(Table),
    /// The run is done.
    Final(Table),
}

/// A training step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The epoch that the step belongs to, from 0.
    pub epoch: u64,
    /// Steps done since the start of the run, this one included.
    pub step: u64,
    /// The figures of the loss, every `log_every` steps: reading them waits for the device.
    #[serde(flatten)]
    pub losses: Option<Losses>,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Images per second since the last step that was logged; each counts once, at all its
    /// resolutions.
    pub images_per_second: f64,
    /// Steps done in the epoch, this one included.
    #[serde(skip)]
    pub step_in_epoch: u64,
    /// Steps of an epoch.
    #[serde(skip)]
    pub steps_per_epoch: u64,
    /// Epochs of the run.
    #[serde(skip)]
    pub epochs: u64,
    /// Images of the batch.
    #[serde(skip)]
    pub images: usize,
}

/// The terms of the loss; see [`crate::train::distillation`].
#[derive(Clone, Debug, Serialize)]
pub struct Losses {
    /// The whole.
    pub loss: f64,
    /// By resolution.
    #[serde(serialize_with = "by_resolution")]
    pub cross_entropy: Vec<(u32, f64)>,
    /// Of the learned ensemble.
    pub ensemble_cross_entropy: f64,
    /// Before its weight; absent without distillation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<f64>,
}

/// As an object whose keys are the resolutions.
fn by_resolution<S: Serializer>(values: &[(u32, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().copied())
}

/// How far a validation has come.
#[derive(Clone, Debug, Serialize)]
pub struct Validating {
    /// The epoch that it follows, from 0.
    pub epoch: u64,
    /// Batches done.
    pub batches: u64,
    /// Of so many.
    pub of: u64,
}

/// The result of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The epoch that it follows, from 0.
    pub epoch: u64,
    /// Steps done since the start of the run.
    pub step: u64,
    /// One row for each resolution, in the order of the recipe, then the ensemble's.
    pub rows: Vec<Row>,
    /// Validation images.
    pub images: u64,
    /// Seconds since the start of the epoch (of the run, for the final table).
    pub seconds: f64,
}

/// The figures of one resolution, or of the ensemble.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `None`: the ensemble.
    pub resolution: Option<u32>,
    /// The resolution whose batch norms it ran with, its own as a rule. `None`: the ensemble.
    pub batch_norm: Option<u32>,
    /// Share of images whose class came first, in percent.
    pub top1: f64,
    /// Share of images whose class was among the first five, in percent.
    pub top5: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Multiply-adds of one image; for the ensemble those of all its members.
    pub multiply_adds: u64,
    /// Parameters that this row needs: the shared ones and its private ones.
    pub parameters: u64,
}

impl Payload for Metric {
    const NAME: &'static str = "metrics";
}

/// A checkpoint on its way to the disk.
#[derive(Clone, Debug)]
pub struct Checkpointed {
    /// All of it.
    pub snapshot: Arc<Snapshot>,
    /// Epochs finished, if it was taken at the end of one.
    pub end_of_epoch: Option<u64>,
    /// Whether its validation is the best so far.
    pub best: bool,
}

impl Payload for Checkpointed {
    const NAME: &'static str = "checkpoints";
}
