//! Stochastic gradient descent with momentum, as PyTorch defines it.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::checkpoint::LossScaleState;
use crate::nn::fault::{self, Fault};
use crate::nn::native::{self, SgdGroup, SgdStep};
use crate::nn::parameters::{Parameters, Role, list};
use crate::train::loss_scale::LossScale;

/// How the weights are moved, as a recipe names it: `Sgd(lr: 0.1)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
}

/// Stochastic gradient descent. For a parameter p with gradient g: g += weight_decay * p;
/// v = momentum * v + g (v = g at the first step); p -= lr * v, with Nesterov
/// p -= lr * (g + momentum * v).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// The learning rate that the schedule starts from (after its warm-up).
    pub lr: f64,
    /// What is kept of the last step's direction, at least 0 and below 1.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// Pulls trained values to zero; at least 0.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Which values the weight decay pulls at: all of them (`Everything`), or convolution and
    /// classifier weights only (`Weights`).
    #[serde(default)]
    pub weight_decay_on: WeightDecayOn,
    /// Whether to look ahead along the momentum (Nesterov).
    #[serde(default)]
    pub nesterov: bool,
}

/// Which trained values the weight decay pulls to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WeightDecayOn {
    /// All: convolutions, classifier with its bias, batch norms (gamma and beta) and alpha, as
    /// the reference implementation does.
    #[default]
    Everything,
    /// The weights of convolutions and classifier. Biases, batch norms and alpha go free.
    Weights,
}

impl WeightDecayOn {
    fn includes(self, role: Role) -> bool {
        match self {
            WeightDecayOn::Everything => true,
            WeightDecayOn::Weights => matches!(role, Role::ConvWeight | Role::LinearWeight),
        }
    }
}

fn default_momentum() -> f64 {
    0.9
}

fn default_weight_decay() -> f64 {
    1e-4
}

impl Optimizer {
    /// Every fault of its parameters; empty if there is none.
    pub fn check(&self) -> Vec<Fault> {
        let Optimizer::Sgd(sgd) = self;
        let mut faults = Vec::new();
        if !(sgd.lr.is_finite() && sgd.lr > 0.0) {
            faults.push(("lr", format!("`lr` is a number above 0, not {}", sgd.lr)));
        }
        if !(0.0..1.0).contains(&sgd.momentum) {
            faults.push((
                "momentum",
                format!("`momentum` is at least 0 and below 1, not {}", sgd.momentum),
            ));
        }
        if !(sgd.weight_decay.is_finite() && sgd.weight_decay >= 0.0) {
            faults.push((
                "weight_decay",
                format!(
                    "`weight_decay` is a number from 0, not {}",
                    sgd.weight_decay
                ),
            ));
        }
        if sgd.nesterov && sgd.momentum == 0.0 {
            faults.push(("nesterov", "`nesterov` needs a momentum above 0".to_owned()));
        }
        faults
    }

    /// The learning rate that the schedule starts from.
    pub fn lr(&self) -> f64 {
        let Optimizer::Sgd(sgd) = self;
        sgd.lr
    }

    /// Starts it on the trainable parameters.
    ///
    /// # Errors
    /// The faults that [`Optimizer::check`] finds.
    pub fn start(&self, parameters: &Parameters) -> Result<RunningOptimizer> {
        fault::ensure_none(&self.check())?;
        let Optimizer::Sgd(sgd) = self;
        let slots = parameters.trainable().map(|parameter| Slot {
            name: parameter.name.clone(),
            parameter: parameter.tensor.shallow_clone(),
            decays: sgd.weight_decay_on.includes(parameter.role),
            momentum: None,
        });
        let compute = parameters.compute();
        let loss_scale = compute
            .scales_loss()
            .then(|| LossScale::new(compute.device));
        Ok(RunningOptimizer {
            sgd: sgd.clone(),
            loss_scale: loss_scale.transpose()?,
            slots: slots.collect(),
        })
    }
}

/// An optimizer at work, with its momentum.
#[derive(Debug)]
pub struct RunningOptimizer {
    sgd: Sgd,
    slots: Vec<Slot>,
    /// Where gradients are in float16.
    loss_scale: Option<LossScale>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// Whether the weight decay pulls at it.
    decays: bool,
    /// None before the first gradient.
    momentum: Option<Tensor>,
}

