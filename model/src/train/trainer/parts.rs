//! What a trainer's fields become on this machine: device and dtype, network, optimizer, step.

use anyhow::{Context as _, Result};
use rsflow_graph::World;
use tch::Kind;

use super::Trainer;
use crate::checkpoint::Metadata;
use crate::nn::compute::{ComputeHints, DeviceChoice, ExecConfig, Precision};
use crate::nn::field_error::FieldError;
use crate::nn::layers::{Affine, NormOptions, Norms};
use crate::nn::parameters::WeightInit;
use crate::nn::switchable::{BatchNorms, SwitchableNetwork, declare};
use crate::train::drawn::Drawn;
use crate::train::dropping::Dropping;
use crate::train::objective::Objective;
use crate::train::optimizer::RunningOptimizer;
use crate::train::step::Step;
use crate::train::steps::Steps;

/// Whether a part of a network, by the beginning of names, has this tensor: all whole parts of a path, or none
/// for all of the network.
fn is_part(part: &str, tensor: &str) -> bool {
    let rest = tensor.strip_prefix(part);
    part.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Trainer {
    /// The number of classes, where the data is not open.
    pub(super) fn given_classes(&self) -> Result<u32> {
        self.classes.context(
            "the recipe leaves `classes` to the data, which is not opened here: give it, such as `classes: 1000`",
        )
    }

    /// Builds its network for a device and dtype.
    pub(super) fn network(
        &self,
        compute: ExecConfig,
        resolutions: &[u32],
        start: WeightInit,
    ) -> Result<SwitchableNetwork> {
        let norms = self.norms(resolutions);
        let mut net = SwitchableNetwork::with_batch_norms(
            &self.network,
            self.given_classes()?,
            resolutions,
            norms,
            compute,
            start,
        )?;
        if self.zero_gamma && start != WeightInit::Zeros {
            net.zero_residual_norms()?;
        }
        net.freeze_parameters(|name| self.lr_factor(name) == 0.0)?;
        Ok(net)
    }

    /// By how much the learning rate of a parameter is multiplied.
    fn lr_factor(&self, parameter: &str) -> f64 {
        let mut factors = self.lr_factors.iter().rev();
        let found = factors.find(|(part, _)| is_part(part, parameter));
        found.map_or(1.0, |(_, factor)| *factor)
    }

    /// The errors in the factors of the learning rate, of a network with these resolutions.
    pub(super) fn check_lr_factors(&self, resolutions: &[u32]) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let norms = self.norms(resolutions);
        let names: Vec<String> = match declare(&self.network, 1, resolutions, &norms) {
            Ok(declared) => declared.into_iter().map(|tensor| tensor.name).collect(),
            Err(_) => return errors, // of the network itself
        };
        for (part, factor) in &self.lr_factors {
            if !(*factor >= 0.0 && factor.is_finite()) {
                let error = format!("the factor of {part:?} must be at least 0, not {factor}");
                errors.push(("lr_factors", error));
            }
            if !names.iter().any(|name| is_part(part, name)) {
                let mut parts: Vec<&str> = names
                    .iter()
                    .filter_map(|name| name.split('.').next())
                    .collect();
                parts.dedup();
                let error = format!(
                    "no tensor of the network has a name that begins with {part:?}; they begin with {}",
                    parts.join(", ")
                );
                errors.push(("lr_factors", error));
            }
        }
        let trained = |name: &String| self.lr_factor(name) != 0.0;
        if !self.lr_factors.is_empty() && !names.iter().any(trained) {
            let error = "all of the network is frozen: nothing would be trained";
            errors.push(("lr_factors", error.to_owned()));
        }
        errors
    }

    pub(super) fn norms(&self, resolutions: &[u32]) -> Norms {
        Norms {
            of: self.batch_norms.of(resolutions),
            options: self.norm_options(),
        }
    }

    pub(super) fn norm_options(&self) -> NormOptions {
        NormOptions {
            affine: self.affine,
            momentum: self.batch_norm_momentum,
            epsilon: self.batch_norm_epsilon,
        }
    }

    /// The errors in what is said about batch norms.
    pub(super) fn check_norms(&self) -> Vec<FieldError> {
        let mut errors = self.norm_options().check();
        if (self.batch_norms, self.affine) == (BatchNorms::Shared, Affine::Shared) {
            let error = "with `batch_norms: Shared` scales and shifts are shared already";
            errors.push(("affine", format!("{error}: leave `affine` out")));
        }
        errors
    }

    /// The device of one of several processes.
    pub(super) fn device_of(&self, world: World) -> Result<DeviceChoice> {
        match world.size {
            1 => Ok(self.device),
            _ => self.device.of_process(world.local_rank, world.local_size),
        }
    }

    /// Resolves the recipe's choices on this machine.
    pub(super) fn compute(&self) -> Result<ExecConfig> {
        self.compute_with(self.network.hints()?)
    }

    /// The same for a run that resumes from a checkpoint: `Auto` keeps float32 if the run was
    /// trained in it so far, also on a device where a new run would train in half precision.
    pub(super) fn compute_as_before(&self, saved: &Metadata) -> Result<ExecConfig> {
        // A checkpoint of another program does not say how it was trained.
        let follows = self.precision == Precision::Auto && !saved.is_imported();
        let own = self.network.hints()?;
        let float32 = own.float32 || follows && saved.trained_in_float32;
        let hints = ComputeHints {
            float32,
            slow_bfloat16: own.slow_bfloat16 && !follows,
            ..own
        };
        let compute = self.compute_with(hints)?;
        if follows && !saved.trained_in_float32 && compute.compute_dtype == Kind::Float {
            let before = match saved.loss_scale {
                Some(_) => Precision::Float16,
                None => Precision::BFloat16,
            };
            tracing::warn!(
                "this run was trained in {before:?} so far, which is slow on this device: it continues \
                 in Float32. To keep {before:?} all the same, set `precision: {before:?}` and pass \
                 --accept-changes"
            );
        }
        Ok(compute)
    }

    pub(super) fn compute_with(&self, hints: ComputeHints) -> Result<ExecConfig> {
        let compute = ExecConfig::resolve(self.device, self.precision, hints)?;
        let compute = compute.with_kernels(self.fused);
        compute.log(self.deterministic);
        Ok(compute)
    }

    pub(super) fn start_optimizer(&self, net: &SwitchableNetwork) -> Result<RunningOptimizer> {
        let optimizer = self.optimizer.start(net.parameters())?;
        let optimizer = optimizer.with_lr_factors(|name| self.lr_factor(name));
        Ok(optimizer.with_clipping(self.clip_gradients))
    }

    /// How a training step is computed.
    pub(super) fn step(&self, resolutions: &[u32]) -> Step {
        Step {
            objective: self.objective(),
            recompute: self.recompute,
            micro_batch: self.micro_batch.map(i64::from),
            whole: self.sampling.largest(resolutions).len() == resolutions.len(),
        }
    }

    /// What is drawn for each step.
    pub(super) fn drawn(&self) -> Drawn {
        Drawn {
            mix: self.mix,
            dropping: self.dropping(),
            sampling: self.sampling,
        }
    }

    pub(super) fn dropping(&self) -> Dropping {
        Dropping {
            drop_path: self.drop_path,
            dropout: self.dropout,
        }
    }

    pub(super) fn objective(&self) -> Objective {
        Objective {
            distill: self.distill,
            criterion: self.criterion,
            label_smoothing: self.label_smoothing,
            over_sizes: self.loss,
        }
    }

    /// What does the steps of a network.
    pub(super) fn steps(&self, net: &SwitchableNetwork) -> Result<Steps> {
        Steps::new(self.step(net.resolutions()), net, self.cuda_graph)
    }
}
