//! Networks and momentum from a checkpoint.

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::{Checkpoint, MOMENTUM, Metadata, packed};
use crate::nn::compute::Compute;
use crate::nn::parameters::{Parameter, Start};
use crate::nn::rs_net::{ALPHA, RsNet};

impl Checkpoint {
    /// Builds the network for some sizes, which need not be among the checkpoint's, and loads it to
    /// be run, not trained (a quantized network's weights are at their levels for good): what belongs
    /// to batch norms that nobody names is not read. `norms` names for each size the resolution whose
    /// batch norms it runs with; [`Metadata::norm_for`] suggests one.
    ///
    /// # Errors
    /// As [`RsNet::with_norms`] and [`Checkpoint::load`].
    pub fn network(&self, sizes: &[u32], norms: &[u32], compute: Compute) -> Result<RsNet> {
        self.network_with(sizes, norms, compute, |norm| norm)
    }

    /// The same, where batch norms start from those of another resolution of the checkpoint:
    /// `source` says from which.
    ///
    /// # Errors
    /// As [`Checkpoint::network`].
    pub fn network_with(
        &self,
        sizes: &[u32],
        norms: &[u32],
        compute: Compute,
        source: impl Fn(u32) -> u32,
    ) -> Result<RsNet> {
        let Metadata { network, .. } = &self.metadata;
        let classes = self.metadata.classes.len().try_into()?;
        let mut net = RsNet::with_norms(network, classes, sizes, norms, compute, Start::Zero)
            .with_context(|| format!("cannot build the network of {}", self.path.display()))?;
        self.load_with(&net, source, |_| true)?;
        net.freeze()?;
        Ok(net)
    }

    /// Loads a network, which may have all resolutions of the checkpoint or only some, in any
    /// order: what belongs to the others is not read.
    ///
    /// # Errors
    /// A batch norm that the checkpoint does not have; all missing and mis-shaped tensors; what
    /// the file system says. The network is unchanged then. The message names the path.
    pub fn load(&self, net: &RsNet) -> Result<()> {
        self.load_with(net, |norm| norm, |_| true)
    }

    /// The same, where batch norms start from those of another resolution of the checkpoint
    /// (`source` says from which), and only `wanted` tensors are loaded.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(
        &self,
        net: &RsNet,
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
        net: &RsNet,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        let ours = self.metadata.norms();
        if let Some(norm) = net
            .norms()
            .iter()
            .map(|&n| source(n))
            .find(|n| !ours.contains(n))
        {
            bail!("it has no batch norms of resolution {norm}, but of {ours:?}");
        }
        let mut tensors = Vec::new();
        for parameter in net.parameters().iter() {
            let left_out = self.metadata.packed && !parameter.role.is_needed_to_run();
            if left_out || !wanted(parameter) {
                tensors.push((parameter.name.as_str(), parameter.tensor.shallow_clone()));
                continue;
            }
            let name = match parameter.resolution {
                Some(norm) => parameter.name_with_norm(source(norm)),
                None => parameter.name.clone(),
            };
            if !self.holds(&name) {
                if let Some(weight) = packed::unpack(self, parameter)? {
                    tensors.push((parameter.name.as_str(), weight));
                }
                // One that is missing is told by `Parameters::load`, together with all others.
                continue;
            }
            let mut tensor = self.read_one(&name)?;
            if name == ALPHA {
                tensor = self.alpha_of(&tensor, net.resolutions())?;
            }
            tensors.push((parameter.name.as_str(), tensor));
        }
        net.parameters()
            .load(tensors.iter().map(|(name, tensor)| (*name, tensor)))
    }

    /// The alphas of these sizes; for one that was not trained the value that alphas start with.
    fn alpha_of(&self, alpha: &Tensor, sizes: &[u32]) -> Result<Tensor> {
        let trained = &self.metadata.resolutions;
        ensure!(
            alpha.size() == [trained.len() as i64],
            "it has {:?} weights of the ensemble for {} resolutions",
            alpha.size(),
            trained.len()
        );
        let options = (alpha.f_kind()?, alpha.device());
        let positions: Vec<i64> = sizes
            .iter()
            .map(|size| {
                let position = trained.iter().position(|r| r == size);
                position.unwrap_or(trained.len()) as i64
            })
            .collect();
        let padded = Tensor::f_cat(&[alpha, &alpha.f_new_ones([1], options)?], 0)?;
        Ok(padded.f_index_select(0, &Tensor::f_from_slice(&positions)?)?)
    }

    /// The optimizer's momentum, by the parameter's name; empty if the file has none.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn momentum(&self) -> Result<Vec<(String, Tensor)>> {
        let stored = self.names().into_iter();
        let stored: Vec<String> = stored.filter(|name| name.starts_with(MOMENTUM)).collect();
        let tensors = self.read(stored.iter().map(String::as_str))?;
        let names = stored.iter().map(|name| name[MOMENTUM.len()..].to_owned());
        Ok(names.zip(tensors).collect())
    }
}
