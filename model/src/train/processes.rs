//! What several processes exchange after a step, beside the gradients, which the optimizer averages.

use anyhow::{Context as _, Result};
use tch::Tensor;

use crate::dist::Peers;
use crate::nn::parameters::Role;
use crate::nn::switchable::SwitchableNetwork;
use crate::train::distillation::Loss;

/// Gives all processes the means of their running statistics and losses. Afterwards they hold the same bits.
///
/// # Errors
/// As [`Peers::average`].
pub fn average_over_processes(peers: &Peers, net: &SwitchableNetwork, loss: &Loss) -> Result<Loss> {
    let buffers = net
        .parameters()
        .iter()
        .filter(|parameter| matches!(parameter.role, Role::BatchNormMean | Role::BatchNormVar));
    let buffers: Vec<&Tensor> = buffers.map(|parameter| &parameter.tensor).collect();
    let total = loss.total.f_detach()?;
    let terms = [&total, &loss.ensemble_cross_entropy, &loss.cross_entropy];
    let own: Vec<&Tensor> = buffers
        .iter()
        .copied()
        .chain(terms)
        .chain(&loss.distillation)
        .collect();
    let mut means = peers.average(&own)?.into_iter();
    let mut next = || means.next().context("a mean is missing");
    tch::no_grad(|| {
        for buffer in buffers {
            buffer.shallow_clone().f_copy_(&next()?)?;
        }
        anyhow::Ok(())
    })?;
    Ok(Loss {
        total: next()?,
        ensemble_cross_entropy: next()?,
        cross_entropy: next()?,
        distillation: loss.distillation.as_ref().map(|_| next()).transpose()?,
    })
}
