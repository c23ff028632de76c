//! Loading networks and momentum buffers from a checkpoint.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rsflow_base::shown::{Shown as _, quoted};
use tch::{Kind, Tensor};

use super::{
    Checkpoint, MOMENTUM_PREFIX, Metadata, NormsFrom, OptimizerState, VARIANCE_PREFIX, Weights,
    kind_of, packed,
};
use crate::nn::compute::ExecConfig;
use crate::nn::layers::Norms;
use crate::nn::parameters::{Declaration, Parameter, Role, WeightInit, join_problems};
use crate::nn::switchable::{SwitchableNetwork, declare};

/// The dtypes of the tensors of a network.
const FLOATS: [Kind; 4] = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];

/// Where a tensor of a network is in a checkpoint.
pub(super) enum Place {
    /// It is the tensor of this name.
    Tensor(String),
    /// It is quantized, and its codes are there.
    Codes,
    /// It is not there, and only training needs it.
    Absent,
}

fn frozen(mut net: SwitchableNetwork) -> Result<SwitchableNetwork> {
    net.freeze()?;
    Ok(net)
}

impl Checkpoint {
    /// The network at some resolutions, which need not be those of the checkpoint, loaded and
    /// frozen: for inference. `batch_norms` has, for each resolution, those that it uses
    /// ([`Metadata::norms_for`] suggests some). Other batch norms are not read.
    ///
    /// # Errors
    /// As [`SwitchableNetwork::with_batch_norms`] and [`Checkpoint::load`].
    pub fn network(
        &self,
        resolutions: &[u32],
        batch_norms: &[impl Into<NormsFrom> + Copy],
        compute: ExecConfig,
    ) -> Result<SwitchableNetwork> {
        let labelled = batch_norms.iter().map(|of| (*of).into());
        let labelled: Vec<_> = labelled.map(|of: NormsFrom| (of.label(), of)).collect();
        self.network_with(resolutions, &labelled, compute)
    }

    /// The same, with a label for the batch norms of each resolution, under which the network has them.
    ///
    /// # Errors
    /// As [`Checkpoint::network`].
    pub fn network_with(
        &self,
        resolutions: &[u32],
        batch_norms: &[(u32, NormsFrom)],
        compute: ExecConfig,
    ) -> Result<SwitchableNetwork> {
        let labels: Vec<u32> = batch_norms.iter().map(|(label, _)| *label).collect();
        let norms = self.metadata.norms_of(&labels);
        let sources: HashMap<u32, NormsFrom> = batch_norms.iter().copied().collect();
        let source = |label: u32| {
            let source = sources.get(&label).copied();
            source.unwrap_or(NormsFrom::Resolution(label))
        };
        let net = self.thawed(resolutions, norms, compute, |label| source(label).first())?;
        self.interpolate(&net, source)
            .with_context(|| self.cannot_load())?;
        frozen(net)
    }

    /// The same with any batch norms, each read from those of the resolution `source` of it.
    ///
    /// # Errors
    /// As [`Checkpoint::network`].
    pub fn network_of(
        &self,
        resolutions: &[u32],
        norms: Norms,
        compute: ExecConfig,
        source: impl Fn(u32) -> u32,
    ) -> Result<SwitchableNetwork> {
        frozen(self.thawed(resolutions, norms, compute, source)?)
    }

    fn thawed(
        &self,
        resolutions: &[u32],
        norms: Norms,
        compute: ExecConfig,
        source: impl Fn(u32) -> u32,
    ) -> Result<SwitchableNetwork> {
        let Metadata { network, .. } = &self.metadata;
        let classes = self.metadata.classes.len().try_into()?;
        let shapes = declare(network, classes, resolutions, &norms)
            .and_then(|declared| self.places(self.weights, &declared, &source));
        shapes.with_context(|| self.cannot_load())?;
        let net = SwitchableNetwork::with_batch_norms(
            network,
            classes,
            resolutions,
            norms,
            compute,
            WeightInit::Zeros,
        )
        .with_context(|| format!("cannot build the network of {}", self.path.shown()))?;
        self.load_with(&net, source, |_| true)?;
        Ok(net)
    }

