//! Nodes of a plan that compute, by what they can do.

use rsflow_graph::{Plan, Planned};

use super::evaluate::Evaluate;
use super::trainer::Trainer;
use super::trains::Trains;
use crate::nn::compute::ProcessSettings;

/// The node as one that trains; `None` if it does not. A new kind that trains is a line here.
pub fn trainer_of(planned: &Planned) -> Option<&dyn Trains> {
    let trainer: &Trainer = planned.node()?;
    Some(trainer)
}

/// What the computing node of a plan needs of the process; `None` if no node computes.
pub fn process_settings(plan: &Plan) -> Option<ProcessSettings> {
    plan.nodes().iter().find_map(|planned| {
        let trainer = trainer_of(planned).map(Trains::process_settings);
        trainer.or_else(|| planned.node::<Evaluate>().map(Evaluate::process_settings))
    })
}

/// Consecutive images of a batch that one process must have; see [`Trains::block`].
pub fn block(plan: &Plan) -> u32 {
    let trainers = plan.nodes().iter().filter_map(trainer_of);
    trainers.map(Trains::block).max().unwrap_or(1)
}
