//! A checkpoint as a safetensors file for PyTorch.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use rsflow_base::shown::Shown as _;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use tch::{Kind, Tensor};

use super::names::reference_name;
use crate::checkpoint::Checkpoint;
use crate::nn::compute::ExecConfig;
use crate::nn::layers::{Affine, NormOptions, Norms};
use rsflow_base::whole_file;

/// Writes the network of a checkpoint as a safetensors file in float32, under the reference
/// implementation's names prefixed with `prefix`, for its `load_state_dict`. What resolutions share of
/// their batch norms is written once for each of them; calibrated ones are not written. The file is complete or
/// absent. Returns the number of tensors.
///
/// # Errors
/// As [`Checkpoint::network_with`]; an I/O error, with the path.
pub fn export(checkpoint: &Checkpoint, prefix: &str, path: &Path) -> Result<usize> {
    let metadata = checkpoint.metadata();
    let resolutions = &metadata.resolutions;
    let source = |resolution| metadata.batch_norm_for(resolution);
    let compute = ExecConfig::cpu(Kind::Float);
    // The reference implementation shares none.
    let norms = Norms {
        of: resolutions.clone(),
        options: NormOptions {
            affine: Affine::Private,
            ..metadata.norms
        },
    };
    let net = checkpoint.network_of(resolutions, norms, compute, source)?;
    let mut tensors = Vec::new();
    for parameter in net.parameters().iter() {
        let ours = &parameter.name;
        let name = reference_name(net.network(), ours, parameter.resolution, resolutions);
        let name = name.with_context(|| format!("{ours:?} has no name in the reference"))?;
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

/// The elements of a float32 tensor.
pub(super) fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
