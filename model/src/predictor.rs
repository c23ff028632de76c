//! Classification of single images at one resolution.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;
use serde::Serialize;
use tch::Kind;

use crate::checkpoint::{Checkpoint, NormsFrom, OVERFLOW, is_finite};
use crate::nn::compute::ExecConfig;
use crate::nn::replay::{CudaGraph, Inference};
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::DeviceTransfer;

/// A network loaded for one resolution: the shared weights and one set of batch norms.
#[derive(Debug)]
pub struct Predictor {
    net: SwitchableNetwork,
    inference: Inference,
    transfer: DeviceTransfer,
    size: u32,
    classes: Vec<String>,
    checkpoint: PathBuf,
}

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Its name; empty if the checkpoint does not have it.
    pub class: String,
    /// Its index, from 0.
    pub index: usize,
    /// In 0..1; the sum over all classes is 1.
    pub probability: f64,
}

impl Predictor {
    /// Loads the network for images of `size` x `size` pixels, with these batch norms.
    ///
    /// # Errors
    /// A size that is too small for the network; batch norms that the checkpoint does not have; an
    /// I/O error.
    pub fn open(
        checkpoint: &Checkpoint,
        size: u32,
        batch_norms: NormsFrom,
        compute: ExecConfig,
    ) -> Result<Self> {
        let metadata = checkpoint.metadata();
        let net = checkpoint.network(&[size], &[batch_norms], compute)?;
        Ok(Self {
            inference: Inference::new(&net, CudaGraph::Auto),
            net,
            transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
            size,
            classes: metadata.classes.clone(),
            checkpoint: checkpoint.path().to_owned(),
        })
    }

    /// The side of an image, in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The `top` most probable classes of an RGB image, uint8 `[size, size, 3]`, the most probable
    /// first.
    ///
    /// # Errors
    /// A wrong number of bytes; outputs that are not finite.
    pub fn predict(&mut self, pixels: &[u8], top: usize) -> Result<Vec<Prediction>> {
        let images = self.transfer.pixels(pixels, 1, self.size)?;
        let logits = self.inference.logits(&self.net, &[0], &[images])?;
        let logits = logits.first().context("a pass without logits")?;
        ensure!(
            is_finite(logits)?,
            "{}: the outputs of the network are not finite: {OVERFLOW}",
            self.checkpoint.shown()
        );
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
