//! One training step.

use anyhow::{Context as _, Result};
use tch::Tensor;

use crate::nn::layers::Mode;
use crate::nn::parameters::Role;
use crate::nn::switchable::SwitchableNetwork;
use crate::train::distillation::{self, Distill, Loss};
use crate::train::optimizer::{Rate, RunningOptimizer};
use crate::train::processes::StepExchange;

/// [`training_step`] or [`recomputing_training_step`].
pub type StepFunction = fn(
    &SwitchableNetwork,
    &mut RunningOptimizer,
    &[Tensor],
    &Tensor,
    Distill,
    Rate,
    Option<&StepExchange>,
) -> Result<Loss>;

/// Forward pass at every resolution, loss, backward pass, optimizer step, update of the quantizers'
/// bases. `images` has `[batch, 3, s, s]` for each resolution in the network's order; `labels` are
/// int64 `[batch]`. Of several processes, each of which has its part of the batch, all make the same step,
/// and get the mean of their losses.
///
/// Reads nothing back from the device. The backward pass goes from the last resolution to the first
/// and frees the activations of each.
///
/// # Errors
/// Shapes that do not match; out of memory; another process is lost.
pub fn training_step(
    net: &SwitchableNetwork,
    optimizer: &mut RunningOptimizer,
    images: &[Tensor],
    labels: &Tensor,
    distill: Distill,
    lr: Rate,
    exchange: Option<&StepExchange>,
) -> Result<Loss> {
    let mut pass = net.pass(Mode::Train)?;
    let logits = (0..)
        .zip(images)
        .map(|(position, images)| pass.logits(images, position))
        .collect::<Result<Vec<_>>>()?;
    let ensemble = net.ensemble(&logits)?;
    let loss = distillation::loss(&logits, &ensemble, labels, distill)?;
    let scaled_loss = optimizer.scale_loss(&loss.total)?;
    let sums = pass.activation_sums();
    let begun = match exchange {
        Some(exchange) => Some((exchange, exchange.begin(&sums, &loss)?)),
        None => None,
    };
    let gradients = net.parameters().gradients(&scaled_loss)?;
    let (gradients, loss) = match begun {
        Some((exchange, begun)) => exchange.finish(begun, &sums, gradients)?,
        None => (gradients, loss),
    };
    optimizer.step(gradients, lr)?;
    pass.update_bases()?;
    Ok(loss)
}

/// The same with the activations of one resolution at a time in memory (activation recomputation).
/// All resolutions but the first are run twice: once for their logits, which the losses of the
/// others need, and again for their gradients. Running statistics are updated once, as in
/// [`training_step`], and the gradients are equal except for rounding.
///
/// # Errors
/// As [`training_step`].
pub fn recomputing_training_step(
    net: &SwitchableNetwork,
    optimizer: &mut RunningOptimizer,
    images: &[Tensor],
    labels: &Tensor,
    distill: Distill,
    lr: Rate,
    exchange: Option<&StepExchange>,
) -> Result<Loss> {
    // Uses the batch's statistics, as training does, and leaves the running statistics as they are.
    let mut first_run = net.pass(Mode::Calibrate { share: 0.0 })?;
    let mut pass = net.pass(Mode::Train)?;
    let mut leaves = Vec::with_capacity(images.len());
    let mut first_logits = None;
    for (position, images) in images.iter().enumerate().rev() {
        let logits = match position {
            0 => pass.logits(images, position)?,
            _ => first_run.logits(images, position)?,
        };
        leaves.insert(0, logits.f_detach()?.f_set_requires_grad(true)?);
        first_logits = Some(logits);
    }
    drop(first_run);

    let ensemble = net.ensemble(&leaves)?;
    let loss = distillation::loss(&leaves, &ensemble, labels, distill)?;
    let scaled_loss = optimizer.scale_loss(&loss.total)?;
    let alpha = net.alpha();
    let sources: Vec<&Tensor> = leaves.iter().chain([alpha]).collect();
    let mut logits_gradients = Tensor::f_run_backward(&[&scaled_loss], &sources, false, false)
        .context("the backward pass of the loss failed")?;
    let alpha_gradient = logits_gradients.pop().context("alpha has no gradient")?;

    let mut sum: Option<Vec<Tensor>> = None;
    let last = images.len().saturating_sub(1);
    for (position, (images, gradient)) in images.iter().zip(&logits_gradients).enumerate() {
        let logits = match first_logits.take() {
            Some(logits) => logits,
            None => pass.logits(images, position)?,
        };
        // The gradient of sum(logits * g) is the backward pass from the logits with the gradient g.
        let product = logits.f_mul(gradient)?.f_sum(None)?;
        // All resolutions share the graph of the quantized weights; the next one needs it.
        let retain_graph = position < last && net.network().is_quantized();
        let gradients = net.parameters().gradients_of(&product, retain_graph)?;
        sum = Some(match sum {
            None => gradients,
            Some(sum) => add(sum, gradients)?,
        });
    }
    let mut gradients = sum.context("a step needs images")?;
    for (parameter, gradient) in net.parameters().trainable().zip(&mut gradients) {
        if parameter.role == Role::Alpha {
            *gradient = alpha_gradient.shallow_clone();
        }
    }
    let (gradients, loss) = match exchange {
        Some(exchange) => {
            let sums = pass.activation_sums();
            let begun = exchange.begin(&sums, &loss)?;
            exchange.finish(begun, &sums, gradients)?
        }
        None => (gradients, loss),
    };
    optimizer.step(gradients, lr)?;
    pass.update_bases()?;
    Ok(loss)
}

/// The elementwise sums; either gradient may be undefined.
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
