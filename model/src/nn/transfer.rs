//! Images from host memory to the device, where bytes become normalized floats.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::nn::compute::ExecConfig;
use crate::nn::kernels::PixelTable;
use crate::nn::native::CopyStream;

/// Normalization of the channels red, green and blue: (x - mean) / std.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Subtracted, in 0..1.
    pub mean: [f64; 3],
    /// Divided by, above 0.
    pub std: [f64; 3],
}

/// RON, as in a recipe.
impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tuple = |[red, green, blue]: [f64; 3]| format!("({red}, {green}, {blue})");
        write!(f, "(mean: {}, std: {})", tuple(self.mean), tuple(self.std))
    }
}

/// The order of the channels in a network's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV has them.
    Bgr,
}

/// A batch in host memory.
pub trait HostBatch: fmt::Debug + Send {
    /// The class of each image.
    fn labels(&self) -> &[i64];

    /// For each resolution its side in pixels and its RGB images, uint8 `[batch, side, side, 3]`.
    /// The slices must not move while the batch lives, also if it is moved or cloned.
    fn images(&self) -> Vec<(u32, &[u8])>;
}

/// Copies images to a device and normalizes them there.
#[derive(Debug)]
pub struct DeviceTransfer {
    compute: ExecConfig,
    /// Mean and standard deviation, `[1, 3, 1, 1]`, in the order of the channels.
    normalize: Option<(Tensor, Tensor)>,
    channels: Channels,
    /// On the CPU in channels last.
    table: Option<PixelTable>,
    /// `None` on the CPU.
    in_flight: Mutex<Option<InFlightCopy>>,
}

impl DeviceTransfer {
    /// To the device of `compute`, in its compute dtype and memory format.
    pub fn new(
        compute: ExecConfig,
        normalize: Option<Normalize>,
        channels: Channels,
    ) -> Result<Self> {
        let by_channel = |values: [f64; 3]| -> Result<Tensor> {
            let mut values = values.map(|value| value as f32);
            if channels == Channels::Bgr {
                values.reverse();
            }
            Ok(Tensor::f_from_slice(&values)?
                .f_reshape([1, 3, 1, 1])?
                .f_to_device(compute.device)?)
        };
        let on_cpu = compute.device == Device::Cpu && compute.channels_last;
        let table = on_cpu.then(|| pixel_table(normalize, channels));
        let normalize = match normalize {
            None => None,
            Some(by) => Some((by_channel(by.mean)?, by_channel(by.std)?)),
        };
        let in_flight = match compute.device {
            Device::Cuda(gpu) => Some(InFlightCopy {
                stream: CopyStream::new(gpu)?,
                batch: None,
            }),
            _ => None,
        };
        Ok(DeviceTransfer {
            compute,
            normalize,
            channels,
            table,
            in_flight: Mutex::new(in_flight),
        })
    }

    /// A batch on the device: the images of each resolution, `[batch, 3, s, s]` as from
    /// [`DeviceTransfer::pixels`], and the labels, int64 `[batch]`.
    ///
    /// On a GPU it returns before the copies are done; they overlap with kernels.
    ///
    /// # Errors
    /// A label outside `0..classes`; a wrong number of bytes.
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

    /// Images uint8 `[count, side, side, 3]` as `[count, 3, side, side]` in the compute dtype:
    /// value / 255, normalized, both in float32, with the channels in the network's order.
    ///
    /// # Errors
    /// A wrong number of bytes.
    pub fn pixels(&self, bytes: &[u8], count: usize, side: u32) -> Result<Tensor> {
        let shape = shape(bytes, count, side)?;
        if let Some(table) = &self.table {
            let images = table.apply(bytes, count, side)?;
            return Ok(images.f_to_kind(self.compute.compute_dtype)?);
        }
        let bytes = Tensor::f_from_data_size(bytes, &shape, Kind::Uint8)?;
        self.normalized(bytes.f_to_device(self.compute.device)?)
    }

    /// Images that are normalized already, float32 `[count, 3, side, side]` in the network's order of channels,
    /// in the compute dtype and memory format.
    ///
    /// # Errors
    /// A wrong number of values.
    pub fn normalized_values(&self, values: &[f32], count: usize, side: u32) -> Result<Tensor> {
        let side = i64::from(side);
        let shape = [count as i64, 3, side, side];
        ensure!(
            values.len() as i64 == shape.iter().product::<i64>(),
            "{count} images of {side} x {side} pixels need {} values, not {}",
            shape.iter().product::<i64>(),
            values.len()
        );
        let images = Tensor::f_from_slice(values)?.f_reshape(shape)?;
        let images = images.f_to_device(self.compute.device)?;
        self.compute
            .to_memory_format(images.f_to_kind(self.compute.compute_dtype)?)
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
        Ok(images.f_to_kind(self.compute.compute_dtype)?)
    }
}

/// The normalized value of every byte, by the operations that libtorch does, in float32.
fn pixel_table(normalize: Option<Normalize>, channels: Channels) -> PixelTable {
    let order = match channels {
        Channels::Rgb => [0, 1, 2],
        Channels::Bgr => [2, 1, 0],
    };
    let values = order.map(|channel: usize| {
        std::array::from_fn(|byte| {
            let value = byte as f32 / 255.0;
            normalize.map_or(value, |by| {
                (value - by.mean[channel] as f32) / by.std[channel] as f32
            })
        })
    });
    PixelTable {
        values,
        order: order.map(|channel| channel as i32),
    }
}

/// `[count, side, side, 3]`. Checks the number of bytes, which libtorch does not: it would read
/// past their end.
fn shape(bytes: &[u8], count: usize, side: u32) -> Result<[i64; 4]> {
    let shape = [count as i64, side.into(), side.into(), 3];
    ensure!(
        bytes.len() as i64 == shape.iter().product::<i64>(),
        "{count} images of {side} x {side} pixels need {} bytes, not {}",
        shape.iter().product::<i64>(),
        bytes.len()
    );
    Ok(shape)
}

/// The copies of one batch, and the batch, whose memory they read.
#[derive(Debug)]
struct InFlightCopy {
    stream: CopyStream,
    batch: Option<Box<dyn HostBatch>>,
}

impl InFlightCopy {
    /// Starts the copies of a batch, after those of the previous one, which have usually finished
    /// during its computation.
    #[allow(unsafe_code)]
    fn begin(
        &mut self,
        to: &DeviceTransfer,
        batch: Box<dyn HostBatch>,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        self.stream.wait()?;
        let batch = self.batch.insert(batch);
        let labels = batch.labels();
        let count = labels.len();
        // SAFETY, here and below: the slices belong to the batch, which is kept until the copies
        // are done: the next batch replaces it after `wait`, and dropping `stream`, the first
        // field, waits.
        //
        // Labels first: their memory is not pinned, and a copy from pageable memory waits for
        // earlier copies. They are copied once more, to a tensor of the compute stream: freeing a
        // tensor of two streams after a CUDA error would abort the process.
        let labels = unsafe { self.stream.copy(labels, &[count as i64]) }?.f_to_device_(
            to.compute.device,
            Kind::Int64,
            true,
            true,
        )?;
        let images = batch.images().into_iter().map(|(side, bytes)| {
            let shape = shape(bytes, count, side)?;
            // Normalized at once, before the next copy starts: a kernel waits for all earlier
            // copies.
            to.normalized(unsafe { self.stream.copy(bytes, &shape) }?)
        });
        Ok((images.collect::<Result<_>>()?, labels))
    }
}
