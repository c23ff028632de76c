//! One training step.

use anyhow::Result;
use tch::Tensor;

use crate::distillation::{self, Distill, Loss};
use crate::layers::Mode;
use crate::optimizer::RunningOptimizer;
use crate::rs_net::RsNet;

/// Forward at every resolution, the loss, backward, the optimizer, the bases of quantizers. `images` holds
/// `[batch, 3, s, s]` for each resolution in the network's order, `labels` are `[batch]`, int64.
///
/// Reads nothing back from the device.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn training_step(
    net: &RsNet,
    optimizer: &mut RunningOptimizer,
    images: &[Tensor],
    labels: &Tensor,
    distill: Distill,
    lr: f64,
) -> Result<Loss> {
    let images = images.iter().enumerate();
    let mut pass = net.pass(Mode::Train)?;
    let logits = images
        .map(|(position, images)| pass.logits(images, position))
        .collect::<Result<Vec<_>>>()?;
    let ensemble = net.ensemble(&logits)?;
    let loss = distillation::loss(&logits, &ensemble, labels, distill)?;
    let gradients = net.parameters().gradients(&loss.total)?;
    optimizer.step(gradients, lr)?;
    pass.move_bases()?;
    Ok(loss)
}
