//! A checkpoint as a safetensors file for PyTorch.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use rsflow_base::shown::Shown as _;
use rsflow_base::whole_file;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use tch::{Kind, Tensor};

use super::names::{reference_name, timm_name, torchvision_name};
use crate::checkpoint::{Checkpoint, NormsFrom};
use crate::nn::compute::ExecConfig;
use crate::nn::layers::{Affine, NormOptions, Norms};
use crate::nn::parameters::Role;
use crate::nn::switchable::SwitchableNetwork;

/// Under whose names a network is written.
#[derive(Clone, Copy, Debug)]
pub enum Names {
    /// The reference implementation's, with the batch norms of all resolutions. What resolutions share of their
    /// batch norms is written once for each of them; calibrated ones are not written.
    Reference,
    /// torchvision's: a network for images of this size, with these batch norms.
    Torchvision(u32, NormsFrom),
    /// timm's, of the same.
    Timm(u32, NormsFrom),
}

/// Writes the network of a checkpoint as a safetensors file in float32, its names prefixed with `prefix`, for
/// `load_state_dict`. The file is complete or absent. Returns the number of tensors.
///
/// # Errors
/// As [`Checkpoint::network_with`]; an I/O error, with the path.
pub fn export(checkpoint: &Checkpoint, names: Names, prefix: &str, path: &Path) -> Result<usize> {
    let net = match names {
        Names::Reference => of_all_sizes(checkpoint)?,
        Names::Torchvision(size, norms) | Names::Timm(size, norms) => {
            checkpoint.network(&[size], &[norms], ExecConfig::cpu(Kind::Float))?
        }
    };
    let network = net.network();
    let mut tensors = Vec::new();
    for parameter in net.parameters().iter() {
        let (ours, resolution) = (&parameter.name, parameter.resolution);
        let name = match names {
            Names::Reference => reference_name(network, ours, resolution, net.resolutions()),
            // A single network has no ensemble.
            _ if parameter.role == Role::Alpha => continue,
            Names::Torchvision(..) => torchvision_name(ours, resolution),
            Names::Timm(..) => timm_name(network, ours, resolution),
        };
        let name = name.with_context(|| format!("{ours:?} has no name there"))?;
        let bytes = bytes(&parameter.tensor)?;
        tensors.push((format!("{prefix}{name}"), parameter.tensor.size(), bytes));
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        let shape = shape.iter().map(|&size| size as usize).collect();
        views.push((name, TensorView::new(Dtype::F32, shape, bytes)?));
    }
    // The metadata of files that PyTorch writes, which some readers require.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let content = serialize(views, Some(metadata))?;
    whole_file::write(path, |file| Ok(file.write_all(&content)?))
        .with_context(|| format!("cannot write {}", path.shown()))?;
    Ok(tensors.len())
}

/// The network with batch norms for each of its resolutions: the reference implementation shares none.
fn of_all_sizes(checkpoint: &Checkpoint) -> Result<SwitchableNetwork> {
    let metadata = checkpoint.metadata();
    let norms = Norms {
        of: metadata.resolutions.clone(),
        options: NormOptions {
            affine: Affine::Private,
            ..metadata.norms
        },
    };
    let compute = ExecConfig::cpu(Kind::Float);
    let source = |resolution| metadata.batch_norm_for(resolution);
    checkpoint.network_of(&metadata.resolutions, norms, compute, source)
}

/// The elements of a float32 tensor.
pub(super) fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
