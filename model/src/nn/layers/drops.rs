//! What is left out of a network in a training step.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::{Layer, visit};

/// Factors that leave parts of a network out of a training step, the same at all resolutions: 0 for what is
/// left out, 1 / (1 - probability) for the rest. In the compute dtype.
#[derive(Debug, Default)]
pub struct Drops {
    /// Of the residual branches, in the order of the forward pass, for each image, `[branches, batch]`: stochastic
    /// depth ("Deep Networks with Stochastic Depth", ECCV 2016).
    pub branches: Option<Tensor>,
    /// Of the classifier's inputs, `[batch, features]`: dropout.
    pub features: Option<Tensor>,
}

impl Drops {
    /// Those of `count` images of the batch.
    ///
    /// # Errors
    /// There are not so many.
    pub fn part(&self, from: i64, count: i64) -> Result<Drops> {
        let part = |tensor: &Option<Tensor>, dim| {
            let part = tensor.as_ref().map(|t| t.f_narrow(dim, from, count));
            part.transpose()
        };
        Ok(Drops {
            branches: part(&self.branches, 1)?,
            features: part(&self.features, 0)?,
        })
    }

    /// The tensors, in the order in which [`Drops::with_tensors`] takes them.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.branches.iter().chain(&self.features)
    }

    /// The same with other tensors.
    pub fn with_tensors<'t>(&self, mut tensors: impl Iterator<Item = &'t Tensor>) -> Drops {
        let mut next = |own: &Option<Tensor>| {
            let own = own.as_ref();
            own.and_then(|_| tensors.next()).map(Tensor::shallow_clone)
        };
        Drops {
            branches: next(&self.branches),
            features: next(&self.features),
        }
    }

    /// The factors of a residual branch, `[batch, 1, 1, 1]`.
    pub(super) fn of_branch(&self, index: usize) -> Result<Option<Tensor>> {
        let Some(branches) = &self.branches else {
            return Ok(None);
        };
        let own = branches.f_select(0, index as i64)?;
        Ok(Some(own.f_view([-1, 1, 1, 1])?))
    }
}

/// The number of residual branches of a network, and of inputs of its classifier.
pub fn droppable(layers: &[Layer]) -> (i64, i64) {
    let (mut branches, mut features) = (0, 0);
    visit(layers, &mut |layer| match layer {
        Layer::Residual { .. } => branches += 1,
        Layer::Linear(linear) => features = linear.in_features,
        _ => {}
    });
    (branches, features)
}

/// Factors as a tensor.
///
/// # Errors
/// Out of memory.
pub fn factors(values: &[f32], shape: [i64; 2], dtype: Kind, device: Device) -> Result<Tensor> {
    let tensor = Tensor::f_from_slice(values)?.f_view(shape)?;
    let tensor = tensor.f_to_kind(dtype)?;
    if !device.is_cuda() {
        return Ok(tensor);
    }
    // From pinned memory, which libtorch keeps until it is copied: nothing waits for the device.
    let (non_blocking, copy) = (true, false);
    let pinned = tensor.f_pin_memory(device)?;
    Ok(pinned.f_to_device_(device, dtype, non_blocking, copy)?)
}
