//! One training step.

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use crate::nn::layers::{Drops, Mode};
use crate::nn::parameters::Role;
use crate::nn::switchable::{Pass, SwitchableNetwork};
use crate::train::distillation::{self, Distill, Loss};
use crate::train::objective::Objective;
use crate::train::optimizer::{Rate, RunningOptimizer};
use crate::train::processes::StepExchange;

/// How a training step is computed.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What it minimizes.
    pub objective: Objective,
    /// Keep the activations of one resolution at a time (activation recomputation).
    pub recompute: bool,
    /// Images that pass through the network at once; their gradients are added up. `None`: all of a batch.
    pub micro_batch: Option<i64>,
    /// Whether every step trains all resolutions.
    pub whole: bool,
}

impl Default for Step {
    fn default() -> Self {
        Step {
            objective: Objective::default(),
            recompute: false,
            micro_batch: None,
            whole: true,
        }
    }
}

/// What a step is computed from.
#[derive(Debug)]
pub struct Inputs {
    /// `[batch, 3, s, s]` of each resolution that is trained, in the network's order.
    pub images: Vec<Tensor>,
    /// The positions of these resolutions in the network.
    pub positions: Vec<usize>,
    /// int64 `[batch]`, or the shares of the classes, `[batch, classes]`.
    pub labels: Tensor,
    /// What is left out of the network.
    pub drops: Drops,
}

impl Inputs {
    /// At all resolutions of a network, and for all of it.
    pub fn new(images: &[Tensor], labels: &Tensor) -> Self {
        Inputs {
            images: images.iter().map(Tensor::shallow_clone).collect(),
            positions: (0..images.len()).collect(),
            labels: labels.shallow_clone(),
            drops: Drops::default(),
        }
    }

    /// The same at the resolutions at these positions alone.
    pub fn at(self, positions: Vec<usize>) -> Self {
        let chosen = positions.iter().filter_map(|&at| self.images.get(at));
        Inputs {
            images: chosen.map(Tensor::shallow_clone).collect(),
            positions,
            ..self
        }
    }

    /// All tensors: the images first, then the labels.
    pub fn tensors(&self) -> Vec<Tensor> {
        let images = self.images.iter().chain([&self.labels]);
        let all = images.chain(self.drops.tensors());
        all.map(Tensor::shallow_clone).collect()
    }

    /// The same with other tensors, in that order.
    ///
    /// # Errors
    /// There are too few.
    pub fn with_tensors(&self, tensors: &[Tensor]) -> Result<Inputs> {
        let count = self.images.len();
        let (images, others) = tensors
            .split_at_checked(count)
            .context("a step needs images")?;
        let (labels, others) = others.split_first().context("a step needs labels")?;
        Ok(Inputs {
            drops: self.drops.with_tensors(others.iter()),
            positions: self.positions.clone(),
            ..Inputs::new(images, labels)
        })
    }

    fn batch(&self) -> i64 {
        self.labels.size().first().copied().unwrap_or(0)
    }

    /// Those of `count` images.
    fn part(&self, from: i64, count: i64) -> Result<Inputs> {
        let part = |tensor: &Tensor| tensor.f_narrow(0, from, count);
        Ok(Inputs {
            images: self.images.iter().map(part).collect::<Result<_, _>>()?,
            labels: part(&self.labels)?,
            positions: self.positions.clone(),
            drops: self.drops.part(from, count)?,
        })
    }
}

impl From<Distill> for Step {
    fn from(distill: Distill) -> Self {
        Step {
            objective: distill.into(),
            ..Step::default()
        }
    }
}

impl Step {
    /// Whether one backward pass gives all gradients of a step, which processes exchange meanwhile.
    pub fn overlaps_exchange(&self) -> bool {
        !self.recompute && self.micro_batch.is_none() && self.whole
    }

