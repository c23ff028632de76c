//! The optimizers, as PyTorch and timm define them: their fields, and their state in a run.

mod adam;
mod sgd;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::checkpoint::{LossScaleState, MOMENTUM_PREFIX, OptimizerState, VARIANCE_PREFIX};
use crate::nn::field_error::{self, FieldError};
pub use crate::nn::native::optimizers::Rate;
use crate::nn::native::optimizers::{Group, clip_gradients};
use crate::nn::parameters::{Parameters, Role, join_problems};
use crate::train::loss_scale::LossScale;
pub use adam::Adam;
pub use sgd::Sgd;

/// The optimizer, as a recipe names it: `Sgd(lr: 0.1)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Adam with decoupled weight decay ("Decoupled Weight Decay Regularization", ICLR 2019), as in PyTorch.
    AdamW(Adam),
    /// For large batches: its steps, scaled to the norm of each weight ("Large Batch Optimization for Deep
    /// Learning", ICLR 2020), as in timm, whose limit of the gradients' norm is `clip_gradients: 1.0` here.
    Lamb(Adam),
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

fn check_lr(lr: f64) -> Option<FieldError> {
    let sound = lr.is_finite() && lr > 0.0;
    (!sound).then(|| ("lr", format!("`lr` must be above 0, not {lr}")))
}

fn check_weight_decay(weight_decay: f64) -> Option<FieldError> {
    let sound = weight_decay.is_finite() && weight_decay >= 0.0;
    let fault = || format!("`weight_decay` must be at least 0, not {weight_decay}");
    (!sound).then(|| ("weight_decay", fault()))
}

impl Optimizer {
    /// The errors in its fields.
    pub fn check(&self) -> Vec<FieldError> {
        match self {
            Optimizer::Sgd(sgd) => sgd.check(),
            Optimizer::AdamW(adam) | Optimizer::Lamb(adam) => adam.check(),
        }
    }

    /// The learning rate before the schedule's decay.
    pub fn lr(&self) -> f64 {
        match self {
            Optimizer::Sgd(sgd) => sgd.lr,
            Optimizer::AdamW(adam) | Optimizer::Lamb(adam) => adam.lr,
        }
    }

    fn weight_decay(&self) -> (f64, WeightDecayOn) {
        match self {
            Optimizer::Sgd(sgd) => (sgd.weight_decay, sgd.weight_decay_on),
            Optimizer::AdamW(adam) | Optimizer::Lamb(adam) => {
                (adam.weight_decay, adam.weight_decay_on)
            }
        }
    }

    fn has_momentum(&self) -> bool {
        !matches!(self, Optimizer::Sgd(sgd) if sgd.momentum == 0.0)
    }

    fn has_variance(&self) -> bool {
        !matches!(self, Optimizer::Sgd(_))
    }

    /// The optimizer of the trainable parameters, without a state.
    ///
    /// # Errors
    /// Those of [`Optimizer::check`].
    pub fn start(&self, parameters: &Parameters) -> Result<RunningOptimizer> {
        field_error::ensure_valid(&self.check())?;
        let (_, on) = self.weight_decay();
        let states = parameters.trainable().map(|parameter| ParameterState {
            name: parameter.name.clone(),
            parameter: parameter.tensor.shallow_clone(),
            weight_decay: on.includes(parameter.role),
            lr_factor: 1.0,
            missed: 0,
            momentum: None,
            variance: None,
        });
        let compute = parameters.compute();
        let loss_scale = compute
            .scales_loss()
            .then(|| LossScale::new(compute.device));
        let updates = || Tensor::f_zeros([], (Kind::Float, compute.device));
        Ok(RunningOptimizer {
            rule: self.clone(),
            clip: None,
            loss_scale: loss_scale.transpose()?,
            states: states.collect(),
            frozen: parameters
                .iter()
                .filter(|p| p.frozen)
                .map(|p| p.name.clone())
                .collect(),
            updates: self.has_variance().then(updates).transpose()?,
        })
    }
}

/// An optimizer and its state.
#[derive(Debug)]
pub struct RunningOptimizer {
    rule: Optimizer,
    /// The largest norm of all gradients together.
    clip: Option<f64>,
    states: Vec<ParameterState>,
    /// The names of parameters that it leaves as they are.
    frozen: Vec<String>,
    /// The number of updates so far, a float scalar on the device, where the rule depends on it.
    updates: Option<Tensor>,
    /// With float16 gradients.
    loss_scale: Option<LossScale>,
}

#[derive(Debug)]
struct ParameterState {
    name: String,
    parameter: Tensor,
    weight_decay: bool,
    /// Its learning rate is so many times that of the step.
    lr_factor: f64,
    /// Updates of the others that it had no gradient for. AdamW counts its own, as PyTorch does.
    missed: u64,
    /// A mean of the gradients; `None` before the first one.
    momentum: Option<Tensor>,
    /// A mean of their squares.
    variance: Option<Tensor>,
}

