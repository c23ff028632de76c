//! What the command asks of a node that trains, whatever its kind.

use anyhow::Result;
use rsflow_graph::{Planned, Schema};

use super::benchmark::Benchmark;
use super::trainer::Trainer;
use crate::nn::summary::Summary;

/// A node that trains a network. `incoming` is what the plan knows of its inputs: port and schema.
pub trait Trains {
    /// What its network costs at the resolutions of the training batches.
    ///
    /// # Errors
    /// Its training input is not in `incoming`, or as [`Summary::new`].
    fn summary(&self, incoming: &[(&'static str, Schema)]) -> Result<Summary>;

    /// Its network and training step with random weights, to be measured.
    ///
    /// # Errors
    /// As [`Trains::summary`]; the device cannot be used, or is out of memory.
    fn benchmark(&self, incoming: &[(&'static str, Schema)]) -> Result<Benchmark>;
}

/// The node as one that trains; `None` if it does not. A new kind that trains is a line here.
pub fn trainer_of(planned: &Planned) -> Option<&dyn Trains> {
    let trainer: &Trainer = planned.node()?;
    Some(trainer)
}
