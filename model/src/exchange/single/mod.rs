//! A network for one size, as files for other programs hold it: what they compute, what they say about
//! themselves, and the comparison with the checkpoint's network that every file must pass.

mod properties;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rand::Rng as _;
use rsflow_base::keyed;
use rsflow_base::shown::Shown as _;
use rsflow_graph::Preprocess;
use tch::{Kind, Tensor, no_grad};

use crate::checkpoint::{Checkpoint, NormsFrom, OVERFLOW, is_finite};
use crate::nn::compute::ExecConfig;
use crate::nn::layers::Mode;
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::DeviceTransfer;

/// What the network in a file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// uint8 RGB, `[batch, size, size, 3]`: the file normalizes them itself.
    Bytes,
    /// float32, `[batch, 3, size, size]`: normalized already.
    Float,
}

/// What a file is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The side of the images, in pixels.
    pub size: u32,
    pub norms: NormsFrom,
    pub input: Input,
    /// The number of images in a batch; `None`: any.
    pub batch: Option<u32>,
    /// Whether the output is probabilities in place of logits.
    pub softmax: bool,
    /// How the checkpoint's images were made, which the file says.
    pub preprocess: Preprocess,
}

impl Options {
    /// The name of a file's output.
    pub(super) fn output(&self) -> &'static str {
        match self.softmax {
            true => "probabilities",
            false => "logits",
        }
    }
}

/// A file that was written.
#[derive(Clone, Copy, Debug)]
pub struct Exported {
    /// Operators in it.
    pub nodes: usize,
    pub bytes: usize,
    /// The largest difference between its outputs and those of the checkpoint's network, in float32, as
    /// a share of the largest output.
    pub difference: f64,
}

/// The name of a file's input.
pub(super) const IMAGES: &str = "images";
/// Random images that a file is compared on, and how many of them are run together: the last batch is
/// smaller, so that a file which takes only one size of batch is noticed.
const COMPARED: usize = 8;
const TOGETHER: usize = 3;
/// The largest difference of a sound file: operators sum up in other orders, no more.
pub(super) const LIMIT: f64 = 1e-4;
/// What an error of the check of a written file is about.
pub(super) const NOT_KEPT: &str = "the written file failed its check and was not kept";
/// A comparison that takes longer is announced.
const MOMENT: Duration = Duration::from_secs(2);

/// A checkpoint's network for one size, in float32 on the CPU.
pub(super) struct Single<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a Options,
    pub(super) net: SwitchableNetwork,
    transfer: DeviceTransfer,
}

/// A batch as a file gets it, and as the network does.
pub(super) struct Images {
    pub(super) theirs: Tensor,
    pub(super) ours: Tensor,
}

impl<'a> Single<'a> {
    /// # Errors
    /// As [`Checkpoint::network`].
    pub(super) fn open(checkpoint: &'a Checkpoint, options: &'a Options) -> Result<Self> {
        let compute = ExecConfig::cpu(Kind::Float);
        let metadata = checkpoint.metadata();
        Ok(Single {
            checkpoint,
            options,
            net: checkpoint.network(&[options.size], &[options.norms], compute)?,
            transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
        })
    }

    /// Random images, from the `first` on: always the same ones.
    pub(super) fn images(&self, first: usize, count: usize) -> Result<Images> {
        let side = self.options.size;
        let mut bytes = vec![0; 3 * (side as usize).pow(2)];
        let mut all = Vec::new();
        for number in first..first + count {
            keyed::random(0, "export", IMAGES, &[number as u64]).fill_bytes(&mut bytes);
            all.extend_from_slice(&bytes);
        }
        let ours = self.transfer.pixels(&all, count, side)?;
        Ok(Images {
            theirs: match self.options.input {
                Input::Float => ours.shallow_clone(),
                Input::Bytes => {
                    let side = i64::from(side);
                    let shape = [count as i64, side, side, 3];
                    Tensor::f_from_data_size(&all, &shape, Kind::Uint8)?
                }
            },
            ours,
        })
    }

    /// What a file is to output for these images.
    fn outputs(&self, images: &Tensor) -> Result<Tensor> {
        let logits = self.net.logits(images, 0, Mode::Evaluate)?;
        let path = self.checkpoint.path().shown();
        ensure!(
            is_finite(&logits)?,
            "{path}: the outputs of the network are not finite: {OVERFLOW}"
        );
        Ok(match self.options.softmax {
            true => no_grad(|| logits.f_softmax(-1, None))?,
            false => logits,
        })
    }

    /// The largest difference between the outputs of `run`, which gets images as a file does, and those of
    /// the network, as a share of the network's largest output. `tell` gets a line if it takes long.
    ///
    /// # Errors
    /// It is above [`LIMIT`], or not a number; that of `run`.
    pub(super) fn compare(
        &self,
        mut run: impl FnMut(&Tensor) -> Result<Tensor>,
        tell: &dyn Fn(&str),
    ) -> Result<f64> {
        let start = Instant::now();
        let mut told = false;
        let (mut apart, mut largest): (f64, f64) = (0.0, 0.0);
        for first in (0..COMPARED).step_by(TOGETHER) {
            let images = self.images(first, TOGETHER.min(COMPARED - first))?;
            let expected = self.outputs(&images.ours)?;
            let found = no_grad(|| run(&images.theirs))?;
            ensure!(
                found.size() == expected.size() && found.f_kind()? == Kind::Float,
                "its output is {:?} {:?} in place of float32 {:?}",
                found.f_kind()?,
                found.size(),
                expected.size()
            );
            // Unlike f64::max, a maximum of libtorch's is NaN if a value is.
            let off = most(&found.f_sub(&expected)?)?;
            ensure!(!off.is_nan(), "its outputs are not numbers");
            apart = apart.max(off);
            largest = largest.max(most(&expected)?);
            if !told && start.elapsed() > MOMENT {
                told = true;
                tell(&format!(
                    "comparing the file for {} pixels with the network, on {COMPARED} random images",
                    self.options.size
                ));
            }
        }
        let difference = match apart == 0.0 {
            true => 0.0,
            false => apart / largest,
        };
        if difference > LIMIT {
            bail!(
                "its outputs differ from the network's by up to {apart:.2e}, where the largest is {largest:.2e}: more \
                 than {LIMIT:e} of it"
            );
        }
        Ok(difference)
    }
}

/// The largest absolute value.
pub(super) fn most(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.f_abs()?.f_max()?.f_double_value(&[])?)
}