impl RunningOptimizer {
    /// What is to be differentiated for [`RunningOptimizer::step`]: the loss, scaled where float16
    /// needs it.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn objective(&self, loss: &Tensor) -> Result<Tensor> {
        match &self.loss_scale {
            None => Ok(loss.shallow_clone()),
            Some(loss_scale) => loss_scale.scaled(loss),
        }
    }

    /// The scale of the loss, if it has one. Waits for the device.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn loss_scale(&self) -> Result<Option<LossScaleState>> {
        self.loss_scale.as_ref().map(LossScale::state).transpose()
    }

    /// Goes on with the scale of a checkpoint, if the loss is scaled here.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn load_loss_scale(&mut self, state: LossScaleState) -> Result<()> {
        if let (Some(loss_scale), Some(slot)) = (&mut self.loss_scale, self.slots.first()) {
            *loss_scale = LossScale::of(state, slot.parameter.device())?;
        }
        Ok(())
    }

    /// Moves every parameter by its gradient, at the learning rate `lr`. `gradients` is what
    /// [`Parameters::gradients`] returned for the objective: one per trainable parameter, in order; an undefined
    /// one leaves its parameter and its momentum alone. Their memory is free afterwards.
    ///
    /// # Errors
    /// Not one gradient per parameter, or what libtorch says.
    pub fn step(&mut self, gradients: Vec<Tensor>, lr: f64) -> Result<()> {
        ensure!(
            gradients.len() == self.slots.len(),
            "{} parameters were given {} gradients",
            self.slots.len(),
            gradients.len()
        );
        let scale = self.loss_scale.as_mut();
        let overflow = scale.map(|scale| scale.unscale(&gradients)).transpose()?;
        let sgd = &self.sgd;
        let mut decaying = SgdGroup::default();
        let mut others = SgdGroup::default();
        for (slot, gradient) in self.slots.iter_mut().zip(&gradients) {
            if !gradient.defined() {
                continue;
            }
            let group = if slot.decays {
                &mut decaying
            } else {
                &mut others
            };
            if sgd.momentum != 0.0 {
                // The first v is g, and so is momentum * 0 + g.
                let momentum = match slot.momentum.take() {
                    Some(momentum) => momentum,
                    None => slot.parameter.f_zeros_like()?,
                };
                group.momenta.push(slot.momentum.insert(momentum));
            }
            group.parameters.push(&slot.parameter);
            group.gradients.push(gradient);
        }
        tch::no_grad(|| {
            for (group, weight_decay) in [(decaying, sgd.weight_decay), (others, 0.0)] {
                let step = SgdStep {
                    lr,
                    momentum: sgd.momentum,
                    weight_decay,
                    nesterov: sgd.nesterov,
                };
                native::fused_sgd(&group, step, overflow.as_ref())
                    .context("cannot update the parameters")?;
            }
            Ok(())
        })
    }

    /// The momentum by the parameter's name; parameters that never had a gradient have none.
    pub fn momentum(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots
            .iter()
            .filter_map(|slot| Some((slot.name.as_str(), slot.momentum.as_ref()?)))
    }

    /// Replaces all momentum, by the parameter's name, converting kind and device. Parameters
    /// that are not given start without. Nothing is changed unless everything given fits.
    ///
    /// # Errors
    /// All unknown and mis-shaped tensors, in one message.
    pub fn load_momentum(&mut self, tensors: Vec<(String, Tensor)>) -> Result<()> {
        let mut given: Vec<Option<Tensor>> = self.slots.iter().map(|_| None).collect();
        let mut problems = Vec::new();
        for (name, tensor) in tensors {
            match self.slots.iter().position(|slot| slot.name == name) {
                None => problems.push(format!("{name:?} is not in the network")),
                Some(position) => {
                    let shape = self.slots[position].parameter.size();
                    if tensor.size() == shape {
                        given[position] = Some(tensor);
                    } else {
                        problems.push(format!(
                            "{name:?} should have the shape {shape:?}, not {:?}",
                            tensor.size()
                        ));
                    }
                }
            }
        }
        ensure!(
            problems.is_empty(),
            "the momentum does not fit the network: {}",
            list(&problems)
        );
        let mut loaded = Vec::with_capacity(given.len());
        for (slot, tensor) in self.slots.iter().zip(given) {
            loaded.push(match tensor {
                None => None,
                Some(tensor) => Some(tch::no_grad(|| -> Result<Tensor> {
                    // As the parameter lies in memory, so that steps pair elements in one pass.
                    let mut own = slot.parameter.f_empty_like()?;
                    own.f_copy_(&tensor)?;
                    Ok(own)
                })?),
            });
        }
        for (slot, momentum) in self.slots.iter_mut().zip(loaded) {
            slot.momentum = momentum;
        }
        Ok(())
    }
}
