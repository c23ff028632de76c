//! A checkpoint of ours to tensors that PyTorch loads.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use tch::{Kind, Tensor};

use super::names::reference_name;
use crate::checkpoint::Checkpoint;
use crate::nn::compute::Compute;
use rsflow_graph::whole_file;

/// Writes the network of a checkpoint as a safetensors file under the reference implementation's
/// names, each with `prefix` before it: what its `load_state_dict` takes. A batch norm that the
/// resolutions share is written for each of them; one that was only calibrated is left out. The
/// file is complete or absent. Returns how many tensors it has.
///
/// # Errors
/// As [`Checkpoint::network_with`]; what the file system says, with the path.
pub fn export(checkpoint: &Checkpoint, prefix: &str, path: &Path) -> Result<usize> {
    let metadata = checkpoint.metadata();
    let sizes = &metadata.resolutions;
    let source = |norm| metadata.norm_for(norm);
    let net = checkpoint.network_with(sizes, sizes, Compute::cpu(Kind::Float), source)?;
    let mut tensors = Vec::new();
    for parameter in net.parameters().iter() {
        let name = reference_name(net.network(), &parameter.name, parameter.resolution, sizes);
        let name = name.with_context(|| format!("{:?} has no name there", parameter.name))?;
        let bytes = bytes(&parameter.tensor)?;
        tensors.push((format!("{prefix}{name}"), parameter.tensor.size(), bytes));
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        let shape = shape.iter().map(|&size| size as usize).collect();
        views.push((name, TensorView::new(Dtype::F32, shape, bytes)?));
    }
    // The mark of files that PyTorch wrote, which some of its readers want to see.
    let mark = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let content = serialize(views, Some(mark))?;
    whole_file::write(path, |mut file| Ok(file.write_all(&content)?))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(tensors.len())
}

/// The elements of a tensor in single precision.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