    /// Forward pass at every resolution, loss, backward pass, optimizer step, update of the quantizers'
    /// bases. Of several processes, each of which
    /// has its part of the batch, all make the same step, and get the mean of their losses.
    ///
    /// Reads nothing back from the device, unless the optimizer does. The backward pass goes from the last resolution to the first
    /// and frees the activations of each.
    ///
    /// With `recompute` all resolutions but the first are run twice: once for their logits, which the losses
    /// of the others need, and again for their gradients. Running statistics are updated once, and the
    /// gradients are equal except for rounding.
    ///
    /// With `micro_batch` each part of the batch has its own batch statistics, and updates the running ones;
    /// the loss is the mean over the batch, and quantizers are fitted to all of it.
    ///
    /// # Errors
    /// Shapes that do not match; out of memory; another process is lost.
    pub fn run(
        &self,
        net: &SwitchableNetwork,
        optimizer: &mut RunningOptimizer,
        inputs: &Inputs,
        lr: Rate,
        exchange: Option<&StepExchange>,
    ) -> Result<Loss> {
        let mut pass = net.pass(Mode::Train)?;
        let batch = inputs.batch();
        let at_once = self.micro_batch.unwrap_or(batch).min(batch);
        ensure!(at_once > 0, "a step needs images");
        let (gradients, loss) = match !self.recompute && at_once == batch {
            true => self.in_one_pass(&mut pass, net, optimizer, inputs, exchange)?,
            false => {
                let parts = self.in_parts(&mut pass, net, optimizer, inputs, at_once);
                let (gradients, loss) = parts?;
                match exchange {
                    Some(exchange) => {
                        let sums = pass.activation_sums();
                        let begun = exchange.begin(&sums, &loss)?;
                        exchange.finish(begun, &sums, gradients)?
                    }
                    None => (gradients, loss),
                }
            }
        };
        optimizer.step(gradients, lr)?;
        pass.update_bases()?;
        Ok(loss)
    }

    /// The gradients of all processes, which are exchanged during the backward pass.
    fn in_one_pass(
        &self,
        pass: &mut Pass,
        net: &SwitchableNetwork,
        optimizer: &RunningOptimizer,
        inputs: &Inputs,
        exchange: Option<&StepExchange>,
    ) -> Result<(Vec<Tensor>, Loss)> {
        let loss = self.loss(pass, net, inputs)?;
        let scaled_loss = optimizer.scale_loss(&loss.total)?;
        let sums = pass.activation_sums();
        let begun = match exchange {
            Some(exchange) => Some((exchange, exchange.begin(&sums, &loss)?)),
            None => None,
        };
        let gradients = net.parameters().gradients(&scaled_loss)?;
        match begun {
            Some((exchange, begun)) => exchange.finish(begun, &sums, gradients),
            None => Ok((gradients, loss)),
        }
    }

    fn loss(&self, pass: &mut Pass, net: &SwitchableNetwork, inputs: &Inputs) -> Result<Loss> {
        let at = inputs.positions.iter().zip(&inputs.images);
        let logits = at
            .map(|(&position, images)| pass.logits_without(images, position, &inputs.drops))
            .collect::<Result<Vec<_>>>()?;
        let ensemble = net.ensemble_at(&inputs.positions, &logits)?;
        self.loss_of(net, &logits, &ensemble, inputs)
    }

    fn loss_of(
        &self,
        net: &SwitchableNetwork,
        logits: &[Tensor],
        ensemble: &Tensor,
        inputs: &Inputs,
    ) -> Result<Loss> {
        let loss = distillation::loss(logits, ensemble, &inputs.labels, self.objective)?;
        Ok(Loss {
            right: right(net, logits, inputs)?,
            ..loss
        })
    }

    /// The gradients of this process, of `at_once` images at a time.
    fn in_parts(
        &self,
        pass: &mut Pass,
        net: &SwitchableNetwork,
        optimizer: &RunningOptimizer,
        inputs: &Inputs,
        at_once: i64,
    ) -> Result<(Vec<Tensor>, Loss)> {
        let batch = inputs.batch();
        // Uses the batch's statistics, as training does, and leaves the running statistics as they are.
        let mut first_run = match self.recompute {
            true => Some(net.pass(Mode::Calibrate { share: 0.0 })?),
            false => None,
        };
        let mut sums: Option<(Vec<Tensor>, Loss)> = None;
        let mut from = 0;
        while from < batch {
            let count = at_once.min(batch - from);
            let own = inputs.part(from, count)?;
            let share = count as f64 / batch as f64;
            // All parts share the graph of the quantized weights; the next one needs it.
            let more = from + count < batch && net.network().is_quantized();
            let scaled = |loss: &Loss| match count == batch {
                true => optimizer.scale_loss(&loss.total),
                false => optimizer.scale_loss(&loss.total.f_mul_scalar(share)?),
            };
            let (gradients, loss) = match &mut first_run {
                Some(first_run) => self.recomputed(first_run, pass, net, &own, more, scaled)?,
                None => {
                    let loss = self.loss(pass, net, &own)?;
                    let gradients = net.parameters().gradients_of(&scaled(&loss)?, more)?;
                    (gradients, loss)
                }
            };
            let loss = match count == batch {
                true => loss,
                false => loss.share(share)?,
            };
            sums = Some(match sums {
                None => (gradients, loss),
                Some((sum, losses)) => (add(sum, gradients)?, losses.plus(loss)?),
            });
            from += count;
        }
        sums.context("a step needs images")
    }

