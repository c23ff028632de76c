//! A batch's way onto the device: bytes become normalized floats there, not before.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use rsflow_graph::Batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::compute::Compute;
use crate::native::Uploads;

/// How the channels red, green and blue are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Subtracted, in 0..1.
    pub mean: [f64; 3],
    /// Divided by, above 0.
    pub std: [f64; 3],
}

/// As a recipe has it.
impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tuple = |[red, green, blue]: [f64; 3]| format!("({red}, {green}, {blue})");
        write!(f, "(mean: {}, std: {})", tuple(self.mean), tuple(self.std))
    }
}

/// The order of the colours in the images that a network sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV has them.
    Bgr,
}

/// How many of the machine's `cores` computing keeps busy: `threads` on the CPU, all if it is left
/// out; on a GPU the one that launches its kernels.
pub(crate) fn cores_of(device: Device, threads: Option<usize>, cores: usize) -> usize {
    match device {
        Device::Cpu => threads.unwrap_or(cores),
        _ => 1,
    }
}

/// Where batches go, and what is done to their values.
#[derive(Debug)]
pub struct Feed {
    compute: Compute,
    /// Mean and standard deviation, `[1, 3, 1, 1]`, in the order of the channels.
    normalize: Option<(Tensor, Tensor)>,
    channels: Channels,
    /// Where the device is a GPU.
    on_way: Mutex<Option<OnWay>>,
}

impl Feed {
    /// A feed of a network that computes so.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(compute: Compute, normalize: Option<Normalize>, channels: Channels) -> Result<Self> {
        let by_channel = |values: [f64; 3]| -> Result<Tensor> {
            let mut values = values.map(|value| value as f32);
            if channels == Channels::Bgr {
                values.reverse();
            }
            Ok(Tensor::f_from_slice(&values)?
                .f_reshape([1, 3, 1, 1])?
                .f_to_device(compute.device)?)
        };
        let normalize = match normalize {
            None => None,
            Some(by) => Some((by_channel(by.mean)?, by_channel(by.std)?)),
        };
        let on_way = match compute.device {
            Device::Cuda(gpu) => Some(OnWay {
                uploads: Uploads::new(gpu)?,
                batch: None,
            }),
            _ => None,
        };
        Ok(Feed {
            compute,
            normalize,
            channels,
            on_way: Mutex::new(on_way),
        })
    }

    /// A batch on the device: for each of its resolutions the images, see [`Feed::pixels`], and the
    /// labels `[batch]`, int64, all of which are below `classes`.
    ///
    /// On a GPU this waits neither for the copies nor for what is computed: both go on at once.
    ///
    /// # Errors
    /// A label that is not; what libtorch says.
    pub fn batch(&self, batch: &Batch, classes: u32) -> Result<(Vec<Tensor>, Tensor)> {
        let labels = batch.labels();
        if let Some(label) = labels
            .iter()
            .find(|&&label| !(0..i64::from(classes)).contains(&label))
        {
            bail!("the label {label} is not one of the {classes} classes");
        }
        let mut on_way = self.on_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_way) = on_way.as_mut() {
            on_way.take(batch)?;
        }
        // First: their memory is not pinned, and a copy from there waits for those before it.
        let labels_there = match on_way.as_mut() {
            None => Tensor::f_from_slice(labels)?,
            // A copy of the copy, which belongs to the stream that computes. The first one belongs to
            // both; to free it after an error of the GPU would end the process.
            Some(on_way) => on_way.copy(labels, &[labels.len() as i64])?.f_to_device_(
                self.compute.device,
                Kind::Int64,
                true,
                true,
            )?,
        };
        let images = batch
            .resolutions()
            .enumerate()
            .map(|(position, side)| {
                let (bytes, shape) = (batch.pixels(position), shape(labels.len(), side));
                let bytes = match on_way.as_mut() {
                    None => Tensor::f_from_data_size(bytes, &shape, Kind::Uint8)?,
                    Some(on_way) => on_way.copy(bytes, &shape)?,
                };
                self.normalized(bytes)
            })
            .collect::<Result<_>>()?;
        Ok((images, labels_there))
    }

    /// `count` images of `side` x `side` pixels: uint8 `[count, side, side, 3]` becomes
    /// `[count, 3, side, side]`, value / 255, normalized in float32, in the order of the channels,
    /// then of the kind that is multiplied.
    ///
    /// # Errors
    /// Another number of bytes; what libtorch says.
    pub fn pixels(&self, bytes: &[u8], count: usize, side: u32) -> Result<Tensor> {
        let shape = shape(count, side);
        ensure!(
            bytes.len() as i64 == shape.iter().product::<i64>(),
            "{count} images of {side} x {side} pixels are not {} bytes",
            bytes.len()
        );
        let bytes = Tensor::f_from_data_size(bytes, &shape, Kind::Uint8)?;
        self.normalized(bytes.f_to_device(self.compute.device)?)
    }

    fn normalized(&self, mut bytes: Tensor) -> Result<Tensor> {
        if self.channels == Channels::Bgr {
            bytes = bytes.f_flip([3])?;
        }
        let mut bytes = bytes.f_permute([0, 3, 1, 2])?;
        if !self.compute.channels_last {
            bytes = bytes.f_contiguous()?;
        }
        let images = bytes.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        let images = match &self.normalize {
            None => images,
            Some((mean, std)) => images.f_sub(mean)?.f_div(std)?,
        };
        Ok(images.f_to_kind(self.compute.multiply)?)
    }
}

fn shape(count: usize, side: u32) -> [i64; 4] {
    let side = i64::from(side);
    [count as i64, side, side, 3]
}

/// The batch that is being copied to a GPU, whose memory has to stay as it is.
#[derive(Debug)]
struct OnWay {
    uploads: Uploads,
    batch: Option<Batch>,
}

impl OnWay {
    /// The next batch. The copies of the one before are done by now, unless there was nothing to
    /// compute.
    fn take(&mut self, batch: &Batch) -> Result<()> {
        self.uploads.wait()?;
        self.batch = Some(batch.clone());
        Ok(())
    }

    /// Begins to copy a part of the batch.
    #[allow(unsafe_code)]
    fn copy<T: Element>(&mut self, values: &[T], shape: &[i64]) -> Result<Tensor> {
        // SAFETY: the values are those of the batch, which is held until the copies are done: the next
        // one takes its place after `wait`, and dropping `uploads`, the first field, waits.
        unsafe { self.uploads.begin(values, shape) }
    }
}
