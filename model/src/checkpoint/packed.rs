//! Packed checkpoints: the tensors of a quantized network for inference, with bit-packed weights.
//!
//! A packed checkpoint has no tensors that only training needs, and in place of a quantized weight
//! its codes, `layer1.0.conv1.codes`; see [`pack`](crate::nn::quantizers::packed::pack) for their
//! layout. The bases, `layer1.0.conv1.basis`, and tensors that are not quantized stay in float32.

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::quoted;
use tch::Tensor;

use super::{Checkpoint, FORMAT, Metadata, Snapshot};
use crate::nn::layers::basis_name;
use crate::nn::parameters::{Declaration, Parameter, Role};
use crate::nn::quantizers::packed;
use crate::nn::switchable;

/// Packs a checkpoint of a quantized network.
///
/// # Errors
/// The network is not quantized; the checkpoint is packed already; a missing tensor; an I/O error.
pub fn pack(checkpoint: &Checkpoint) -> Result<Snapshot> {
    let metadata = checkpoint.metadata();
    ensure!(
        !metadata.packed,
        "it is packed already; copy the file instead"
    );
    let classes = metadata.classes.len().try_into()?;
    let (network, resolutions) = (&metadata.network, &metadata.resolutions);
    let declarations = switchable::declare(
        network,
        classes,
        resolutions,
        &metadata.norms_of(&metadata.batch_norm_resolutions()),
    )?;
    ensure!(
        declarations.iter().any(|d| d.role == Role::Basis),
        "{network} is not quantized, so there is nothing to pack"
    );
    checkpoint.places(checkpoint.weights(), &declarations, |norm| norm)?;
    let read = |name: &str| checkpoint.read_tensor(&checkpoint.stored_name(name));
    let mut tensors = Vec::new();
    for declaration in declarations
        .iter()
        .filter(|d| d.role.is_needed_for_inference())
    {
        let tensor = read(&declaration.name)?;
        let basis = basis_name(declaration.role, &declaration.name);
        match basis.filter(|(_, basis)| declarations.iter().any(|d| d.name == *basis)) {
            None => tensors.push((declaration.name.clone(), tensor)),
            Some((path, basis)) => {
                let codes = packed::pack(&tensor, &read(&basis)?)?;
                tensors.push((codes_name(path), codes));
            }
        }
    }
    let metadata = Metadata {
        packed: true,
        format: FORMAT,
        ..metadata.clone()
    };
    Snapshot::from_tensors(
        metadata,
        tensors.iter().map(|(name, t)| (name.clone(), t)).collect(),
    )
}

/// Whether the codes in the place of a weight have the shape that it needs, by the header alone;
/// `None` if there are none.
pub(super) fn codes(checkpoint: &Checkpoint, weight: &Declaration) -> Option<Result<(), String>> {
    let (path, basis) = basis_name(weight.role, &weight.name)?;
    let codes = codes_name(path);
    let actual = &checkpoint.file.info(&codes)?.shape;
    let basis = checkpoint.file.info(&basis)?.shape.last();
    let bits = basis.copied().unwrap_or_default();
    let row = weight.numel().div_ceil(8) as i64;
    let fits = checkpoint.has_shape(&codes, &[bits as i64, row]);
    Some(fits.then_some(()).ok_or_else(|| {
        let codes = quoted(&codes);
        format!("{codes} must have the shape [{bits}, {row}], not {actual:?}")
    }))
}

/// The quantized weight from its codes in a checkpoint.
///
/// # Errors
/// Codes and basis do not match the weight; an I/O error.
pub(super) fn unpack(checkpoint: &Checkpoint, weight: &Declaration) -> Result<Tensor> {
    let names = basis_name(weight.role, &weight.name);
    let (path, basis) = names.context("it is not a weight that is quantized")?;
    let codes = checkpoint.read_tensor(&codes_name(path))?;
    let basis = checkpoint.read_tensor(&basis)?;
    packed::unpack(&codes, &basis, &weight.shape)
        .with_context(|| format!("the codes of {} make no weight", quoted(&weight.name)))
}

/// Whether a checkpoint has codes in the place of this weight.
pub fn contains(checkpoint: &Checkpoint, parameter: &Parameter) -> bool {
    let basis = basis_name(parameter.role, &parameter.name);
    basis.is_some_and(|(path, _)| checkpoint.contains(&codes_name(path)))
}

fn codes_name(path: &str) -> String {
    format!("{path}.codes")
}
