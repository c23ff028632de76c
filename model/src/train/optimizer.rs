//! Stochastic gradient descent with momentum, as PyTorch defines it.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::checkpoint::LossScaleState;
use crate::nn::field_error::{self, FieldError};
pub use crate::nn::native::Rate;
use crate::nn::native::{self, SgdGroup, SgdStep};
use crate::nn::parameters::{Parameters, Role, join_problems};
use crate::train::loss_scale::LossScale;

/// The optimizer, as a recipe names it: `Sgd(lr: 0.1)`.
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
    /// The learning rate before the schedule's decay (after the warm-up); above 0.
    pub lr: f64,
    /// At least 0 and below 1.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// L2 penalty, added to the gradient; at least 0.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The parameters with weight decay: all of them (`Everything`), or the weights of convolutions
    /// and the classifier only (`Weights`).
    #[serde(default)]
    pub weight_decay_on: WeightDecayOn,
    /// Nesterov momentum.
    #[serde(default)]
    pub nesterov: bool,
}

/// The parameters with weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WeightDecayOn {
    /// All: convolutions, classifier with its bias, batch norms (gamma and beta) and alpha, as in
    /// the reference implementation.
    #[default]
    Everything,
    /// The weights of convolutions and the classifier; not biases, batch norms and alpha.
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
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        let Optimizer::Sgd(sgd) = self;
        let mut errors = Vec::new();
        if !(sgd.lr.is_finite() && sgd.lr > 0.0) {
            errors.push(("lr", format!("`lr` must be above 0, not {}", sgd.lr)));
        }
        if !(0.0..1.0).contains(&sgd.momentum) {
            errors.push((
                "momentum",
                format!(
                    "`momentum` must be at least 0 and below 1, not {}",
                    sgd.momentum
                ),
            ));
        }
        if !(sgd.weight_decay.is_finite() && sgd.weight_decay >= 0.0) {
            errors.push((
                "weight_decay",
                format!(
                    "`weight_decay` must be at least 0, not {}",
                    sgd.weight_decay
                ),
            ));
        }
        if sgd.nesterov && sgd.momentum == 0.0 {
            errors.push(("nesterov", "`nesterov` needs a momentum above 0".to_owned()));
        }
        errors
    }

    /// The learning rate before the schedule's decay.
    pub fn lr(&self) -> f64 {
        let Optimizer::Sgd(sgd) = self;
        sgd.lr
    }

    /// The optimizer of the trainable parameters, without momentum buffers.
    ///
    /// # Errors
    /// Those of [`Optimizer::check`].
    pub fn start(&self, parameters: &Parameters) -> Result<RunningOptimizer> {
        field_error::ensure_valid(&self.check())?;
        let Optimizer::Sgd(sgd) = self;
        let states = parameters.trainable().map(|parameter| ParameterState {
            name: parameter.name.clone(),
            parameter: parameter.tensor.shallow_clone(),
            weight_decay: sgd.weight_decay_on.includes(parameter.role),
            momentum_buffer: None,
        });
        let compute = parameters.compute();
        let loss_scale = compute
            .scales_loss()
            .then(|| LossScale::new(compute.device));
        Ok(RunningOptimizer {
            sgd: sgd.clone(),
            loss_scale: loss_scale.transpose()?,
            states: states.collect(),
        })
    }
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct RunningOptimizer {
    sgd: Sgd,
    states: Vec<ParameterState>,
    /// With float16 gradients.
    loss_scale: Option<LossScale>,
}

#[derive(Debug)]
struct ParameterState {
    name: String,
    parameter: Tensor,
    weight_decay: bool,
    /// `None` before the first gradient.
    momentum_buffer: Option<Tensor>,
}

impl RunningOptimizer {
    /// The loss to differentiate for [`RunningOptimizer::step`]: scaled with float16 gradients.
    pub fn scale_loss(&self, loss: &Tensor) -> Result<Tensor> {
        match &self.loss_scale {
            None => Ok(loss.shallow_clone()),
            Some(loss_scale) => loss_scale.scaled(loss),
        }
    }

    /// The loss scale; `None` if the loss is not scaled. Waits for the device.
    pub fn loss_scale(&self) -> Result<Option<LossScaleState>> {
        self.loss_scale.as_ref().map(LossScale::state).transpose()
    }

