//! What a network costs: its parameters and multiply-adds, counted without a tensor.

use anyhow::Result;
use serde::Serialize;

use crate::nn::layers::{self, cost};
use crate::nn::networks::Network;
use crate::nn::parameters::Declaration;
use crate::nn::quantizers;

/// The costs of a network with all its resolutions. As JSON it has these names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The network.
    pub network: Network,
    /// How many classes it tells apart.
    pub classes: u32,
    /// The costs at each resolution, in the order of the resolutions.
    pub resolutions: Vec<Cost>,
    /// Parameters that all resolutions share, without alpha.
    pub shared_parameters: u64,
    /// Parameters of the whole, without alpha: the figure that papers give. The bases of quantizers
    /// are not counted: no gradient trains them.
    pub total_parameters: u64,
    /// Bytes of all tensors that it needs to run at all resolutions, without alpha, quantized weights
    /// as packed codes.
    pub packed_bytes: u64,
    /// The learned weights of the ensemble, one per resolution.
    pub alpha: u64,
}

/// What one resolution costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The side of an image, in pixels.
    pub resolution: u32,
    /// The resolution whose batch norms it runs with: itself as a rule.
    pub batch_norm: u32,
    /// Multiply-adds of one image, in convolutions and classifier.
    pub multiply_adds: u64,
    /// Bit operations of one image: each multiply-add times the bits of its weight times the bits of
    /// its activation, where what is not quantized has 32.
    pub bit_operations: u64,
    /// Parameters that it needs: the shared ones and its private ones.
    pub parameters: u64,
    /// Those of its batch norms, which it alone needs unless others borrow them.
    pub private_parameters: u64,
    /// Bytes of all tensors that it needs as float32, running statistics included.
    pub float32_bytes: u64,
    /// The same where quantized weights are packed codes.
    pub packed_bytes: u64,
}

impl Summary {
    /// The parameters that an ensemble of these members needs, which are positions in
    /// `resolutions`: the shared ones, their private ones, and their alphas.
    pub fn of_ensemble(&self, members: &[usize]) -> u64 {
        let mut norms = Vec::new();
        let mut sum = self.shared_parameters + members.len() as u64;
        for cost in members
            .iter()
            .filter_map(|&member| self.resolutions.get(member))
        {
            if !norms.contains(&cost.batch_norm) {
                norms.push(cost.batch_norm);
                sum += cost.private_parameters;
            }
        }
        sum
    }

    /// Counts. Allocates no tensor. `norms` names for each resolution the one whose batch norms it
    /// runs with: itself as a rule.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn new(
        network: &Network,
        classes: u32,
        resolutions: &[u32],
        norms: &[u32],
    ) -> Result<Self> {
        let layers = network.layers(classes)?;
        let tensors = layers::declare(&layers, norms);
        let bits = |weight: &Declaration| {
            let (_, basis) = layers::basis_of(weight.role, &weight.name)?;
            let basis = tensors.iter().find(|tensor| tensor.name == basis)?;
            basis.shape.last().map(|bits| bits.unsigned_abs())
        };
        let packed_bytes = |norm: &dyn Fn(u32) -> bool| {
            let needed = tensors.iter().filter(|tensor| {
                tensor.role.is_needed_to_run() && tensor.resolution.is_none_or(norm)
            });
            let bytes = needed.map(|tensor| match bits(tensor) {
                Some(bits) => quantizers::packed::bytes(tensor.elements(), bits),
                None => 4 * tensor.elements(),
            });
            bytes.sum::<u64>()
        };
        let elements = |wanted: &dyn Fn(&Declaration) -> bool| {
            let wanted = tensors.iter().filter(|tensor| wanted(tensor));
            wanted.map(Declaration::elements).sum::<u64>()
        };
        let parameters = |private_to: Option<u32>| {
            elements(&|tensor| tensor.role.is_trainable() && tensor.resolution == private_to)
        };
        let shared_parameters = parameters(None);
        let costs = resolutions.iter().zip(norms).map(|(&resolution, &norm)| {
            let private_parameters = parameters(Some(norm));
            let needed = |tensor: &Declaration| {
                tensor.role.is_needed_to_run() && tensor.resolution.is_none_or(|of| of == norm)
            };
            let operations = cost::operations(&layers, resolution);
            Cost {
                resolution,
                batch_norm: norm,
                multiply_adds: operations.multiply_adds,
                bit_operations: operations.bits,
                parameters: shared_parameters + private_parameters,
                private_parameters,
                float32_bytes: 4 * elements(&needed),
                packed_bytes: packed_bytes(&|of| of == norm),
            }
        });
        Ok(Summary {
            network: network.clone(),
            classes,
            resolutions: costs.collect(),
            shared_parameters,
            total_parameters: elements(&|tensor| tensor.role.is_trainable()),
            packed_bytes: packed_bytes(&|_| true),
            alpha: resolutions.len() as u64,
        })
    }
}
