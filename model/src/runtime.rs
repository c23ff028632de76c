//! A network at run time: all its resolutions loaded once, of which each call takes one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::checkpoint::{Checkpoint, NormsFrom, OVERFLOW};
use crate::nn::compute::{ExecConfig, adopt_thread_count};
use crate::nn::kernels::Kernels;
use crate::nn::layers::{self, Mode};
use crate::nn::replay::{CudaGraph, Inference};
use crate::nn::summary::Cost;
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::DeviceTransfer;

/// A network with the batch norms of several resolutions, for inference. A call at another resolution than
/// the one before costs nothing more: all is loaded.
///
/// Any thread may call it. One call computes at a time, with all threads of libtorch; others wait.
#[derive(Debug)]
pub struct Runtime {
    compute: ExecConfig,
    sizes: Vec<u32>,
    costs: Vec<Cost>,
    classes: Vec<String>,
    checkpoint: PathBuf,
    /// The positions in `sizes` of the ensemble's members; empty if some are not loaded.
    members: Vec<usize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    net: SwitchableNetwork,
    /// For each size.
    passes: Vec<Inference>,
    transfer: DeviceTransfer,
    /// Whether a batch is computed a few images at a time.
    divides: bool,
}

/// Whether batch norms are folded into the convolutions before them, which is faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Folding {
    /// On the CPU, unless the network is quantized. Logits in float32 differ by some 1e-6 of the largest, in
    /// bfloat16 by some 1e-2, as those without folding do from float32.
    /// The weights are then in memory once more, as the convolutions read them: in float32 once for all sizes, but
    /// that a convolution of 3 x 3 with up to 256 channels has two layouts: one, 1.8 times as large, for images on
    /// which it needs fewer multiplications, and one for smaller images. In bfloat16 each size that is used has its own, from its first call on; twice if it gets batches of both less
    /// and more than eight images.
    #[default]
    Auto,
    /// Never: weights are in memory once.
    Off,
}

