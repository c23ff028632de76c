//! The resolution-switchable network: shared weights, private batch norms, and the learned ensemble
//! of the resolutions.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::nn::compute::ExecConfig;
use crate::nn::layers::{self, Drops, Mode, Modules, NormScope, Norms};
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Init, Parameters, Role, WeightInit};
use crate::nn::summary::Summary;

/// The name of the parameter of the ensemble's weights.
pub const ALPHA: &str = "alpha";

/// Whether resolutions share their batch norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchNorms {
    /// Each resolution has its own.
    #[default]
    Private,
    /// All resolutions share one: a baseline, not a resolution-switchable network.
    Shared,
}

impl BatchNorms {
    /// For each resolution, the resolution whose batch norms it uses.
    pub fn of(self, resolutions: &[u32]) -> Vec<u32> {
        match self {
            BatchNorms::Private => resolutions.to_vec(),
            // Named after the first resolution, as in checkpoints.
            BatchNorms::Shared => resolutions
                .first()
                .map_or(vec![], |first| vec![*first; resolutions.len()]),
        }
    }
}

/// A network that runs at any of its resolutions: convolutions and classifier are shared, batch
/// norms are private, and alpha weights the resolutions' logits in an ensemble. "Resolution
/// Switchable Networks for Runtime Efficient Image Recognition", ECCV 2020, sections 3.1 and 3.2.
#[derive(Debug)]
pub struct SwitchableNetwork {
    network: Network,
    classes: u32,
    resolutions: Vec<u32>,
    norms: Norms,
    summary: Summary,
    parameters: Parameters,
    modules: Modules,
    droppable: (i64, i64),
    alpha: Tensor,
}

impl SwitchableNetwork {
    /// A network with private batch norms for each of `resolutions`, in pixels. Their order
    /// matters: top-down distillation goes from the first to the last, so list the largest first.
    ///
    /// # Errors
    /// Those of [`Network::check`] and [`check_resolutions`]; out of memory.
    pub fn new(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        compute: ExecConfig,
        init: WeightInit,
    ) -> Result<Self> {
        Self::with_batch_norms(network, classes, resolutions, resolutions, compute, init)
    }

