//! What the command asks of a node that trains, whatever its kind.

use anyhow::Result;
use rsflow_graph::{Schema, World};

use super::benchmark::Benchmark;
use crate::nn::compute::ProcessSettings;
use crate::nn::networks::Network;
use crate::nn::summary::Summary;

/// A node that trains a network. `incoming` is what the plan knows of its inputs: port and schema.
pub trait Trains {
    /// What its network costs at the resolutions of the training batches.
    ///
    /// # Errors
    /// Its training input is not in `incoming`, or as [`Summary::new`].
    fn summary(&self, incoming: &[(&'static str, Schema)]) -> Result<Summary>;

    /// The network as the recipe has it.
    fn architecture(&self) -> &Network;

    /// The resolutions of the training batches, in the recipe's order.
    ///
    /// # Errors
    /// Its training input is not in `incoming`.
    fn resolutions(&self, incoming: &[(&'static str, Schema)]) -> Result<Vec<u32>>;

    /// The number of classes; `None` where the recipe leaves it to the data.
    fn classes(&self) -> Option<u32>;

    /// Epochs that it trains for.
    fn epochs(&self) -> u64;

    /// What its computation needs of the process.
    fn process_settings(&self) -> ProcessSettings;

    /// Consecutive images of a batch that one process must have, of several that train together.
    fn block(&self) -> u32;

    /// Its network and training step with random weights, to be measured. The process must have been
    /// prepared ([`Trains::process_settings`]). `world` says which of several processes this is.
    ///
    /// # Errors
    /// As [`Trains::summary`]; the device cannot be used, or is out of memory.
    fn benchmark(&self, incoming: &[(&'static str, Schema)], world: World) -> Result<Benchmark>;
}