    /// Moves the batch norms that lie between two resolutions from the lower one, which they were loaded from,
    /// towards the upper one.
    fn interpolate(
        &self,
        net: &SwitchableNetwork,
        source: impl Fn(u32) -> NormsFrom,
    ) -> Result<()> {
        let declared = declare(net.network(), net.classes(), net.resolutions(), net.norms())?;
        for (declaration, parameter) in declared.iter().zip(net.parameters().iter()) {
            let source = declaration.resolution.map(&source);
            let Some(NormsFrom::Between { below, size, above }) = source else {
                continue;
            };
            let share = f64::from(size - below) / f64::from(above - below);
            let only = std::slice::from_ref(declaration);
            for place in self.places(self.weights, only, |_| above)? {
                let Place::Tensor(name) = place else {
                    continue;
                };
                let own = &parameter.tensor;
                let upper = self.read_tensor(&name)?;
                let upper = upper.f_to_device(own.device())?.f_to_kind(own.f_kind()?)?;
                let _ = tch::no_grad(|| own.shallow_clone().f_lerp_(&upper, share))?;
            }
        }
        Ok(())
    }

    /// Loads the tensors of `net`, which may have all or some resolutions of the checkpoint, in any
    /// order. Batch norms of other resolutions are not read. On an error `net` is unchanged.
    ///
    /// # Errors
    /// A batch norm that the checkpoint does not have; all missing and mis-shaped tensors; an I/O
    /// error. The message names the path.
    pub fn load(&self, net: &SwitchableNetwork) -> Result<()> {
        self.load_with(net, |resolution| resolution, |_| true)
    }