    /// A network with these batch norms for its resolutions, one of which may be there several times with different
    /// ones. Batch norms that none uses are not allocated.
    ///
    /// # Errors
    /// As [`SwitchableNetwork::new`]; `norms` are of another number of resolutions.
    pub fn with_batch_norms(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        norms: impl Into<Norms>,
        compute: ExecConfig,
        init: WeightInit,
    ) -> Result<Self> {
        let norms = norms.into();
        ensure!(
            norms.of.len() == resolutions.len(),
            "{} batch norms were given for {} resolutions",
            norms.of.len(),
            resolutions.len()
        );
        // A resolution may be there with several batch norms, but not twice with the same.
        let mut seen = HashSet::new();
        let pairs = resolutions.iter().zip(&norms.of);
        let repeats = pairs.filter(|(of, norm)| !seen.insert((*of, *norm)));
        let mut distinct: Vec<u32> = Vec::new();
        for resolution in resolutions {
            if !distinct.contains(resolution) {
                distinct.push(*resolution);
            }
        }
        distinct.extend(repeats.map(|(of, _)| *of));
        let problems = check_resolutions(network, &distinct)?;
        ensure!(problems.is_empty(), "{}", problems.join("; "));

        let declarations = declare(network, classes, resolutions, &norms)?;
        let layers = network.layers(classes)?;
        let parameters = Parameters::new(&declarations, compute, init)?;
        Ok(Self {
            network: network.clone(),
            classes,
            resolutions: resolutions.to_vec(),
            summary: Summary::new(network, classes, resolutions, norms.clone())?,
            droppable: layers::droppable(&layers),
            modules: Modules::new(&layers, &norms, &parameters)?,
            alpha: parameters.tensor(ALPHA)?,
            norms,
            parameters,
        })
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// In pixels, in the order of [`SwitchableNetwork::new`].
    pub fn resolutions(&self) -> &[u32] {
        &self.resolutions
    }

    /// The number of its residual branches, and of the inputs of its classifier.
    pub fn droppable(&self) -> (i64, i64) {
        self.droppable
    }

    pub fn norms(&self) -> &Norms {
        &self.norms
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// See [`Parameters::freeze`].
    ///
    /// # Errors
    /// As there.
    pub fn freeze_parameters(&mut self, frozen: impl Fn(&str) -> bool) -> Result<()> {
        self.parameters.freeze(frozen)
    }

    /// The logits of the ensemble's weights, `[resolutions]`.
    pub fn alpha(&self) -> &Tensor {
        &self.alpha
    }

    /// Sets the scales of the batch norms at the ends of residual branches to 0.
    ///
    /// # Errors
    /// The device fails.
    pub fn zero_residual_norms(&self) -> Result<()> {
        let layers = self.network.layers(self.classes)?;
        let names = layers::residual_norms(&layers);
        let of_them = |name: &str| {
            let path = name.rsplit_once('.').map_or(name, |(path, _)| path);
            let is_it = |norm: &String| {
                let rest = path.strip_prefix(norm.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            names.iter().any(is_it)
        };
        tch::no_grad(|| {
            for parameter in self.parameters.iter() {
                if parameter.role == Role::BatchNormWeight && of_them(&parameter.name) {
                    let _ = parameter.tensor.shallow_clone().f_zero_()?;
                }
            }
            Ok(())
        })
    }

    /// Begins a pass at one or several resolutions with the current weights. Those of a quantized
    /// network are quantized here, once for all resolutions.
    ///
    /// # Errors
    /// A frozen network in [`Mode::Train`].
    pub fn pass(&self, mode: Mode) -> Result<Pass<'_>> {
        Ok(Pass {
            net: self,
            mode,
            layers: self.modules.pass(mode, self.updates_activation_bases())?,
        })
    }

    /// For each resolution, whether it updates the bases of activation quantizers.
    fn updates_activation_bases(&self) -> Vec<bool> {
        let fixed = self.network.fixed_activation_basis();
        let largest = self.resolutions.iter().max();
        let resolutions = self.resolutions.iter();
        resolutions.map(|r| !fixed || Some(r) == largest).collect()
    }

    /// Over which images batch norms take their statistics in training from now on.
    pub fn set_norm_scope(&mut self, scope: NormScope) {
        self.modules.set_norm_scope(scope);
    }

    /// The logits of a pass at one resolution, `[batch, classes]`; see [`Pass::logits`].
    ///
    /// # Errors
    /// As [`SwitchableNetwork::pass`] and [`Pass::logits`].
    pub fn logits(&self, images: &Tensor, resolution_index: usize, mode: Mode) -> Result<Tensor> {
        self.pass(mode)?.logits(images, resolution_index)
    }

    /// Quantizes the weights (if they are quantized) and converts them to the compute dtype once,
    /// instead of in every pass: for inference. Values that are loaded afterwards have no effect.
    pub fn freeze(&mut self) -> Result<()> {
        self.modules.freeze()
    }

    /// See [`Modules::fold`].
    pub fn fold(&mut self) -> bool {
        self.modules.fold()
    }

    /// The ensemble's logits `[batch, classes]`: the sum over all resolutions j of
    /// softmax(alpha)_j * detach(z_j). Only alpha gets a gradient through it.
    ///
    /// # Errors
    /// `logits` does not have one tensor per resolution.
    pub fn ensemble(&self, logits: &[Tensor]) -> Result<Tensor> {
        ensure!(
            logits.len() == self.resolutions.len(),
            "an ensemble of {} resolutions was given the logits of {}",
            self.resolutions.len(),
            logits.len()
        );
        weighted_sum(&self.alpha, logits)
    }

    /// The same of the resolutions at these positions, whose logits these are.
    ///
    /// # Errors
    /// As [`SwitchableNetwork::ensemble`].
    pub fn ensemble_at(&self, positions: &[usize], logits: &[Tensor]) -> Result<Tensor> {
        if positions.iter().copied().eq(0..self.resolutions.len()) {
            return self.ensemble(logits);
        }
        let alpha = self.alpha_of(positions)?;
        weighted_sum(&alpha, logits)
    }

    /// The logits of the weights of some resolutions.
    fn alpha_of(&self, positions: &[usize]) -> Result<Tensor> {
        // Not index_select: copying the indices to the device would wait for it.
        let alpha = positions
            .iter()
            .map(|&at| self.alpha.f_select(0, at as i64))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::f_stack(&alpha, 0)?)
    }

    /// The same for some of the resolutions: `members` are their indices, and the softmax is over
    /// their alphas alone.
    ///
    /// # Errors
    /// No members; an index out of range.
    pub fn ensemble_of(&self, members: &[usize], logits: &[Tensor]) -> Result<Tensor> {
        let chosen = members
            .iter()
            .map(|&member| logits.get(member).map(Tensor::shallow_clone))
            .collect::<Option<Vec<_>>>()
            .context("a member of the ensemble has no logits")?;
        weighted_sum(&self.alpha_of(members)?, &chosen)
    }
}

/// Forward passes at one or several resolutions, all with the same (quantized) weights.
#[derive(Debug)]
pub struct Pass<'n> {
    net: &'n SwitchableNetwork,
    mode: Mode,
    layers: layers::Pass<'n>,
}

impl Pass<'_> {
    /// The logits `[batch, classes]` of images `[batch, 3, height, width]`, with the batch norms
    /// of the resolution at `resolution_index`. They have the dtype of the parameters, whatever the
    /// compute dtype. A gradient is recorded in [`Mode::Train`] only.
    ///
    /// # Errors
    /// No such resolution; libtorch errors, with the name of the layer.
    pub fn logits(&mut self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        self.logits_without(images, resolution_index, &Drops::default())
    }

