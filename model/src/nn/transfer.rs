//! Images from host memory onto the device: bytes become normalized floats there, not before.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::nn::compute::Compute;
use crate::nn::native::Uploads;

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

/// Images and labels in host memory: what [`DeviceTransfer::batch`] copies.
pub trait HostBatch: fmt::Debug + Send {
    /// The class of each image.
    fn labels(&self) -> &[i64];

    /// For each resolution its side in pixels and uint8 RGB values, `[batch, side, side, 3]`. The
    /// slices stay where they are for as long as the batch lives.
    fn images(&self) -> Vec<(u32, &[u8])>;
}

/// Copies images to a device and normalizes them there.
#[derive(Debug)]
pub struct DeviceTransfer {
    compute: Compute,
    /// Mean and standard deviation, `[1, 3, 1, 1]`, in the order of the channels.
    normalize: Option<(Tensor, Tensor)>,
    channels: Channels,
    /// Where the device is a GPU.
    in_flight: Mutex<Option<InFlightCopy>>,
}

impl DeviceTransfer {
    /// To the device that `compute` names, in its dtype and memory format.
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
        let in_flight = match compute.device {
            Device::Cuda(gpu) => Some(InFlightCopy {
                uploads: Uploads::new(gpu)?,
                batch: None,
            }),
            _ => None,
        };
        Ok(DeviceTransfer {
            compute,
            normalize,
            channels,
            in_flight: Mutex::new(in_flight),
        })
    }

    /// A batch on the device: for each of its resolutions the images, see [`DeviceTransfer::pixels`],
    /// and the labels `[batch]`, int64.
    ///
    /// On a GPU this waits neither for the copies nor for the kernels: both overlap.
    ///
    /// # Errors
    /// A label outside `0..classes`; another number of bytes than the resolutions need; libtorch's
    /// errors.
    pub fn batch<B>(&self, batch: &B, classes: u32) -> Result<(Vec<Tensor>, Tensor)>
    where
        B: HostBatch + Clone + 'static,
    {
        let classes = i64::from(classes);
        let mut labels = batch.labels().iter();
        if let Some(label) = labels.find(|label| !(0..classes).contains(label)) {
            bail!("the label {label} is not one of the {classes} classes");
        }
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match in_flight.as_mut() {
            Some(in_flight) => in_flight.begin(self, Box::new(batch.clone())),
            None => self.on_cpu(batch),
        }
    }

    fn on_cpu(&self, batch: &impl HostBatch) -> Result<(Vec<Tensor>, Tensor)> {
        let labels = batch.labels();
        let images = batch.images().into_iter();
        let images = images.map(|(side, bytes)| self.pixels(bytes, labels.len(), side));
        Ok((
            images.collect::<Result<_>>()?,
            Tensor::f_from_slice(labels)?,
        ))
    }

    /// `count` images of `side` x `side` pixels: uint8 `[count, side, side, 3]` becomes
    /// `[count, 3, side, side]`, value / 255, normalized in float32, in the order of the channels,
    /// then of the kind that is multiplied.
    ///
    /// # Errors
    /// Another number of bytes; what libtorch says.
    pub fn pixels(&self, bytes: &[u8], count: usize, side: u32) -> Result<Tensor> {
        let shape = shape(bytes, count, side)?;
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

/// `[count, side, side, 3]`, if there are as many bytes: libtorch would read beyond them.
fn shape(bytes: &[u8], count: usize, side: u32) -> Result<[i64; 4]> {
    let shape = [count as i64, side.into(), side.into(), 3];
    ensure!(
        bytes.len() as i64 == shape.iter().product::<i64>(),
        "{count} images of {side} x {side} pixels are not {} bytes",
        bytes.len()
    );
    Ok(shape)
}

/// Copies to a GPU, and the batch whose memory they read.
#[derive(Debug)]
struct InFlightCopy {
    uploads: Uploads,
    batch: Option<Box<dyn HostBatch>>,
}

impl InFlightCopy {
    /// Begins to copy a batch. The copies of the one before are done by now, unless there was nothing
    /// to compute.
    #[allow(unsafe_code)]
    fn begin(
        &mut self,
        to: &DeviceTransfer,
        batch: Box<dyn HostBatch>,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        self.uploads.wait()?;
        let batch = self.batch.insert(batch);
        let labels = batch.labels();
        let count = labels.len();
        // SAFETY, here and below: the values are those of the batch, which is held until the copies are
        // done: the next one takes its place after `wait`, and dropping `uploads`, the first field, waits.
        //
        // Labels first: their memory is not pinned, and a copy from there waits for those before it.
        // A copy of the copy, which belongs to the stream that computes. The first one belongs to both;
        // to free it after an error of the GPU would end the process.
        let labels = unsafe { self.uploads.begin(labels, &[count as i64]) }?.f_to_device_(
            to.compute.device,
            Kind::Int64,
            true,
            true,
        )?;
        let images = batch.images().into_iter().map(|(side, bytes)| {
            let shape = shape(bytes, count, side)?;
            // Normalized at once: a kernel waits for the copies that began before it.
            to.normalized(unsafe { self.uploads.begin(bytes, &shape) }?)
        });
        Ok((images.collect::<Result<_>>()?, labels))
    }
}
