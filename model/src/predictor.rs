//! Classes of single images, at one size.

use anyhow::Result;
use serde::Serialize;
use tch::Kind;

use crate::checkpoint::Checkpoint;
use crate::nn::compute::Compute;
use crate::nn::layers::Mode;
use crate::nn::rs_net::RsNet;
use crate::nn::transfer::DeviceTransfer;

/// A network loaded for one size: the shared weights, and one set of batch norms.
#[derive(Debug)]
pub struct Predictor {
    net: RsNet,
    transfer: DeviceTransfer,
    size: u32,
    classes: Vec<String>,
}

/// A class that an image may be of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Its name; empty if the checkpoint does not know it.
    pub class: String,
    /// Its index, from 0.
    pub index: usize,
    /// Between 0 and 1; those of all classes add up to 1.
    pub probability: f64,
}

impl Predictor {
    /// Loads what images of `size` x `size` pixels need, with the batch norms of the resolution
    /// `norm`, to compute as `compute` says.
    ///
    /// # Errors
    /// A size that is too small for the network, batch norms that the checkpoint does not have,
    /// what the file system says.
    pub fn open(checkpoint: &Checkpoint, size: u32, norm: u32, compute: Compute) -> Result<Self> {
        let metadata = checkpoint.metadata();
        Ok(Self {
            net: checkpoint.network(&[size], &[norm], compute)?,
            transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
            size,
            classes: metadata.classes.clone(),
        })
    }

    /// The side of its images, in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The `top` likeliest classes of an image, `[size, size, 3]` RGB in bytes, the likeliest first.
    ///
    /// # Errors
    /// Another number of bytes; what libtorch says.
    pub fn predict(&self, pixels: &[u8], top: usize) -> Result<Vec<Prediction>> {
        let images = self.transfer.pixels(pixels, 1, self.size)?;
        let logits = self.net.logits(&images, 0, Mode::Evaluate)?;
        let probabilities = logits.f_to_kind(Kind::Double)?.f_softmax(-1, None)?;
        let top = top.min(self.classes.len()) as i64;
        let (values, indices) = probabilities.f_topk(top, -1, true, true)?;
        (0..top)
            .map(|rank| {
                let index = indices.f_int64_value(&[0, rank])? as usize;
                Ok(Prediction {
                    class: self.classes.get(index).cloned().unwrap_or_default(),
                    index,
                    probability: values.f_double_value(&[0, rank])?,
                })
            })
            .collect()
    }
}