    /// The same without what `drops` leaves out of the network.
    ///
    /// # Errors
    /// As [`Pass::logits`].
    pub fn logits_without(
        &mut self,
        images: &Tensor,
        resolution_index: usize,
        drops: &Drops,
    ) -> Result<Tensor> {
        let layers = &mut self.layers;
        let mut forward = || layers.forward(images, resolution_index, drops);
        let logits = match self.mode {
            Mode::Train => forward(),
            Mode::Calibrate { .. } | Mode::Evaluate => tch::no_grad(forward),
        };
        logits.with_context(|| match self.net.resolutions.get(resolution_index) {
            Some(resolution) => format!("the forward pass at resolution {resolution} failed"),
            None => "the forward pass failed".to_owned(),
        })
    }

    /// See [`layers::Pass::features`].
    ///
    /// # Errors
    /// As there.
    pub fn features(&self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        tch::no_grad(|| self.layers.features(images, resolution_index))
    }

    /// See [`layers::Pass::activation_sums`].
    pub fn activation_sums(&self) -> Vec<&Tensor> {
        self.layers.activation_sums()
    }

    /// Ends a training pass of a quantized network: updates the bases once for each resolution that
    /// was run, in the order of the resolutions, with the fits to the bases at the beginning of the
    /// pass. With `fixed_activation_basis`, only the largest resolution updates the bases of
    /// activations.
    pub fn update_bases(self) -> Result<()> {
        self.layers.update_bases()
    }
}

/// The tensors of a network with these batch norms, alpha first.
///
/// # Errors
/// As [`Network::layers`].
pub fn declare(
    network: &Network,
    classes: u32,
    resolutions: &[u32],
    norms: &Norms,
) -> Result<Vec<Declaration>> {
    let mut declarations = vec![Declaration {
        name: ALPHA.to_owned(),
        role: Role::Alpha,
        resolution: None,
        shape: vec![resolutions.len() as i64],
        init: Init::Constant(1.0),
    }];
    let layers = network.layers(classes)?;
    declarations.extend(layers::declare(&layers, norms));
    Ok(declarations)
}

/// The sum of softmax(alpha)_j * detach(z_j).
fn weighted_sum(alpha: &Tensor, logits: &[Tensor]) -> Result<Tensor> {
    ensure!(
        !logits.is_empty(),
        "an ensemble needs at least one resolution"
    );
    let weights = alpha.f_softmax(0, None)?.f_view([-1, 1, 1])?;
    let logits = Tensor::f_stack(logits, 0)?.f_detach()?;
    Ok(logits.f_mul(&weights)?.f_sum_dim_intlist(0, false, None)?)
}

/// Upper bound that catches typos, which would otherwise allocate all memory.
const MAX_RESOLUTION: u32 = 4096;

/// Of a list of many resolutions the first problems say enough.
const MAX_PROBLEMS: usize = 5;

/// The problems of a list of resolutions for this network, one sentence each.
///
/// # Errors
/// Those of [`Network::check`].
pub fn check_resolutions(network: &Network, resolutions: &[u32]) -> Result<Vec<String>> {
    let smallest = network.min_resolution()?;
    let mut problems = Vec::new();
    if resolutions.is_empty() {
        problems.push("a network needs at least one resolution".to_owned());
    }
    let mut seen = HashSet::new();
    for &resolution in resolutions {
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        if !seen.insert(resolution) {
            problems.push(format!("resolution {resolution} is listed twice"));
        }
        if resolution > MAX_RESOLUTION {
            problems.push(format!(
                "resolution {resolution} is too large: the maximum is {MAX_RESOLUTION}"
            ));
        }
        if resolution < smallest {
            problems.push(format!(
                "resolution {resolution} is too small: the minimum of this network is {smallest}"
            ));
        }
    }
    Ok(problems)
}
