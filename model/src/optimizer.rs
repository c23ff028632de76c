//! Stochastic gradient descent with momentum, as PyTorch defines it.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::parameters::{Parameters, list};

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
    /// Pulls every trained value to zero: weights, batch norms, biases and alpha alike.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Whether to look ahead along the momentum (Nesterov).
    #[serde(default)]
    pub nesterov: bool,
}

fn default_momentum() -> f64 {
    0.9
}

fn default_weight_decay() -> f64 {
    1e-4
}

impl Optimizer {
    /// Every problem of its parameters, one sentence each; empty if there is none.
    pub fn check(&self) -> Vec<String> {
        let Optimizer::Sgd(sgd) = self;
        let mut problems = Vec::new();
        if !(sgd.lr.is_finite() && sgd.lr > 0.0) {
            problems.push(format!("lr is a number above 0, not {}", sgd.lr));
        }
        if !(0.0..1.0).contains(&sgd.momentum) {
            problems.push(format!(
                "momentum is at least 0 and below 1, not {}",
                sgd.momentum
            ));
        }
        if !(sgd.weight_decay.is_finite() && sgd.weight_decay >= 0.0) {
            problems.push(format!(
                "weight_decay is a number from 0, not {}",
                sgd.weight_decay
            ));
        }
        if sgd.nesterov && sgd.momentum == 0.0 {
            problems.push("nesterov needs a momentum above 0".to_owned());
        }
        problems
    }

    /// The learning rate that the schedule starts from.
    pub fn lr(&self) -> f64 {
        let Optimizer::Sgd(sgd) = self;
        sgd.lr
    }

    /// Starts it on the trainable parameters.
    ///
    /// # Errors
    /// The problems that [`Optimizer::check`] finds.
    pub fn start(&self, parameters: &Parameters) -> Result<RunningOptimizer> {
        let problems = self.check();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        let Optimizer::Sgd(sgd) = self;
        let slots = parameters.trainable().map(|parameter| Slot {
            name: parameter.name.clone(),
            parameter: parameter.tensor.shallow_clone(),
            momentum: None,
        });
        Ok(RunningOptimizer {
            sgd: sgd.clone(),
            slots: slots.collect(),
            options: (parameters.kind(), parameters.device()),
        })
    }
}

/// An optimizer at work, with its momentum.
#[derive(Debug)]
pub struct RunningOptimizer {
    sgd: Sgd,
    slots: Vec<Slot>,
    options: (tch::Kind, tch::Device),
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// None before the first gradient.
    momentum: Option<Tensor>,
}

impl RunningOptimizer {
    /// Moves every parameter by its gradient, at the learning rate `lr`. `gradients` is what
    /// [`Parameters::gradients`] returned: one per trainable parameter, in order; an undefined
    /// one leaves its parameter and its momentum alone. They are used up: their memory becomes
    /// the momentum.
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
        // tch has no `add` with a factor; `addcmul` with a factor of one element is the same
        // arithmetic in the same single pass. The factors are filled on the device, without a copy.
        let factor = |value: f64| Tensor::f_full([0_i64; 0], value, self.options);
        let (decay, momentum) = (factor(self.sgd.weight_decay)?, factor(self.sgd.momentum)?);
        let minus_lr = factor(-lr)?;
        tch::no_grad(|| {
            for (slot, mut gradient) in self.slots.iter_mut().zip(gradients) {
                if gradient.defined() {
                    slot.step(&self.sgd, &mut gradient, &decay, &momentum, &minus_lr)
                        .with_context(|| format!("cannot update {:?}", slot.name))?;
                }
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

impl Slot {
    fn step(
        &mut self,
        sgd: &Sgd,
        gradient: &mut Tensor,
        decay: &Tensor,
        momentum: &Tensor,
        minus_lr: &Tensor,
    ) -> Result<()> {
        if sgd.weight_decay != 0.0 {
            let _ = gradient.f_addcmul_(&self.parameter, decay)?;
        }
        if sgd.momentum == 0.0 {
            let _ = self.parameter.f_addcmul_(gradient, minus_lr)?;
            return Ok(());
        }
        if sgd.nesterov {
            let velocity = match &self.momentum {
                Some(last) => gradient.f_addcmul(last, momentum)?,
                None => gradient.shallow_clone(),
            };
            let ahead = gradient.f_addcmul(&velocity, momentum)?;
            let _ = self.parameter.f_addcmul_(&ahead, minus_lr)?;
            self.momentum = Some(velocity);
        } else {
            // v = momentum * v + g in the memory of g: one pass fewer than scaling v and then
            // adding g to it.
            if let Some(last) = &self.momentum {
                let _ = gradient.f_addcmul_(last, momentum)?;
            }
            let _ = self.parameter.f_addcmul_(gradient, minus_lr)?;
            self.momentum = Some(gradient.shallow_clone());
        }
        Ok(())
    }
}