/// A buffer that is made when it is needed.
fn or_zeros<'a>(buffer: &'a mut Option<Tensor>, parameter: &Tensor) -> Result<&'a Tensor> {
    let made = match buffer.take() {
        Some(made) => made,
        None => parameter.f_zeros_like()?,
    };
    Ok(buffer.insert(made))
}

impl RunningOptimizer {
    /// Scales gradients down where the norm of all of them is larger than this.
    pub fn with_clipping(self, max_norm: Option<f64>) -> Self {
        RunningOptimizer {
            clip: max_norm,
            ..self
        }
    }

    /// Gives each parameter a learning rate of its own: so many times that of a step, by its name.
    pub fn with_lr_factors(mut self, factor: impl Fn(&str) -> f64) -> Self {
        for state in &mut self.states {
            state.lr_factor = factor(&state.name);
        }
        self
    }

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

    /// The number of updates so far; `None` if the rule does not depend on it. Waits for the device.
    pub fn updates(&self) -> Result<Option<u64>> {
        let updates = self.updates.as_ref();
        let updates = updates.map(|updates| anyhow::Ok(updates.f_double_value(&[])? as u64));
        updates.transpose()
    }

    /// The updates that parameters have missed, by name; those that have missed none are left out.
    pub fn missed(&self) -> BTreeMap<String, u64> {
        let missed = self.states.iter().filter(|state| state.missed > 0);
        let missed = missed.map(|state| (state.name.clone(), state.missed));
        missed.collect()
    }

    /// Sets them to those of a checkpoint, after its buffers were loaded. A parameter that has none has missed all
    /// `updates`: it was frozen until now.
    pub fn load_missed(&mut self, saved: &BTreeMap<String, u64>, updates: u64) {
        if !matches!(self.rule, Optimizer::AdamW(_)) {
            return;
        }
        // Of another kind of optimizer nothing is used, and the count starts anew.
        let is_fresh = self.states.iter().all(|state| state.momentum.is_none());
        for state in &mut self.states {
            state.missed = match (&state.momentum, is_fresh) {
                (_, true) => 0,
                (None, _) => updates,
                (Some(_), _) => saved.get(&state.name).copied().unwrap_or(0),
            };
        }
    }

    /// Sets the loss scale to that of a checkpoint, if the loss is scaled.
    pub fn load_loss_scale(&mut self, saved: LossScaleState) -> Result<()> {
        if let (Some(loss_scale), Some(state)) = (&mut self.loss_scale, self.states.first()) {
            *loss_scale = LossScale::from_state(saved, state.parameter.device())?;
        }
        Ok(())
    }

    /// Whether a step reads something back from the device: LAMB's with a loss scale, for the device cannot
    /// skip its operators.
    pub fn waits_for_device(&self) -> bool {
        matches!(self.rule, Optimizer::Lamb(_)) && self.loss_scale.is_some()
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
        let mut overflow = scale.map(|scale| scale.unscale(&gradients)).transpose()?;
        if self.waits_for_device()
            && let Some(overflow) = overflow.take()
            && overflow.f_double_value(&[0])? != 0.0
        {
            return Ok(());
        }
        if let Some(max_norm) = self.clip {
            let defined: Vec<&Tensor> = gradients.iter().filter(|g| g.defined()).collect();
            clip_gradients(&defined, max_norm)?;
        }
        tch::no_grad(|| self.update(&gradients, lr, overflow.as_ref()))
    }

    fn update(&mut self, gradients: &[Tensor], lr: Rate, overflow: Option<&Tensor>) -> Result<()> {
        if let Some(updates) = &mut self.updates {
            let _ = updates.f_add_scalar_(1.0)?;
            if let Some(overflow) = overflow {
                let _ = updates.f_sub_(&overflow.f_squeeze()?)?;
            }
        }
        let rule = &self.rule;
        let (weight_decay, _) = rule.weight_decay();
        // What is updated together has the same of all three.
        let mut groups: Vec<((bool, f64, u64), Group)> = Vec::new();
        let counts_own = matches!(rule, Optimizer::AdamW(_));
        for (state, gradient) in self.states.iter_mut().zip(gradients) {
            if !gradient.defined() {
                state.missed += u64::from(counts_own);
                continue;
            }
            let key = (state.weight_decay, state.lr_factor, state.missed);
            let at = groups.iter().position(|(other, _)| *other == key);
            let at = at.unwrap_or_else(|| {
                groups.push((key, Group::default()));
                groups.len() - 1
            });
            let (_, group) = &mut groups[at];
            if rule.has_momentum() {
                // Of SGD it is g at the first step, which is momentum * 0 + g.
                let buffer = or_zeros(&mut state.momentum, &state.parameter)?;
                group.momentum_buffers.push(buffer);
            }
            if rule.has_variance() {
                let buffer = or_zeros(&mut state.variance, &state.parameter)?;
                group.variance_buffers.push(buffer);
            }
            group.parameters.push(&state.parameter);
            group.gradients.push(gradient);
        }
        for ((has_decay, factor, missed), group) in groups {
            let decay = if has_decay { weight_decay } else { 0.0 };
            let scaled;
            let lr = match lr {
                Rate::Value(lr) => Rate::Value(lr * factor),
                Rate::OnDevice(lr) if factor == 1.0 => Rate::OnDevice(lr),
                Rate::OnDevice(lr) => {
                    scaled = lr.f_mul_scalar(factor)?;
                    Rate::OnDevice(&scaled)
                }
            };
            let updated = match rule {
                Optimizer::Sgd(sgd) => sgd.update(&group, decay, lr, overflow),
                Optimizer::AdamW(adam) | Optimizer::Lamb(adam) => {
                    let all = self.updates.as_ref().context("updates are not counted")?;
                    let own;
                    let updates = match missed {
                        0 => all,
                        missed => {
                            // A step that overflows is not counted, but may have been missed.
                            own = all.f_sub_scalar(missed as f64)?.f_clamp_min(1.0)?;
                            &own
                        }
                    };
                    let scales_to_norm = matches!(rule, Optimizer::Lamb(_));
                    adam.update(&group, decay, lr, (updates, scales_to_norm), overflow)
                }
            };
            updated.context("cannot update the parameters")?;
        }
        Ok(())
    }

