//! Packed checkpoints: all that a quantized network needs to run, in as few bytes as it has bits.
//!
//! A packed checkpoint is one like any other, without what only training needs, and with the codes
//! of a quantized weight, `layer1.0.conv1.codes`, in the place of the weight; see
//! [`pack`](crate::nn::quantizers::packed::pack) for their layout. The basis that belongs to them,
//! `layer1.0.conv1.basis`, and all that is not quantized stay in float32.

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use super::{Checkpoint, FORMAT, Metadata, Snapshot};
use crate::nn::layers::basis_of;
use crate::nn::parameters::{Parameter, Role};
use crate::nn::quantizers::packed;
use crate::nn::rs_net;

/// Packs a checkpoint of a quantized network.
///
/// # Errors
/// Nothing is quantized, or all is packed already; a tensor is missing; what the file system says.
pub fn pack(checkpoint: &Checkpoint) -> Result<Snapshot> {
    let metadata = checkpoint.metadata();
    ensure!(
        !metadata.packed,
        "it is packed already: copy the file instead"
    );
    let classes = metadata.classes.len().try_into()?;
    let (network, sizes) = (&metadata.network, &metadata.resolutions);
    let declarations = rs_net::declare(network, classes, sizes, &metadata.norms())?;
    ensure!(
        declarations.iter().any(|d| d.role == Role::Basis),
        "nothing of {network} is quantized, so there is nothing to pack"
    );
    let mut tensors = Vec::new();
    for declaration in declarations.iter().filter(|d| d.role.is_needed_to_run()) {
        let tensor = read(checkpoint, &declaration.name)?;
        let basis = basis_of(declaration.role, &declaration.name);
        match basis.filter(|(_, basis)| declarations.iter().any(|d| d.name == *basis)) {
            None => tensors.push((declaration.name.clone(), tensor)),
            Some((path, basis)) => {
                let codes = packed::pack(&tensor, &read(checkpoint, &basis)?)?;
                tensors.push((codes_of(path), codes));
            }
        }
    }
    let metadata = Metadata {
        packed: true,
        format: FORMAT,
        ..metadata.clone()
    };
    Snapshot::of(
        metadata,
        tensors.iter().map(|(name, t)| (name.clone(), t)).collect(),
    )
}

/// A weight of which a checkpoint has the codes, at its levels; `None` if it has none.
///
/// # Errors
/// Codes and basis do not fit the weight; what the file system says.
pub fn unpack(checkpoint: &Checkpoint, parameter: &Parameter) -> Result<Option<Tensor>> {
    let Some((path, basis)) = basis_of(parameter.role, &parameter.name) else {
        return Ok(None);
    };
    let codes = codes_of(path);
    if !checkpoint.holds(&codes) {
        return Ok(None);
    }
    let (codes, basis) = (read(checkpoint, &codes)?, read(checkpoint, &basis)?);
    packed::unpack(&codes, &basis, &parameter.tensor.size())
        .with_context(|| format!("the codes of {:?} make no weight", parameter.name))
        .map(Some)
}

/// Whether a checkpoint has codes in the place of this weight.
pub fn holds(checkpoint: &Checkpoint, parameter: &Parameter) -> bool {
    let basis = basis_of(parameter.role, &parameter.name);
    basis.is_some_and(|(path, _)| checkpoint.holds(&codes_of(path)))
}

fn codes_of(path: &str) -> String {
    format!("{path}.codes")
}

fn read(checkpoint: &Checkpoint, name: &str) -> Result<Tensor> {
    let mut tensors = checkpoint.read([name])?;
    tensors.pop().with_context(|| format!("no tensor {name:?}"))
}
