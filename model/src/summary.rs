//! What a network costs: its parameters and multiply-adds, counted without a tensor.

use anyhow::Result;
use serde::Serialize;

use crate::layers::{self, cost};
use crate::networks::Network;
use crate::parameters::Declaration;

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
    /// Parameters of the whole, without alpha: the figure that papers give.
    pub total_parameters: u64,
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
    /// Parameters that it needs: the shared ones and its private ones.
    pub parameters: u64,
    /// Those of its batch norms, which it alone needs unless others borrow them.
    pub private_parameters: u64,
    /// Bytes of all tensors that it needs as float32, running statistics included.
    pub float32_bytes: u64,
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
            let needed = |tensor: &Declaration| tensor.resolution.is_none_or(|of| of == norm);
            Cost {
                resolution,
                batch_norm: norm,
                multiply_adds: cost::operations(&layers, resolution).multiply_adds,
                parameters: shared_parameters + private_parameters,
                private_parameters,
                float32_bytes: 4 * elements(&needed),
            }
        });
        Ok(Summary {
            network: network.clone(),
            classes,
            resolutions: costs.collect(),
            shared_parameters,
            total_parameters: elements(&|tensor| tensor.role.is_trainable()),
            alpha: resolutions.len() as u64,
        })
    }
}
