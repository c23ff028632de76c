//! The library: a checkpoint, loaded once, that classifies image files.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::Preprocess;
use rsflow_model::checkpoint::{Checkpoint, NormsFrom};
use rsflow_model::nn::compute::{DeviceChoice, ExecConfig, Precision};
use rsflow_model::nn::kernels::Fused;
use rsflow_model::runtime::{Folding, Images, Prediction, Runtime};
use rsflow_pipeline::{MAX_IMAGE_BYTES, preprocess};

use crate::latency;

/// How a checkpoint is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Sizes of images in pixels; those it was trained for if empty. A size that was not trained gets
    /// interpolated batch norms.
    pub sizes: Vec<u32>,
    /// Where it computes.
    pub device: DeviceChoice,
    /// With which numbers. `Auto` is as the network was trained.
    pub precision: Precision,
    /// Speed or memory.
    pub folding: Folding,
}

/// At which size an image is classified. `200.into()` is a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// The largest size.
    None,
    /// This size, in pixels.
    Size(u32),
    /// The largest size whose answer takes at most so many milliseconds on this machine, decoding not
    /// counted; the smallest if none does. Measured at the first such call, or by [`RsNet::measure`].
    Milliseconds(f64),
    /// The largest size with at most so many multiply-adds an image; the smallest if none has so few.
    MultiplyAdds(u64),
}

impl From<u32> for Budget {
    fn from(size: u32) -> Self {
        Budget::Size(size)
    }
}

/// The classes of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The size it was classified at, in pixels.
    pub size: u32,
    /// The most probable first.
    pub predictions: Vec<Prediction>,
}

/// A trained RS-Net: its weights once, the batch norms of every size, and how images become its input.
/// Threads may share it. Switching from one size to another costs nothing.
#[derive(Debug)]
pub struct RsNet {
    runtime: Runtime,
    preprocess: Preprocess,
    /// From the largest to the smallest.
    sizes: Vec<u32>,
    /// For each of `sizes`, once measured.
    times: Mutex<Option<Vec<Duration>>>,
}

impl RsNet {
    /// Loads a checkpoint. It sets nothing for the process: on GPUs libtorch multiplies float32 as TF32 unless
    /// [`apply`](rsflow_model::nn::compute::apply) says otherwise, which the command `rsflow predict` does.
    ///
    /// # Errors
    /// The file cannot be read or is damaged; a size that is too small for the network; a device that is
    /// not there.
    pub fn open(checkpoint: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let checkpoint = Checkpoint::open(checkpoint.as_ref())?;
        let metadata = checkpoint.metadata();
        let sizes = match options.sizes.as_slice() {
            [] => &metadata.resolutions,
            sizes => sizes,
        };
        let compute = ExecConfig::resolve(options.device, options.precision, metadata.hints()?)?;
        let compute = compute.with_kernels(Fused::Auto);
        let sizes = sizes.iter().map(|&size| (size, metadata.norms_for(size)));
        let sizes: Vec<(u32, NormsFrom)> = sizes.collect();
        // What an older checkpoint does not say is as in the reference.
        let preprocess = metadata.image_input(|_| None).preprocess;
        Self::load(&checkpoint, &sizes, preprocess, compute, options.folding)
    }

    /// The same with batch norms and preprocessing of the caller's choice.
    ///
    /// # Errors
    /// As [`RsNet::open`].
    pub fn load(
        checkpoint: &Checkpoint,
        sizes: &[(u32, NormsFrom)],
        preprocess: Preprocess,
        compute: ExecConfig,
        folding: Folding,
    ) -> Result<Self> {
        ensure!(!sizes.is_empty(), "there must be at least one size");
        let runtime = Runtime::open(checkpoint, sizes, compute, folding)?;
        let mut sizes = runtime.sizes().to_vec();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        Ok(RsNet {
            runtime,
            preprocess,
            sizes,
            times: Mutex::new(None),
        })
    }

