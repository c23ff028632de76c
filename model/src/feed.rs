//! A batch's way onto the device: bytes become normalized floats there, not before.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::Batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

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
    device: Device,
    /// Mean and standard deviation, `[1, 3, 1, 1]`, in the order of the channels.
    normalize: Option<(Tensor, Tensor)>,
    channels: Channels,
}

impl Feed {
    /// A feed to that device.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(device: Device, normalize: Option<Normalize>, channels: Channels) -> Result<Self> {
        let by_channel = |values: [f64; 3]| -> Result<Tensor> {
            let mut values = values.map(|value| value as f32);
            if channels == Channels::Bgr {
                values.reverse();
            }
            Ok(Tensor::f_from_slice(&values)?
                .f_reshape([1, 3, 1, 1])?
                .f_to_device(device)?)
        };
        let normalize = match normalize {
            None => None,
            Some(by) => Some((by_channel(by.mean)?, by_channel(by.std)?)),
        };
        Ok(Feed {
            device,
            normalize,
            channels,
        })
    }

    /// The images of the `position`-th resolution of a batch; see [`Feed::pixels`].
    ///
    /// # Errors
    /// There is no such resolution; what libtorch says.
    pub fn images(&self, batch: &Batch, position: usize) -> Result<Tensor> {
        let side = batch
            .resolutions()
            .nth(position)
            .context("the batch has fewer resolutions than the network")?;
        self.pixels(batch.pixels(position), batch.labels().len(), side)
    }

    /// `count` images of `side` x `side` pixels: uint8 `[count, side, side, 3]` becomes float
    /// `[count, 3, side, side]`, value / 255, normalized, in the order of the channels.
    ///
    /// # Errors
    /// Another number of bytes; what libtorch says.
    pub fn pixels(&self, bytes: &[u8], count: usize, side: u32) -> Result<Tensor> {
        let side = i64::from(side);
        let shape = [count as i64, side, side, 3];
        let bytes = Tensor::f_from_data_size(bytes, &shape, Kind::Uint8)?;
        let mut bytes = bytes.f_to_device(self.device)?;
        if self.channels == Channels::Bgr {
            bytes = bytes.f_flip([3])?;
        }
        let images = bytes
            .f_permute([0, 3, 1, 2])?
            .f_contiguous()?
            .f_to_kind(Kind::Float)?
            .f_div_scalar_(255.0)?;
        Ok(match &self.normalize {
            None => images,
            Some((mean, std)) => images.f_sub(mean)?.f_div(std)?,
        })
    }

    /// The labels `[batch]`, int64. All are below `classes`.
    ///
    /// # Errors
    /// One is not; what libtorch says.
    pub fn labels(&self, batch: &Batch, classes: u32) -> Result<Tensor> {
        let labels = batch.labels();
        if let Some(label) = labels
            .iter()
            .find(|&&label| !(0..i64::from(classes)).contains(&label))
        {
            ensure!(
                false,
                "the label {label} is not one of the {classes} classes"
            );
        }
        Ok(Tensor::f_from_slice(labels)?.f_to_device(self.device)?)
    }
}
