//! The switchable network: one network, private batch norms, and the learned ensemble of its
//! resolutions.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::nn::compute::Compute;
use crate::nn::layers::{self, Mode, Modules};
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Init, Parameters, Role, Start};
use crate::nn::summary::Summary;

/// The name of the ensemble's weights among the parameters.
pub const ALPHA: &str = "alpha";

/// Which batch norm each resolution has while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchNorms {
    /// Its own: what makes a network switchable.
    #[default]
    Private,
    /// All resolutions share one, as in a network that knows nothing of resolutions: a baseline.
    Shared,
}

impl BatchNorms {
    /// For each resolution the one whose batch norm it runs with.
    pub fn of(self, resolutions: &[u32]) -> Vec<u32> {
        match self {
            BatchNorms::Private => resolutions.to_vec(),
            // Whichever gives its name to it; the first is there in any case.
            BatchNorms::Shared => resolutions
                .first()
                .map_or(vec![], |first| vec![*first; resolutions.len()]),
        }
    }
}

/// One network that runs at any of its resolutions: convolutions and classifier are shared, batch
/// norms are private, and alpha weighs the resolutions' logits into an ensemble. "Resolution
/// Switchable Networks for Runtime Efficient Image Recognition", ECCV 2020, sections 3.1 and 3.2.
#[derive(Debug)]
pub struct RsNet {
    network: Network,
    classes: u32,
    resolutions: Vec<u32>,
    norms: Vec<u32>,
    summary: Summary,
    parameters: Parameters,
    modules: Modules,
    alpha: Tensor,
}

impl RsNet {
    /// Builds it, with a batch norm of its own for each resolution. The order of the resolutions is
    /// kept and counts: top-down distillation goes from the first to the last, so they are given
    /// from the largest to the smallest.
    ///
    /// # Errors
    /// All problems of the network's parameters; no resolution, one given twice, one that is too
    /// small for the network; what libtorch says.
    pub fn new(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        compute: Compute,
        start: Start,
    ) -> Result<Self> {
        let norms = BatchNorms::Private.of(resolutions);
        Self::with_norms(network, classes, resolutions, &norms, compute, start)
    }

    /// Builds it, with the batch norms of other resolutions for some: `norms` names, for each
    /// resolution, the one that it borrows from (itself as a rule). A batch norm that nobody names
    /// is not made.
    ///
    /// # Errors
    /// As [`RsNet::new`]; not one norm for each resolution.
    pub fn with_norms(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        norms: &[u32],
        compute: Compute,
        start: Start,
    ) -> Result<Self> {
        let problems = check_resolutions(network, resolutions)?;
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        ensure!(
            norms.len() == resolutions.len(),
            "{} batch norms were named for {} resolutions",
            norms.len(),
            resolutions.len()
        );

        let declarations = declare(network, classes, resolutions, norms)?;
        let parameters = Parameters::new(&declarations, compute, start)?;
        Ok(Self {
            network: network.clone(),
            classes,
            resolutions: resolutions.to_vec(),
            norms: norms.to_vec(),
            summary: Summary::new(network, classes, resolutions, norms)?,
            modules: Modules::new(&network.layers(classes)?, norms, &parameters)?,
            alpha: parameters.tensor(ALPHA)?,
            parameters,
        })
    }

    /// What it was built from.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// How many classes it tells apart.
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// The resolutions, in pixels, in the order in which they were given.
    pub fn resolutions(&self) -> &[u32] {
        &self.resolutions
    }

    /// For each resolution the one whose batch norm it runs with.
    pub fn norms(&self) -> &[u32] {
        &self.norms
    }

    /// What it costs.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// All its tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The weights of the ensemble before their softmax, `[resolutions]`.
    pub fn alpha(&self) -> &Tensor {
        &self.alpha
    }

