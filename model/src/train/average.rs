//! A moving average of the weights: a second network of the same kind, which follows the one that is
//! trained, and often has the better accuracy.

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::checkpoint::{AVERAGE_PREFIX, Checkpoint, Weights};
use crate::nn::field_error::FieldError;
use crate::nn::native::optimizers::move_towards;
use crate::nn::parameters::{Parameter, Role, WeightInit};
use crate::nn::replay::{CudaGraph, Inference};
use crate::nn::switchable::SwitchableNetwork;

/// An exponential moving average of all weights, and of the batch norms of every resolution with their running
/// statistics: after a step it is decay * average + (1 - decay) * weights, as timm's `ModelEmaV3`. The first
/// time it becomes the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// The share of the average that is kept, above 0 and below 1: with 0.999 it is mainly of the last 1,000
    /// steps. What suits is a small part of the run's steps.
    decay: f64,
    /// Begin with a smaller decay, 1 - (1 + updates)^(-2/3), as long as that is below `decay`: the average then
    /// soon forgets the first, random weights.
    #[serde(default)]
    warm_up: bool,
    /// Steps from one update to the next.
    #[serde(default = "one")]
    every_steps: u64,
}

fn one() -> u64 {
    1
}

impl Average {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !(self.decay > 0.0 && self.decay < 1.0) {
            let error = format!(
                "`decay` must be above 0 and below 1, such as 0.999, not {}",
                self.decay
            );
            errors.push(("decay", error));
        }
        if self.every_steps == 0 {
            errors.push(("every_steps", "`every_steps` must be at least 1".to_owned()));
        }
        errors
    }

    pub(super) fn every_steps(&self) -> u64 {
        self.every_steps
    }

    /// The decay of the update after a step, counted from 1; `None`: there is none.
    fn decay_after(&self, step: u64) -> Option<f64> {
        if !step.is_multiple_of(self.every_steps) {
            return None;
        }
        let before = (step / self.every_steps).saturating_sub(1) as f64;
        let most = match self.warm_up {
            true => 1.0 - (1.0 + before).powf(-2.0 / 3.0),
            false if before == 0.0 => 0.0,
            false => 1.0,
        };
        Some(self.decay.min(most))
    }

    /// The average of a network, which it equals at first.
    ///
    /// # Errors
    /// Out of memory.
    pub fn start(self, of: &SwitchableNetwork, cuda_graph: CudaGraph) -> Result<RunningAverage> {
        let net = SwitchableNetwork::with_batch_norms(
            of.network(),
            of.classes(),
            of.resolutions(),
            of.norms().clone(),
            of.parameters().compute(),
            WeightInit::Zeros,
        )
        .context("there is no memory for the average of the weights")?;
        let tensors = of.parameters().iter();
        net.parameters()
            .load(tensors.map(|p| (p.name.as_str(), &p.tensor)))?;
        Ok(RunningAverage {
            rule: self,
            inference: Inference::new(&net, cuda_graph),
            net,
        })
    }
}

/// An average, and the network that has it as its weights.
#[derive(Debug)]
pub struct RunningAverage {
    rule: Average,
    /// For validations alone.
    pub net: SwitchableNetwork,
    /// Its passes.
    pub inference: Inference,
}

impl RunningAverage {
    /// Follows a network, after this many of its steps.
    ///
    /// # Errors
    /// The device fails.
    pub fn update(&mut self, of: &SwitchableNetwork, steps: u64) -> Result<()> {
        let Some(decay) = self.rule.decay_after(steps) else {
            return Ok(());
        };
        let pairs = self.net.parameters().iter().zip(of.parameters().iter());
        let (own, followed): (Vec<&Tensor>, Vec<&Tensor>) = pairs
            .filter(|(own, _)| is_kept(own.role))
            .map(|(own, followed)| (&own.tensor, &followed.tensor))
            .unzip();
        move_towards(&own, &followed, 1.0 - decay)
            .context("cannot update the average of the weights")
    }

    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.kept().map(|parameter| &parameter.tensor)
    }

    /// The same with their names in a checkpoint.
    pub fn buffers(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.kept()
            .map(|p| (format!("{AVERAGE_PREFIX}{}", p.name), &p.tensor))
    }

    fn kept(&self) -> impl Iterator<Item = &Parameter> {
        self.net.parameters().iter().filter(|p| is_kept(p.role))
    }

    /// Replaces it by that of a checkpoint; returns false if that has none.
    ///
    /// # Errors
    /// As [`Checkpoint::load_with`].
    pub fn load(&mut self, from: &Checkpoint) -> Result<bool> {
        let has_one = from.has_average();
        if has_one {
            from.load_weights(
                Weights::Average,
                &self.net,
                |norm| norm,
                |p| is_kept(p.role),
            )?;
        }
        Ok(has_one)
    }
}

/// Whether there is an average of such tensors: of what a network computes with.
fn is_kept(role: Role) -> bool {
    role.is_needed_for_inference()
}