    /// The tensors that a step changes, without the parameters.
    pub fn state(&self) -> impl Iterator<Item = &Tensor> {
        let buffers = self
            .states
            .iter()
            .flat_map(|state| [&state.momentum, &state.variance]);
        let scale = self.loss_scale.iter().flat_map(LossScale::tensors);
        buffers.flatten().chain(&self.updates).chain(scale)
    }

    /// The momentum buffers by parameter name; parameters that never had a gradient have none.
    pub fn momentum(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.states
            .iter()
            .filter_map(|state| Some((state.name.as_str(), state.momentum.as_ref()?)))
    }

    /// The same of the means of squared gradients.
    pub fn variance(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.states
            .iter()
            .filter_map(|state| Some((state.name.as_str(), state.variance.as_ref()?)))
    }

    /// All buffers by their names in a checkpoint.
    pub fn buffers(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let named =
            |prefix: &'static str| move |(name, tensor)| (format!("{prefix}{name}"), tensor);
        let momentum = self.momentum().map(named(MOMENTUM_PREFIX));
        momentum.chain(self.variance().map(named(VARIANCE_PREFIX)))
    }

    /// Makes the buffers of these names in a checkpoint, of zeros: what another process has will come in their
    /// place.
    ///
    /// # Errors
    /// Out of memory.
    pub fn make_buffers(&mut self, names: &[String]) -> Result<()> {
        for state in &mut self.states {
            for (prefix, buffer) in [
                (MOMENTUM_PREFIX, &mut state.momentum),
                (VARIANCE_PREFIX, &mut state.variance),
            ] {
                if names.contains(&format!("{prefix}{}", state.name)) {
                    or_zeros(buffer, &state.parameter)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces the state by that of a checkpoint, converting dtype and device. That of SGD is no use to the
    /// others, nor theirs to it: then this returns false, and the state starts fresh. On an error nothing is
    /// changed.
    ///
    /// # Errors
    /// All unknown and mis-shaped tensors, in one message.
    pub fn load(&mut self, saved: OptimizerState) -> Result<bool> {
        let is_empty = saved.momentum.is_empty() && saved.variance.is_empty();
        if is_empty || !self.rule.has_momentum() {
            return Ok(is_empty);
        }
        if saved.variance.is_empty() == self.rule.has_variance() {
            return Ok(false);
        }
        let momentum = self.fitting("momentum", saved.momentum)?;
        let variance = self.fitting("variance", saved.variance)?;
        for ((state, momentum), variance) in self.states.iter_mut().zip(momentum).zip(variance) {
            (state.momentum, state.variance) = (momentum, variance);
        }
        if let Some(updates) = &mut self.updates {
            let _ = updates.f_fill_(saved.updates as f64)?;
        }
        Ok(true)
    }

    /// Buffers by parameter name, in the order of the parameters, and like them.
    fn fitting(&self, what: &str, tensors: Vec<(String, Tensor)>) -> Result<Vec<Option<Tensor>>> {
        let mut given: Vec<Option<Tensor>> = self.states.iter().map(|_| None).collect();
        let mut problems = Vec::new();
        for (name, tensor) in tensors {
            match self.states.iter().position(|state| state.name == name) {
                None if self.frozen.contains(&name) => {}
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
            "the {what} does not fit the network: {}",
            join_problems(&problems)
        );
        let like_parameter = |(state, tensor): (&ParameterState, Option<Tensor>)| {
            let tensor = tensor.map(|tensor| {
                tch::no_grad(|| -> Result<Tensor> {
                    // With the strides of the parameter, as kernels require.
                    let mut own = state.parameter.f_empty_like()?;
                    own.f_copy_(&tensor)?;
                    Ok(own)
                })
            });
            tensor.transpose()
        };
        self.states.iter().zip(given).map(like_parameter).collect()
    }
}