/// Images of one size, in the order of memory.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// RGB, uint8 `[batch, size, size, 3]`. The network's normalization is applied to them.
    Bytes(&'a [u8]),
    /// Normalized, in the network's order of channels: float32 `[batch, 3, size, size]`.
    Normalized(&'a [f32]),
}

impl<'a> Images<'a> {
    /// So many of this size at a time.
    fn chunks(self, count: usize, size: u32) -> Box<dyn Iterator<Item = Images<'a>> + 'a> {
        let values = count * 3 * (size as usize).pow(2);
        match self {
            Images::Bytes(bytes) => Box::new(bytes.chunks(values).map(Images::Bytes)),
            Images::Normalized(all) => Box::new(all.chunks(values).map(Images::Normalized)),
        }
    }

    /// How many there are.
    ///
    /// # Errors
    /// None; a length that is not that of whole images.
    pub fn count(&self, size: u32) -> Result<usize> {
        let (length, what) = match self {
            Images::Bytes(bytes) => (bytes.len(), "bytes"),
            Images::Normalized(values) => (values.len(), "values"),
        };
        let one = 3 * (size as usize).pow(2);
        ensure!(
            length > 0 && one > 0 && length % one == 0,
            "images of {size} x {size} pixels have {one} {what} each, and {length} were given"
        );
        Ok(length / one)
    }
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

impl Runtime {
    /// Loads the network for images of these sizes in pixels, each with the batch norms given for it.
    ///
    /// # Errors
    /// A size that is too small for the network, or twice there; batch norms that the checkpoint does not
    /// have; an I/O error.
    pub fn open(
        checkpoint: &Checkpoint,
        sizes: &[(u32, NormsFrom)],
        compute: ExecConfig,
        folding: Folding,
    ) -> Result<Self> {
        let metadata = checkpoint.metadata();
        let (sizes, norms): (Vec<u32>, Vec<NormsFrom>) = sizes.iter().copied().unzip();
        let suits = compute.kernels == Some(Kernels::Cpu) && !metadata.network.is_quantized();
        let folds = folding == Folding::Auto && suits && layers::folds(compute.compute_dtype);
        // What convolutions with batch norms work with.
        let compute = ExecConfig {
            channels_last: compute.channels_last || folds,
            ..compute
        };
        let mut net = checkpoint.network(&sizes, &norms, compute)?;
        let folded = folds && net.fold();
        let members = metadata.resolutions.iter();
        let members = members.map(|member| sizes.iter().position(|size| size == member));
        let passes = sizes.iter().map(|_| Inference::new(&net, CudaGraph::Auto));
        Ok(Runtime {
            compute,
            members: members.collect::<Option<_>>().unwrap_or_default(),
            costs: net.summary().resolutions.clone(),
            classes: metadata.classes.clone(),
            checkpoint: checkpoint.path().to_owned(),
            state: Mutex::new(State {
                passes: passes.collect(),
                transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
                // oneDNN's convolutions, in bfloat16, like large batches.
                divides: folded && compute.compute_dtype == Kind::Float,
                net,
            }),
            sizes,
        })
    }

    /// Where and with which numbers it computes.
    pub fn compute(&self) -> ExecConfig {
        self.compute
    }

    /// The sizes that are loaded, in pixels, as they were given.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// What one image costs at each of the sizes.
    pub fn costs(&self) -> &[Cost] {
        &self.costs
    }

    /// The names of the classes; empty ones are not known.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The file that it was loaded from.
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// The sizes of the ensemble, in its order; empty if some of the resolutions are not loaded, or there is
    /// only one.
    pub fn ensemble_sizes(&self) -> Vec<u32> {
        match self.members.as_slice() {
            [] | [_] => Vec::new(),
            members => members.iter().map(|&at| self.sizes[at]).collect(),
        }
    }

    /// The logits of images at one of the sizes, `[batch, classes]`.
    ///
    /// # Errors
    /// A size that is not loaded; a wrong number of bytes; outputs that are not finite; the device fails.
    pub fn logits(&self, images: Images<'_>, size: u32) -> Result<Vec<f32>> {
        self.position(size)?;
        let count = images.count(size)?;
        let mut logits = vec![0.0; count * self.classes.len()];
        self.logits_into(images, size, &mut logits)?;
        Ok(logits)
    }

    /// The same into a slice of `batch * classes` values, without an allocation of its own.
    ///
    /// # Errors
    /// As [`Runtime::logits`]; a slice of another length.
    pub fn logits_into(&self, images: Images<'_>, size: u32, out: &mut [f32]) -> Result<()> {
        let at = self.position(size)?;
        let state = &mut *self.state();
        let logits = state.logits(images, at, size)?;
        self.finish(&logits, out)
    }

    /// What the classifier gets of images at one of the sizes, `[batch, features]`: as embeddings, to compare
    /// images by.
    ///
    /// # Errors
    /// As [`Runtime::logits`].
    pub fn features(&self, images: Images<'_>, size: u32) -> Result<Vec<f32>> {
        let at = self.position(size)?;
        let state = &mut *self.state();
        let features = state.in_parts(images, size, |state, images| {
            state.net.pass(Mode::Evaluate)?.features(&images, at)
        })?;
        let mut out = vec![0.0; features.numel()];
        self.finish(&features, &mut out)?;
        Ok(out)
    }

    /// The logits of the learned ensemble, `[batch, classes]`, of the same images at each of
    /// [`Runtime::ensemble_sizes`], in their order.
    ///
    /// # Errors
    /// As [`Runtime::logits`]; a resolution that is not loaded.
    pub fn ensemble(&self, images: &[Images<'_>]) -> Result<Vec<f32>> {
        let sizes = self.ensemble_sizes();
        ensure!(
            !sizes.is_empty() && images.len() == sizes.len(),
            "the ensemble needs images at each of its {} sizes {sizes:?}, and {} were given",
            sizes.len(),
            images.len()
        );
        let state = &mut *self.state();
        let mut logits = Vec::with_capacity(sizes.len());
        for ((&at, &images), size) in self.members.iter().zip(images).zip(sizes) {
            // What a CUDA graph wrote is valid until the next pass.
            logits.push(state.logits(images, at, size)?.f_detach_copy()?);
        }
        let ensemble = tch::no_grad(|| state.net.ensemble_at(&self.members, &logits))?;
        let mut out = vec![0.0; ensemble.numel()];
        self.finish(&ensemble, &mut out)?;
        Ok(out)
    }

    /// The `top` most probable classes of one image, the most probable first.
    pub fn top(&self, logits: &[f32], top: usize) -> Vec<Prediction> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp = |logit: f32| (f64::from(logit) - f64::from(highest)).exp();
        let sum: f64 = logits.iter().copied().map(exp).sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let best = order.into_iter().take(top);
        best.map(|index| Prediction {
            class: self.classes.get(index).cloned().unwrap_or_default(),
            index,
            probability: exp(logits[index]) / sum,
        })
        .collect()
    }

    fn position(&self, size: u32) -> Result<usize> {
        let at = self.sizes.iter().position(|&loaded| loaded == size);
        at.with_context(|| {
            let mut sizes = self.sizes.clone();
            sizes.sort_unstable();
            format!("the size {size} is not loaded; there are {sizes:?}")
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A pass that panicked left no half of anything: each begins anew.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies logits out of the device.
    fn finish(&self, logits: &Tensor, out: &mut [f32]) -> Result<()> {
        ensure!(
            out.len() == logits.numel(),
            "the output has {} values, and there is room for {}",
            logits.numel(),
            out.len()
        );
        let logits = logits.f_to_kind(Kind::Float)?.f_contiguous()?;
        logits.f_copy_data(out, out.len())?;
        ensure!(
            out.iter().all(|logit| logit.is_finite()),
            "{}: the outputs of the network are not finite: {OVERFLOW}",
            self.checkpoint.shown()
        );
        Ok(())
    }
}

impl State {
    /// On the device.
    fn images(&self, images: Images<'_>, size: u32) -> Result<Tensor> {
        adopt_thread_count();
        let count = images.count(size)?;
        match images {
            Images::Bytes(bytes) => self.transfer.pixels(bytes, count, size),
            Images::Normalized(values) => self.transfer.normalized_values(values, count, size),
        }
    }

    fn logits(&mut self, images: Images<'_>, at: usize, size: u32) -> Result<Tensor> {
        self.in_parts(images, size, |state, images| {
            let logits = state.passes[at].logits(&state.net, &[at], &[images])?;
            logits.into_iter().next().context("a pass without logits")
        })
    }

    /// What `pass` makes of the images, so many at a time as one pass takes.
    fn in_parts(
        &mut self,
        images: Images<'_>,
        size: u32,
        mut pass: impl FnMut(&mut Self, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let count = images.count(size)?;
        if let Images::Normalized(values) = images
            // oneDNN's max(x, 0) makes a 0 of what is not a number.
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            bail!("value {at} of the images is not finite");
        }
        let at_once = match self.divides {
            true => layers::images_of_pass(size, tch::get_num_threads()),
            false => count,
        };
        let mut results = Vec::with_capacity(count.div_ceil(at_once));
        for part in images.chunks(at_once, size) {
            let part = self.images(part, size)?;
            results.push(pass(self, part)?);
        }
        match results.as_mut_slice() {
            [_] => results.pop().context("no images"),
            _ => Ok(Tensor::f_cat(&results, 0)?),
        }
    }
}
