//! The cost of a network, counted without allocating a tensor.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;

use crate::nn::layers::{self, Norms, cost};
use crate::nn::networks::Network;
use crate::nn::parameters::{Declaration, Role};
use crate::nn::quantizers::packed;

/// The cost of a network at all its resolutions. The field names are JSON keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub network: Network,
    pub classes: u32,
    /// In the order of the resolutions.
    pub resolutions: Vec<Cost>,
    /// Parameters that all resolutions share, without alpha.
    pub shared_parameters: u64,
    /// Parameters at all resolutions, without alpha: the number in papers. Bases of quantizers do
    /// not count: they are not trained by gradient.
    pub total_parameters: u64,
    /// Bytes of all tensors for inference at all resolutions, without alpha, with quantized weights
    /// as packed codes.
    pub packed_bytes: u64,
    /// Elements of alpha: one per resolution.
    pub alpha: u64,
}

/// The cost at one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// In pixels.
    pub resolution: u32,
    /// The resolution whose batch norms it uses, usually itself.
    pub batch_norm: u32,
    /// Multiply-adds of one image in convolutions and the classifier.
    pub multiply_adds: u64,
    /// Bit operations of one image: each multiply-add times the bits of its weight times the bits
    /// of its activation (32 if not quantized).
    pub bit_operations: u64,
    /// Shared and private parameters.
    pub parameters: u64,
    /// Parameters of its batch norms.
    pub private_parameters: u64,
    /// Bytes of all tensors for inference in float32, running statistics included.
    pub float32_bytes: u64,
    /// The same with quantized weights as packed codes.
    pub packed_bytes: u64,
}

impl Summary {
    /// The parameters of an ensemble of `members`, indices into `resolutions`: the shared ones, the
    /// private ones of the members, and one alpha each.
    pub fn ensemble_parameters(&self, members: &[usize]) -> u64 {
        let mut batch_norms = Vec::new();
        let mut sum = self.shared_parameters + members.len() as u64;
        for cost in members
            .iter()
            .filter_map(|&member| self.resolutions.get(member))
        {
            if !batch_norms.contains(&cost.batch_norm) {
                batch_norms.push(cost.batch_norm);
                sum += cost.private_parameters;
            }
        }
        sum
    }

    /// Of a network with these batch norms.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn new(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        norms: impl Into<Norms>,
    ) -> Result<Self> {
        let norms = norms.into();
        let layers = network.layers(classes)?;
        let tensors = layers::declare(&layers, &norms);
        let bases = tensors.iter().filter(|tensor| tensor.role == Role::Basis);
        let bases: HashMap<&str, &[i64]> = bases
            .map(|basis| (basis.name.as_str(), &basis.shape[..]))
            .collect();
        let bits = |weight: &Declaration| {
            let (_, basis) = layers::basis_name(weight.role, &weight.name)?;
            let shape = bases.get(basis.as_str())?;
            shape.last().map(|bits| bits.unsigned_abs())
        };
        let packed_bytes = |includes: &dyn Fn(u32) -> bool| {
            let needed = tensors.iter().filter(|tensor| {
                tensor.role.is_needed_for_inference() && tensor.resolution.is_none_or(includes)
            });
            let bytes = needed.map(|tensor| match bits(tensor) {
                Some(bits) => packed::packed_bytes(tensor.numel(), bits),
                None => 4 * tensor.numel(),
            });
            bytes.sum::<u64>()
        };
        let numel = |wanted: &dyn Fn(&Declaration) -> bool| {
            let wanted = tensors.iter().filter(|tensor| wanted(tensor));
            wanted.map(Declaration::numel).sum::<u64>()
        };
        let parameters = |private_to: Option<u32>| {
            numel(&|tensor| tensor.role.is_trainable() && tensor.resolution == private_to)
        };
        let shared_parameters = parameters(None);
        let costs = resolutions.iter().zip(&norms.of);
        let costs = costs.map(|(&resolution, &batch_norm)| {
            let private_parameters = parameters(Some(batch_norm));
            let needed = |tensor: &Declaration| {
                tensor.role.is_needed_for_inference()
                    && tensor.resolution.is_none_or(|of| of == batch_norm)
            };
            let operations = cost::operations(&layers, resolution);
            Cost {
                resolution,
                batch_norm,
                multiply_adds: operations.multiply_adds,
                bit_operations: operations.bit_operations,
                parameters: shared_parameters + private_parameters,
                private_parameters,
                float32_bytes: 4 * numel(&needed),
                packed_bytes: packed_bytes(&|of| of == batch_norm),
            }
        });
        Ok(Summary {
            network: network.clone(),
            classes,
            resolutions: costs.collect(),
            shared_parameters,
            total_parameters: numel(&|tensor| tensor.role.is_trainable()),
            packed_bytes: packed_bytes(&|_| true),
            alpha: resolutions.len() as u64,
        })
    }
}