    /// The same, with `source` as in [`Checkpoint::network_with`], and only `wanted` parameters are
    /// loaded.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(
        &self,
        net: &SwitchableNetwork,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        self.load_weights(self.weights, net, source, wanted)
    }

    /// The same with the weights of either kind.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_weights(
        &self,
        weights: Weights,
        net: &SwitchableNetwork,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        self.load_inner(weights, net, source, wanted)
            .with_context(|| self.cannot_load())
    }

    fn cannot_load(&self) -> String {
        let path = self.path.shown();
        format!("cannot load the network from the checkpoint {path}")
    }

    fn load_inner(
        &self,
        weights: Weights,
        net: &SwitchableNetwork,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        let declared = declare(net.network(), net.classes(), net.resolutions(), net.norms())?;
        // The parameters are in the order in which they were declared.
        let (declared, parameters): (Vec<Declaration>, Vec<&Parameter>) = declared
            .into_iter()
            .zip(net.parameters().iter())
            .filter(|(_, parameter)| wanted(parameter))
            .unzip();
        let places = self.places(weights, &declared, source)?;
        let mut tensors: HashMap<&str, Tensor> = HashMap::new();
        for ((declaration, parameter), place) in declared.iter().zip(parameters).zip(places) {
            let tensor = match place {
                Place::Absent => continue,
                Place::Codes => packed::unpack(self, declaration)?,
                Place::Tensor(name) if parameter.role == Role::Alpha => {
                    self.alpha_for(&self.read_tensor(&name)?, net.resolutions())?
                }
                Place::Tensor(name) => self.read_tensor(&name)?,
            };
            tensors.insert(&parameter.name, tensor);
        }
        // Those that are not loaded keep their values.
        let all = net.parameters().iter().map(|parameter| {
            let name = parameter.name.as_str();
            (name, tensors.get(name).unwrap_or(&parameter.tensor))
        });
        net.parameters().load(all)
    }

    /// Where the tensors of a network are in the file, by its header alone; `source` as in
    /// [`Checkpoint::network_with`].
    ///
    /// # Errors
    /// A batch norm that the checkpoint does not have; all missing and mis-shaped tensors, and those
    /// of other dtypes.
    pub(super) fn places(
        &self,
        weights: Weights,
        declared: &[Declaration],
        source: impl Fn(u32) -> u32,
    ) -> Result<Vec<Place>> {
        let available = self.metadata.batch_norm_resolutions();
        let mut needed = declared.iter().filter_map(|of| of.resolution).map(&source);
        if let Some(missing) = needed.find(|resolution| !available.contains(resolution)) {
            bail!("it has no batch norms of resolution {missing}, but of {available:?}");
        }
        let mut problems = Vec::new();
        let places = declared.iter().map(|declaration| {
            let place = self.place(weights, declaration, &source);
            place.unwrap_or_else(|problem| {
                problems.push(problem);
                Place::Absent
            })
        });
        let places = places.collect();
        ensure!(
            problems.is_empty(),
            "the tensors do not fit the network: {}",
            join_problems(&problems)
        );
        Ok(places)
    }

    fn place(
        &self,
        weights: Weights,
        declaration: &Declaration,
        source: impl Fn(u32) -> u32,
    ) -> Result<Place, String> {
        let Metadata {
            packed, averaged, ..
        } = self.metadata;
        let only_inference = packed || averaged || weights == Weights::Average;
        if only_inference && !declaration.role.is_needed_for_inference() {
            return Ok(Place::Absent);
        }
        let name = match declaration.resolution {
            Some(resolution) => declaration.name_with_batch_norm(source(resolution)),
            None => declaration.name.clone(),
        };
        let stored = |name: String| format!("{}{name}", weights.prefix());
        let Declaration {
            name: own,
            role,
            resolution,
            ..
        } = declaration;
        let other = self.affine_name(own, *role, *resolution, &source);
        let name = match other.map(stored) {
            Some(other) if !self.contains(&stored(name.clone())) && self.contains(&other) => other,
            _ => stored(name),
        };
        let Some(info) = self.file.info(&name) else {
            return match packed::codes(self, declaration) {
                Some(codes) => codes.map(|()| Place::Codes),
                None => Err(format!("{} is missing", quoted(&name))),
            };
        };
        let shape = match declaration.role {
            Role::Alpha => vec![self.metadata.resolutions.len() as i64],
            _ => declaration.shape.clone(),
        };
        if !self.has_shape(&name, &shape) {
            let (name, actual) = (quoted(&name), &info.shape);
            return Err(format!(
                "{name} must have the shape {shape:?}, not {actual:?}"
            ));
        }
        let kind = kind_of(info.dtype);
        if !kind.is_some_and(|kind| FLOATS.contains(&kind)) {
            let (name, dtype) = (quoted(&name), info.dtype);
            return Err(format!(
                "{name} must be of floating-point numbers, not {dtype}"
            ));
        }
        Ok(Place::Tensor(name))
    }

    /// Whether it has what a parameter is loaded from, not as codes; `source` as in [`Checkpoint::network_with`].
    pub fn holds(&self, parameter: &Parameter, source: impl Fn(u32) -> u32) -> bool {
        let Parameter {
            name,
            role,
            resolution,
            ..
        } = parameter;
        let own = match resolution {
            Some(norm) => parameter.name_with_batch_norm(source(*norm)),
            None => name.clone(),
        };
        let other = self.affine_name(name, *role, *resolution, source);
        let mut names = [own].into_iter().chain(other);
        names.any(|name| self.contains(&self.stored_name(&name)))
    }

    /// Where the scale or the shift of a batch norm is in the checkpoint of a network that shares them where this
    /// one does not, or the other way round: then they start with those of the first resolution.
    fn affine_name(
        &self,
        name: &str,
        role: Role,
        resolution: Option<u32>,
        source: impl Fn(u32) -> u32,
    ) -> Option<String> {
        if !matches!(role, Role::BatchNormWeight | Role::BatchNormBias) {
            return None;
        }
        let (path, part) = name.rsplit_once('.')?;
        match resolution {
            Some(_) => Some(format!("{}.{part}", path.rsplit_once('.')?.0)),
            None => {
                let first = *self.metadata.resolutions.first()?;
                Some(format!("{path}.{}.{part}", source(first)))
            }
        }
    }

    /// Whether a tensor has this shape, by the header.
    pub(super) fn has_shape(&self, name: &str, shape: &[i64]) -> bool {
        let actual = self.file.info(name).map(|info| info.shape.iter());
        actual.is_some_and(|actual| actual.map(|&size| size as i64).eq(shape.iter().copied()))
    }

    /// The alphas of these resolutions; the initial value, 1, for those that were not trained.
    fn alpha_for(&self, alpha: &Tensor, resolutions: &[u32]) -> Result<Tensor> {
        let trained = &self.metadata.resolutions;
        ensure!(
            alpha.size() == [trained.len() as i64],
            "alpha has the shape {:?} for {} resolutions",
            alpha.size(),
            trained.len()
        );
        let options = (alpha.f_kind()?, alpha.device());
        let positions: Vec<i64> = resolutions
            .iter()
            .map(|resolution| {
                let position = trained.iter().position(|r| r == resolution);
                position.unwrap_or(trained.len()) as i64
            })
            .collect();
        let padded = Tensor::f_cat(&[alpha, &alpha.f_new_ones([1], options)?], 0)?;
        Ok(padded.f_index_select(0, &Tensor::f_from_slice(&positions)?)?)
    }

    /// The state of the optimizer; empty if the file has none.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn optimizer(&self) -> Result<OptimizerState> {
        Ok(OptimizerState {
            momentum: self.buffers(MOMENTUM_PREFIX)?,
            variance: self.buffers(VARIANCE_PREFIX)?,
            updates: self.metadata.optimizer_updates.unwrap_or(0),
        })
    }

    /// The tensors whose names begin so, by the rest of their names.
    fn buffers(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let stored = self.names().into_iter();
        let stored: Vec<String> = stored.filter(|name| name.starts_with(prefix)).collect();
        let tensors = self.read(stored.iter().map(String::as_str))?;
        let names = stored.iter().map(|name| name[prefix.len()..].to_owned());
        Ok(names.zip(tensors).collect())
    }
}