    /// Sets the loss scale to that of a checkpoint, if the loss is scaled.
    pub fn load_loss_scale(&mut self, saved: LossScaleState) -> Result<()> {
        if let (Some(loss_scale), Some(state)) = (&mut self.loss_scale, self.states.first()) {
            *loss_scale = LossScale::from_state(saved, state.parameter.device())?;
        }
        Ok(())
    }

    /// A step with the learning rate `lr`. `gradients` are those of [`Parameters::gradients`] for
    /// the scaled loss: one per trainable parameter, in order. Parameters with an undefined
    /// gradient are skipped. Takes the gradients, so that their memory is freed.
    ///
    /// # Errors
    /// Not one gradient per parameter.
    pub fn step<'a>(&mut self, gradients: Vec<Tensor>, lr: impl Into<Rate<'a>>) -> Result<()> {
        let lr = lr.into();
        ensure!(
            gradients.len() == self.states.len(),
            "{} parameters were given {} gradients",
            self.states.len(),
            gradients.len()
        );
        let scale = self.loss_scale.as_mut();
        let overflow = scale.map(|scale| scale.unscale(&gradients)).transpose()?;
        let sgd = &self.sgd;
        let mut with_decay = SgdGroup::default();
        let mut without_decay = SgdGroup::default();
        for (state, gradient) in self.states.iter_mut().zip(&gradients) {
            if !gradient.defined() {
                continue;
            }
            let group = if state.weight_decay {
                &mut with_decay
            } else {
                &mut without_decay
            };
            if sgd.momentum != 0.0 {
                // v is g at the first step, which is momentum * 0 + g.
                let buffer = match state.momentum_buffer.take() {
                    Some(buffer) => buffer,
                    None => state.parameter.f_zeros_like()?,
                };
                group
                    .momentum_buffers
                    .push(state.momentum_buffer.insert(buffer));
            }
            group.parameters.push(&state.parameter);
            group.gradients.push(gradient);
        }
        tch::no_grad(|| {
            for (group, weight_decay) in [(with_decay, sgd.weight_decay), (without_decay, 0.0)] {
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

    /// The tensors that a step changes, without the parameters.
    pub fn state(&self) -> impl Iterator<Item = &Tensor> {
        let momentum = self
            .states
            .iter()
            .filter_map(|state| state.momentum_buffer.as_ref());
        momentum.chain(self.loss_scale.iter().flat_map(LossScale::tensors))
    }

    /// The momentum buffers by parameter name; parameters that never had a gradient have none.
    pub fn momentum(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.states
            .iter()
            .filter_map(|state| Some((state.name.as_str(), state.momentum_buffer.as_ref()?)))
    }

    /// Replaces all momentum buffers by those given, by parameter name, converting dtype and
    /// device. On an error nothing is changed.
    ///
    /// # Errors
    /// All unknown and mis-shaped tensors, in one message.
    pub fn load_momentum(&mut self, tensors: Vec<(String, Tensor)>) -> Result<()> {
        let mut given: Vec<Option<Tensor>> = self.states.iter().map(|_| None).collect();
        let mut problems = Vec::new();
        for (name, tensor) in tensors {
            match self.states.iter().position(|state| state.name == name) {
                None => problems.push(format!("{name:?} is not in the network")),
                Some(position) => {
                    let shape = self.states[position].parameter.size();
                    if tensor.size() == shape {
                        given[position] = Some(tensor);
                    } else {
                        problems.push(format!(
                            "{name:?} must have the shape {shape:?}, not {:?}",
                            tensor.size()
                        ));
                    }
                }
            }
        }
        ensure!(
            problems.is_empty(),
            "the momentum does not fit the network: {}",
            join_problems(&problems)
        );
        let mut loaded = Vec::with_capacity(given.len());
        for (state, tensor) in self.states.iter().zip(given) {
            loaded.push(match tensor {
                None => None,
                Some(tensor) => Some(tch::no_grad(|| -> Result<Tensor> {
                    // With the strides of the parameter, as `fused_sgd` requires.
                    let mut own = state.parameter.f_empty_like()?;
                    own.f_copy_(&tensor)?;
                    Ok(own)
                })?),
            });
        }
        for (state, momentum) in self.states.iter_mut().zip(loaded) {
            state.momentum_buffer = momentum;
        }
        Ok(())
    }
}
