//! Loading networks and momentum buffers from a checkpoint.

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::{Checkpoint, MOMENTUM_PREFIX, Metadata, packed};
use crate::nn::compute::ExecConfig;
use crate::nn::parameters::{Parameter, WeightInit};
use crate::nn::switchable::{ALPHA, SwitchableNetwork};

impl Checkpoint {
    /// The network at some resolutions, which need not be those of the checkpoint, loaded and
    /// frozen: for inference. `batch_norms` has, for each resolution, the resolution whose batch
    /// norms it uses ([`Metadata::batch_norm_for`] suggests one). Other batch norms are not read.
    ///
    /// # Errors
    /// As [`SwitchableNetwork::with_batch_norms`] and [`Checkpoint::load`].
    pub fn network(
        &self,
        resolutions: &[u32],
        batch_norms: &[u32],
        compute: ExecConfig,
    ) -> Result<SwitchableNetwork> {
        self.network_with(resolutions, batch_norms, compute, |resolution| resolution)
    }

    /// The same, but the batch norms of a resolution are read from those of the resolution `source`
    /// of it in the checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::network`].
    pub fn network_with(
        &self,
        resolutions: &[u32],
        batch_norms: &[u32],
        compute: ExecConfig,
        source: impl Fn(u32) -> u32,
    ) -> Result<SwitchableNetwork> {
        let Metadata { network, .. } = &self.metadata;
        let classes = self.metadata.classes.len().try_into()?;
        let mut net = SwitchableNetwork::with_batch_norms(
            network,
            classes,
            resolutions,
            batch_norms,
            compute,
            WeightInit::Zeros,
        )
        .with_context(|| format!("cannot build the network of {}", self.path.display()))?;
        self.load_with(&net, source, |_| true)?;
        net.freeze()?;
        Ok(net)
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
        self.load_inner(net, source, wanted).with_context(|| {
            format!(
                "cannot load the network from the checkpoint {}",
                self.path.display()
            )
        })
    }

    fn load_inner(
        &self,
        net: &SwitchableNetwork,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        let available = self.metadata.batch_norm_resolutions();
        let mut needed = net
            .batch_norms()
            .iter()
            .map(|&resolution| source(resolution));
        if let Some(missing) = needed.find(|resolution| !available.contains(resolution)) {
            bail!("it has no batch norms of resolution {missing}, but of {available:?}");
        }
        let mut tensors = Vec::new();
        for parameter in net.parameters().iter() {
            let absent = self.metadata.packed && !parameter.role.is_needed_for_inference();
            if absent || !wanted(parameter) {
                tensors.push((parameter.name.as_str(), parameter.tensor.shallow_clone()));
                continue;
            }
            let name = match parameter.resolution {
                Some(resolution) => parameter.name_with_batch_norm(source(resolution)),
                None => parameter.name.clone(),
            };
            if !self.contains(&name) {
                if let Some(weight) = packed::unpack(self, parameter)? {
                    tensors.push((parameter.name.as_str(), weight));
                }
                // `Parameters::load` reports all missing tensors together.
                continue;
            }
            let mut tensor = self.read_tensor(&name)?;
            if name == ALPHA {
                tensor = self.alpha_for(&tensor, net.resolutions())?;
            }
            tensors.push((parameter.name.as_str(), tensor));
        }
        net.parameters()
            .load(tensors.iter().map(|(name, tensor)| (*name, tensor)))
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

    /// The optimizer's momentum buffers by parameter name; empty if the file has none.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn momentum(&self) -> Result<Vec<(String, Tensor)>> {
        let stored = self.names().into_iter();
        let stored: Vec<String> = stored
            .filter(|name| name.starts_with(MOMENTUM_PREFIX))
            .collect();
        let tensors = self.read(stored.iter().map(String::as_str))?;
        let names = stored
            .iter()
            .map(|name| name[MOMENTUM_PREFIX.len()..].to_owned());
        Ok(names.zip(tensors).collect())
    }
}