    /// The network without files: pixels in, logits out.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The loaded sizes in pixels, from the largest to the smallest.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// How image files become pixels.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The multiply-adds of one image at a size; `None` if it is not loaded.
    pub fn multiply_adds(&self, size: u32) -> Option<u64> {
        let mut costs = self.runtime.costs().iter();
        let cost = costs.find(|cost| cost.resolution == size)?;
        Some(cost.multiply_adds)
    }

    /// The pixels of an image file (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM) at a size, RGB, uint8
    /// `[size, size, 3]`, made as in the validation of its training.
    ///
    /// # Errors
    /// Damage, with the byte where it is; a format that is not supported; too many pixels.
    pub fn pixels(&self, file: &[u8], size: u32) -> Result<Vec<u8>> {
        Ok(preprocess::pixels(&self.preprocess, file, size)?)
    }

    /// The `top` most probable classes of an image file in memory.
    ///
    /// # Errors
    /// As [`RsNet::pixels`] and [`Runtime::logits`].
    pub fn classify(&self, file: &[u8], at: impl Into<Budget>, top: usize) -> Result<Answer> {
        let size = self.size_within(at.into())?;
        let pixels = self.pixels(file, size)?;
        let logits = self.runtime.logits(Images::Bytes(&pixels), size)?;
        let predictions = self.runtime.top(&logits, top);
        Ok(Answer { size, predictions })
    }

    /// The same of a file on the disk.
    ///
    /// # Errors
    /// As [`RsNet::classify`]; the file cannot be read.
    pub fn classify_file(
        &self,
        path: impl AsRef<Path>,
        at: impl Into<Budget>,
        top: usize,
    ) -> Result<Answer> {
        let path = path.as_ref();
        let file = input_file::read(path, MAX_IMAGE_BYTES)
            .with_context(|| format!("cannot read {}", path.shown()))?;
        let answer = self.classify(&file, at, top);
        answer.with_context(|| path.shown().to_string())
    }

    /// An embedding of an image file in memory: what the classifier gets of it, at a size. Images that look alike
    /// to the network have embeddings with a cosine near 1.
    ///
    /// # Errors
    /// As [`RsNet::classify`].
    pub fn embed(&self, file: &[u8], at: impl Into<Budget>) -> Result<Vec<f32>> {
        let size = self.size_within(at.into())?;
        let pixels = self.pixels(file, size)?;
        self.runtime.features(Images::Bytes(&pixels), size)
    }

    /// The size that a budget allows.
    ///
    /// # Errors
    /// A size that is not loaded; measuring failed.
    pub fn size_within(&self, budget: Budget) -> Result<u32> {
        let fits: Box<dyn Fn(usize, u32) -> bool> = match budget {
            Budget::None => Box::new(|_, _| true),
            Budget::Size(size) => {
                ensure!(
                    self.sizes.contains(&size),
                    "the size {size} is not loaded; there are {:?}",
                    self.sizes
                );
                return Ok(size);
            }
            Budget::Milliseconds(most) => {
                let times = self.measure()?;
                Box::new(move |at, _| times[at].as_secs_f64() * 1e3 <= most)
            }
            Budget::MultiplyAdds(most) => {
                Box::new(move |_, size| self.multiply_adds(size).is_some_and(|n| n <= most))
            }
        };
        let mut sizes = self.sizes.iter().copied().enumerate();
        let first = sizes.find(|&(at, size)| fits(at, size));
        let size = first.map(|(_, size)| size).or(self.sizes.last().copied());
        size.context("no size is loaded")
    }

    /// How long one image takes at each of [`RsNet::sizes`], from its pixels to its logits: the median of
    /// several passes after a warm-up. Measured once.
    ///
    /// # Errors
    /// The device fails.
    pub fn measure(&self) -> Result<Vec<Duration>> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = &*times {
            return Ok(times.clone());
        }
        let time = |&size| latency::pass_time(&self.runtime, size, 1, Duration::from_millis(200));
        let measured = self.sizes.iter().map(time).collect::<Result<Vec<_>>>()?;
        *times = Some(measured.clone());
        Ok(measured)
    }
}