    /// Begins a pass at one resolution or several, with the weights as they stand: those of a
    /// quantized network are put at their levels here, once for all resolutions.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn pass(&self, mode: Mode) -> Result<Pass<'_>> {
        Ok(Pass {
            net: self,
            mode,
            layers: self.modules.pass(mode, self.moves())?,
        })
    }

    /// Which resolutions move the bases of activations: all, or the largest alone.
    fn moves(&self) -> Vec<bool> {
        let fixed = self.network.fixed_activation_basis();
        let largest = self.resolutions.iter().max();
        let moves = self
            .resolutions
            .iter()
            .map(|r| !fixed || Some(r) == largest);
        moves.collect()
    }

    /// The logits of a pass at one resolution; see [`Pass::logits`].
    ///
    /// # Errors
    /// As [`RsNet::pass`] and [`Pass::logits`].
    pub fn logits(&self, images: &Tensor, resolution_index: usize, mode: Mode) -> Result<Tensor> {
        self.pass(mode)?.logits(images, resolution_index)
    }

    /// Puts the weights at the levels of their quantizers, if there are any, and into the kind that
    /// is multiplied: for a network that is only run from now on, whose passes need not do it each
    /// time. What is loaded afterwards is not seen by passes.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn freeze(&mut self) -> Result<()> {
        self.modules.freeze()
    }

    /// The ensemble's logits `[batch, classes]`: the sum over all resolutions j of
    /// softmax(alpha)_j * detach(z_j). Only alpha gets a gradient through it.
    ///
    /// # Errors
    /// `logits` does not hold one tensor per resolution, or what libtorch says.
    pub fn ensemble(&self, logits: &[Tensor]) -> Result<Tensor> {
        ensure!(
            logits.len() == self.resolutions.len(),
            "an ensemble of {} resolutions was given the logits of {}",
            self.resolutions.len(),
            logits.len()
        );
        weigh(&self.alpha, logits)
    }

    /// The same of some of the resolutions: `members` are their positions, and the softmax is over
    /// their alphas alone.
    ///
    /// # Errors
    /// As [`RsNet::ensemble`]; no members, or one that is not there.
    pub fn ensemble_of(&self, members: &[usize], logits: &[Tensor]) -> Result<Tensor> {
        let chosen = members
            .iter()
            .map(|&member| logits.get(member).map(Tensor::shallow_clone))
            .collect::<Option<Vec<_>>>()
            .context("an ensemble of resolutions that are not there")?;
        // Without a copy of the positions to the device, for which it would be waited.
        let alpha = members
            .iter()
            .map(|&member| self.alpha.f_select(0, member as i64))
            .collect::<Result<Vec<_>, _>>()?;
        weigh(&Tensor::f_stack(&alpha, 0)?, &chosen)
    }
}

/// A pass through a network, at one resolution or several.
#[derive(Debug)]
pub struct Pass<'n> {
    net: &'n RsNet,
    mode: Mode,
    layers: layers::Pass<'n>,
}

impl Pass<'_> {
    /// The logits `[batch, classes]` of images `[batch, 3, height, width]`, with the batch norms
    /// of the resolution at `resolution_index`, in the kind of the parameters whatever was multiplied
    /// in. A gradient is recorded in [`Mode::Train`] only.
    ///
    /// # Errors
    /// No such resolution, or what libtorch says, with the name of the layer.
    pub fn logits(&mut self, images: &Tensor, resolution_index: usize) -> Result<Tensor> {
        let layers = &mut self.layers;
        let mut forward = || layers.forward(images, resolution_index);
        let logits = match self.mode {
            Mode::Train => forward(),
            Mode::Calibrate { .. } | Mode::Evaluate => tch::no_grad(forward),
        };
        logits.with_context(|| match self.net.resolutions.get(resolution_index) {
            Some(resolution) => format!("the forward pass at resolution {resolution} failed"),
            None => "the forward pass failed".to_owned(),
        })
    }

    /// Ends a training pass of a quantized network: each resolution that was passed through moves the
    /// bases of the quantizers, in the order of the resolutions, by what it found with the bases as
    /// they stood at the beginning. Where `fixed_activation_basis` is set, the largest resolution
    /// alone moves those of activations.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn move_bases(self) -> Result<()> {
        self.layers.move_bases()
    }
}

/// The tensors of a switchable network, alpha first; `norms` as for [`RsNet::with_norms`].
///
/// # Errors
/// All problems of the network's parameters; no classes.
pub fn declare(
    network: &Network,
    classes: u32,
    resolutions: &[u32],
    norms: &[u32],
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
fn weigh(alpha: &Tensor, logits: &[Tensor]) -> Result<Tensor> {
    let weights = alpha.f_softmax(0, None)?;
    let mut sum: Option<Tensor> = None;
    for (position, logits) in (0..).zip(logits) {
        let term = logits.f_detach()?.f_mul(&weights.f_select(0, position)?)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => sum.f_add(&term)?,
        });
    }
    sum.context("an ensemble needs at least one resolution")
}

/// Nobody trains on larger images, and a slip of the finger should not ask for all memory.
const MAX_RESOLUTION: u32 = 4096;

/// Every problem of a list of resolutions for this network, one sentence each.
///
/// # Errors
/// The network's own parameters are wrong.
pub fn check_resolutions(network: &Network, resolutions: &[u32]) -> Result<Vec<String>> {
    let smallest = network.min_resolution()?;
    let mut problems = Vec::new();
    if resolutions.is_empty() {
        problems.push("a network needs at least one resolution".to_owned());
    }
    for (position, &resolution) in resolutions.iter().enumerate() {
        if resolutions[..position].contains(&resolution) {
            problems.push(format!("resolution {resolution} is listed twice"));
        }
        if resolution > MAX_RESOLUTION {
            problems.push(format!(
                "the resolution {resolution} is too large: resolutions go up to {MAX_RESOLUTION}"
            ));
        }
        if resolution < smallest {
            problems.push(format!(
                "the resolution {resolution} is too small: this network needs {smallest} pixels"
            ));
        }
    }
    Ok(problems)
}
