//! One training step.

use anyhow::{Context as _, Result};
use tch::Tensor;

use crate::nn::layers::Mode;
use crate::nn::parameters::Role;
use crate::nn::rs_net::RsNet;
use crate::train::distillation::{self, Distill, Loss};
use crate::train::optimizer::RunningOptimizer;

/// A way of doing a step: [`training_step`] or [`recomputing_training_step`].
pub type StepFunction =
    fn(&RsNet, &mut RunningOptimizer, &[Tensor], &Tensor, Distill, f64) -> Result<Loss>;

/// Forward at every resolution, the loss, backward, the optimizer, the bases of quantizers. `images` holds
/// `[batch, 3, s, s]` for each resolution in the network's order, `labels` are `[batch]`, int64.
///
/// Reads nothing back from the device. The backward pass goes from the last resolution to the first,
/// and frees the activations of each on its way.
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
    let mut pass = net.pass(Mode::Train)?;
    let logits = (0..)
        .zip(images)
        .map(|(position, images)| pass.logits(images, position))
        .collect::<Result<Vec<_>>>()?;
    let ensemble = net.ensemble(&logits)?;
    let loss = distillation::loss(&logits, &ensemble, labels, distill)?;
    let objective = optimizer.objective(&loss.total)?;
    let gradients = net.parameters().gradients(&objective)?;
    optimizer.step(gradients, lr)?;
    pass.move_bases()?;
    Ok(loss)
}

/// The same with the activations of one resolution in memory at a time. All but the first are run
/// twice: once for their logits, which the losses of the others need, and once more for their
/// gradients. Running statistics move once, as they do in [`training_step`], and the gradients are
/// the same but for rounding.
///
/// # Errors
/// As [`training_step`].
pub fn recomputing_training_step(
    net: &RsNet,
    optimizer: &mut RunningOptimizer,
    images: &[Tensor],
    labels: &Tensor,
    distill: Distill,
    lr: f64,
) -> Result<Loss> {
    // With statistics of the batch, as in training, none of which is kept.
    let mut rehearsal = net.pass(Mode::Calibrate { share: 0.0 })?;
    let mut pass = net.pass(Mode::Train)?;
    let mut leaves = Vec::with_capacity(images.len());
    let mut first = None;
    for (position, images) in images.iter().enumerate().rev() {
        let logits = match position {
            0 => pass.logits(images, position)?,
            _ => rehearsal.logits(images, position)?,
        };
        leaves.insert(0, logits.f_detach()?.f_set_requires_grad(true)?);
        first = Some(logits);
    }
    drop(rehearsal);

    let ensemble = net.ensemble(&leaves)?;
    let loss = distillation::loss(&leaves, &ensemble, labels, distill)?;
    let objective = optimizer.objective(&loss.total)?;
    let alpha = net.alpha();
    let sources: Vec<&Tensor> = leaves.iter().chain([alpha]).collect();
    let mut of_logits = Tensor::f_run_backward(&[&objective], &sources, false, false)
        .context("the backward pass of the loss failed")?;
    let of_alpha = of_logits.pop().context("alpha has no gradient")?;

    let mut sum: Option<Vec<Tensor>> = None;
    let last = images.len().saturating_sub(1);
    for (position, (images, gradient)) in images.iter().zip(&of_logits).enumerate() {
        let logits = match first.take() {
            Some(logits) => logits,
            None => pass.logits(images, position)?,
        };
        let objective = logits.f_mul(gradient)?.f_sum(None)?;
        // What resolutions share of the graph, the quantized weights, is needed by the next one.
        let keep = position < last && net.network().is_quantized();
        let gradients = net.parameters().gradients_of(&objective, keep)?;
        sum = Some(match sum {
            None => gradients,
            Some(sum) => add(sum, gradients)?,
        });
    }
    let mut gradients = sum.context("a step needs images")?;
    for (parameter, gradient) in net.parameters().trainable().zip(&mut gradients) {
        if parameter.role == Role::Alpha {
            *gradient = of_alpha.shallow_clone();
        }
    }
    optimizer.step(gradients, lr)?;
    pass.move_bases()?;
    Ok(loss)
}

/// Sums of gradients, any of which may be undefined.
fn add(sums: Vec<Tensor>, gradients: Vec<Tensor>) -> Result<Vec<Tensor>> {
    tch::no_grad(|| {
        let pairs = sums.into_iter().zip(gradients);
        pairs
            .map(|(mut sum, gradient)| {
                Ok(match (sum.defined(), gradient.defined()) {
                    (true, true) => sum.f_add_(&gradient)?,
                    (true, false) => sum,
                    (false, _) => gradient,
                })
            })
            .collect()
    })
}