    /// The same with the activations of one resolution at a time in memory.
    fn recomputed(
        &self,
        first_run: &mut Pass,
        pass: &mut Pass,
        net: &SwitchableNetwork,
        inputs: &Inputs,
        more: bool,
        scaled: impl Fn(&Loss) -> Result<Tensor>,
    ) -> Result<(Vec<Tensor>, Loss)> {
        let Inputs {
            images,
            positions,
            drops,
            ..
        } = inputs;
        let mut leaves = Vec::with_capacity(images.len());
        let mut first_logits = None;
        for (at, (images, &position)) in images.iter().zip(positions).enumerate().rev() {
            let logits = match at {
                0 => pass.logits_without(images, position, drops)?,
                _ => first_run.logits_without(images, position, drops)?,
            };
            leaves.insert(0, logits.f_detach()?.f_set_requires_grad(true)?);
            first_logits = Some(logits);
        }

        let ensemble = net.ensemble_at(positions, &leaves)?;
        let loss = self.loss_of(net, &leaves, &ensemble, inputs)?;
        let alpha = net.alpha();
        let alpha = alpha.requires_grad().then_some(alpha); // unless it is frozen
        let sources: Vec<&Tensor> = leaves.iter().chain(alpha).collect();
        let mut logits_gradients =
            Tensor::f_run_backward(&[&scaled(&loss)?], &sources, false, false)
                .context("the backward pass of the loss failed")?;
        let alpha_gradient = match alpha {
            Some(_) => logits_gradients.pop(),
            None => None,
        };

        let mut sum: Option<Vec<Tensor>> = None;
        let last = images.len().saturating_sub(1);
        let with_gradients = images.iter().zip(positions).zip(&logits_gradients);
        for (at, ((images, &position), gradient)) in with_gradients.enumerate() {
            let logits = match first_logits.take() {
                Some(logits) => logits,
                None => pass.logits_without(images, position, drops)?,
            };
            if !logits.requires_grad() {
                continue; // nothing of it is trained
            }
            // The gradient of sum(logits * g) is the backward pass from the logits with the gradient g.
            let product = logits.f_mul(gradient)?.f_sum(None)?;
            // All resolutions share the graph of the quantized weights; the next one needs it.
            let retain_graph = more || at < last && net.network().is_quantized();
            let gradients = net.parameters().gradients_of(&product, retain_graph)?;
            sum = Some(match sum {
                None => gradients,
                Some(sum) => add(sum, gradients)?,
            });
        }
        let undefined = || {
            net.parameters()
                .trainable()
                .map(|_| Tensor::new())
                .collect()
        };
        let mut gradients: Vec<Tensor> = sum.unwrap_or_else(undefined);
        for (parameter, gradient) in net.parameters().trainable().zip(&mut gradients) {
            if let (Role::Alpha, Some(of_alpha)) = (parameter.role, &alpha_gradient) {
                *gradient = of_alpha.shallow_clone();
            }
        }
        Ok((gradients, loss))
    }
}

/// See [`Loss::right`]. `logits` are those of the resolutions that are trained.
fn right(net: &SwitchableNetwork, logits: &[Tensor], inputs: &Inputs) -> Result<Option<Tensor>> {
    let resolutions = net.resolutions();
    let largest = (0..resolutions.len()).max_by_key(|&at| resolutions[at]);
    let mut trained = inputs.positions.iter().zip(logits);
    let Some((_, logits)) = trained.find(|(position, _)| Some(**position) == largest) else {
        return Ok(None);
    };
    tch::no_grad(|| {
        let labels = match inputs.labels.dim() {
            1 => inputs.labels.shallow_clone(),
            _ => inputs.labels.f_argmax(1, false)?,
        };
        let hits = logits.f_argmax(1, false)?.f_eq_tensor(&labels)?;
        // Of the dtype of the loss, since processes exchange them together.
        Ok(Some(hits.f_sum(logits.kind())?))
    })
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
