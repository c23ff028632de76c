//! Averaging gradients over the processes while the backward pass computes the next ones.

use std::sync::Arc;

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::native::Buckets;
use super::{Peers, buckets, bytes_of};
use crate::nn::parameters::{Parameter, Parameters};

/// The dtype in which gradients are sent from process to process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exchange {
    /// As they are.
    #[default]
    Float32,
    /// Half the bytes: each process's share is rounded to 8 bits of mantissa, and so are the sums.
    BFloat16,
}

/// Averages the gradients of a network's parameters. They are in buckets, one contiguous tensor each; a
/// bucket is summed as soon as it is full, during the backward pass, and the gradients that the
/// backward pass returns are views of the buckets.
#[derive(Debug)]
pub struct Reducer {
    peers: Arc<Peers>,
    buckets: Buckets,
    /// Of the parameters.
    names: Vec<String>,
}

impl Reducer {
    /// `first` is the resolution whose backward pass is the last one.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        peers: Arc<Peers>,
        parameters: &Parameters,
        first: Option<u32>,
        exchange: Exchange,
    ) -> Result<Self> {
        let trainable: Vec<&Parameter> = parameters.trainable().collect();
        // The order in which gradients are ready: the backward pass goes from the smallest resolution to the
        // largest, and there shared weights get their last contribution, from the last layer to the first.
        let is_early = |p: &Parameter| p.resolution.is_some() && p.resolution != first;
        let backwards = (0..trainable.len()).rev();
        let (early, late): (Vec<_>, Vec<_>) = backwards.partition(|&at| is_early(trainable[at]));
        let mut bucket_of = vec![0; trainable.len()];
        let mut number = 0;
        for order in [early, late] {
            for range in buckets(order.iter().map(|&at| bytes_of(&trainable[at].tensor))) {
                order[range].iter().for_each(|&at| bucket_of[at] = number);
                number += 1;
            }
        }
        let tensors: Vec<&Tensor> = trainable.iter().map(|p| &p.tensor).collect();
        let in_bfloat16 = exchange == Exchange::BFloat16;
        Ok(Reducer {
            buckets: Buckets::new(&peers.group, &tensors, &bucket_of, in_bfloat16)?,
            names: trainable.iter().map(|p| p.name.clone()).collect(),
            peers,
        })
    }

    /// The next backward pass gives means over all processes: before it.
    ///
    /// # Errors
    /// None in practice.
    pub fn begin(&self) -> Result<()> {
        self.buckets.begin()
    }

    /// After it: waits for the means.
    ///
    /// # Errors
    /// As [`Peers::sum`]; a parameter has no gradient.
    pub fn finish(&self) -> Result<()> {
        if let Some(name) = self.names.get(self.buckets.end()?) {
            bail!("{name} has no gradient: the loss does not depend on it");
        }
        self.peers
            .await_exchange(|timeout| self.buckets.finish(timeout))
    }
}
