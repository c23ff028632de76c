//! The speed of a network alone: training steps and inference, on images that are already on the
//! device.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_graph::counted;
use tch::{Device, Kind, Tensor};

use crate::dist::reducer::Exchange;
use crate::nn::compute::ExecConfig;
use crate::nn::layers::cost;
use crate::nn::native;
use crate::nn::replay::{CudaGraph, Inference};
use crate::nn::switchable::SwitchableNetwork;
use crate::train::average::RunningAverage;
use crate::train::drawn::Drawn;
use crate::train::optimizer::RunningOptimizer;
use crate::train::steps::Steps;

/// A network with random weights, and its training step.
#[derive(Debug)]
pub struct Benchmark {
    pub(super) compute: ExecConfig,
    pub(super) net: SwitchableNetwork,
    pub(super) steps: Steps,
    pub(super) cuda_graph: CudaGraph,
    pub(super) lr: f64,
    /// What every step draws.
    pub(super) inputs: Drawn,
    /// Follows the network.
    pub(super) average: Option<RunningAverage>,
    /// What its steps exchange with other processes.
    pub(super) exchange: Exchange,
    /// Whether gradients are exchanged during the backward pass.
    pub(super) overlaps: bool,
    /// `None` once inference was measured: the network is frozen then.
    pub(super) optimizer: Option<RunningOptimizer>,
}

/// The times of something that was repeated.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Median duration of one iteration.
    pub median: Duration,
    /// Iterations, without the warm-up.
    pub iterations: usize,
    /// When they began and ended.
    pub period: (Instant, Instant),
    /// Peak memory in bytes: of all tensors on a GPU; on the CPU of the process since it started,
    /// `None` where the system does not report it.
    pub peak_memory: Option<u64>,
}

impl Benchmark {
    /// The network; frozen once inference was measured.
    pub fn net(&self) -> &SwitchableNetwork {
        &self.net
    }

    /// Device, precision and memory format.
    pub fn compute(&self) -> ExecConfig {
        self.compute
    }

    /// The same as text, with the number of threads on the CPU.
    pub fn computes(&self) -> String {
        match self.compute.device {
            Device::Cpu => {
                let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
                format!("{}, {}", self.compute, counted(threads, "thread"))
            }
            _ => self.compute.to_string(),
        }
    }

    /// Multiply-adds of a training step for one image: forward at all resolutions that it trains, and twice as
    /// much backward.
    pub fn step_multiply_adds(&self) -> u64 {
        let costs = self.net.summary().resolutions.iter();
        3 * self.of_a_step(costs.map(|cost| cost.multiply_adds))
    }

    /// The mean over steps of the sum over the resolutions that each trains.
    fn of_a_step(&self, values: impl Iterator<Item = u64>) -> u64 {
        let shares = self.inputs.sampling.shares(self.net.resolutions());
        let values = values
            .zip(shares)
            .map(|(value, share)| value as f64 * share);
        values.sum::<f64>() as u64
    }

    /// Bytes that a training step reads and writes for one image, by
    /// [`step_traffic`](crate::nn::layers::cost::step_traffic).
    ///
    /// # Errors
    /// As [`Network::layers`](crate::nn::networks::Network::layers).
    pub fn step_bytes(&self) -> Result<u64> {
        let layers = self.net.network().layers(self.net.classes())?;
        let resolutions = self.net.resolutions().iter();
        let values = resolutions.map(|&resolution| cost::step_traffic(&layers, resolution));
        Ok(self.of_a_step(values) * self.compute.compute_dtype.elt_size_in_bytes() as u64)
    }

    /// Has the next steps recorded anew, if steps are replayed as a CUDA graph.
    pub fn forget_recorded_steps(&mut self) {
        self.steps.forget_recorded();
    }

    /// Measures training steps of `batch` images: at least three, for at least `time`.
    ///
    /// # Errors
    /// The device fails or is out of memory; inference was measured already.
    pub fn steps(&mut self, batch: u64, time: Duration) -> Result<Measured> {
        let (images, labels) = self.batch(batch)?;
        let (steps, lr) = (&mut self.steps, self.lr);
        let (net, compute) = (&self.net, self.compute);
        let (inputs_of, average) = (self.inputs, &mut self.average);
        let optimizer = self.optimizer.as_mut();
        let optimizer = optimizer.context("steps are measured before inference")?;
        let mut done = 0;
        measure(compute, time, 3, || {
            let inputs = {
                let images = images.iter().map(Tensor::shallow_clone).collect();
                inputs_of.draw(net, images, labels.shallow_clone(), 0, (done, 0))?
            };
            done += 1;
            steps.step(net, optimizer, &inputs, lr, None)?;
            average
                .as_mut()
                .map_or(Ok(()), |average| average.update(net, done))
        })
    }

    /// Measures forward passes of `batch` images at the resolution at `position`: at least three, for
    /// at least `time`. Freezes the network.
    ///
    /// # Errors
    /// The device fails or is out of memory; there is no such resolution.
    pub fn inference(&mut self, position: usize, batch: u64, time: Duration) -> Result<Measured> {
        let side = self.net.resolutions().get(position).copied();
        let images = self.images(batch, side.context("no such resolution")?)?;
        if self.optimizer.take().is_some() {
            self.net.freeze()?;
        }
        let mut inference = Inference::new(&self.net, self.cuda_graph);
        measure(self.compute, time, 3, || {
            let images = std::slice::from_ref(&images);
            inference.logits(&self.net, &[position], images).map(drop)
        })
    }

    /// Random images of all resolutions, and labels.
    pub(super) fn batch(&self, batch: u64) -> Result<(Vec<Tensor>, Tensor)> {
        let sides = self.net.resolutions().iter();
        let images = sides.map(|&side| self.images(batch, side));
        let count = i64::try_from(batch).context("a batch of that size")?;
        let classes = i64::from(self.net.classes());
        let labels = Tensor::f_randint(classes, [count], (Kind::Int64, self.compute.device))?;
        Ok((images.collect::<Result<_>>()?, labels))
    }

    fn images(&self, batch: u64, side: u32) -> Result<Tensor> {
        let (count, side) = (i64::try_from(batch)?, i64::from(side));
        let options = (Kind::Float, self.compute.device);
        let images = Tensor::f_rand([count, 3, side, side], options)?;
        self.compute
            .to_memory_format(images.f_to_kind(self.compute.compute_dtype)?)
    }
}

/// The device's peak rate: multiply-adds per second of a large matrix product in the dtype that the
/// network multiplies in.
///
/// # Errors
/// The device fails or is out of memory.
pub fn peak(compute: ExecConfig, time: Duration) -> Result<f64> {
    let side: i64 = match compute.device {
        Device::Cuda(_) => 8192,
        _ => 1024,
    };
    let options = (Kind::Float, compute.device);
    let factor = || Tensor::f_rand([side, side], options)?.f_to_kind(compute.compute_dtype);
    let (a, b) = (factor()?, factor()?);
    let measured = measure(compute, time, 5, || Ok(a.f_matmul(&b).map(drop)?))?;
    Ok((side as f64).powi(3) / measured.median.as_secs_f64())
}

/// The rate at which the device's memory is read and written, in bytes per second: that of a large copy.
///
/// # Errors
/// The device fails or is out of memory.
pub fn memory_rate(compute: ExecConfig, time: Duration) -> Result<f64> {
    let bytes: i64 = match compute.device {
        Device::Cuda(_) => 1 << 30,
        _ => 1 << 28,
    };
    let options = (Kind::Uint8, compute.device);
    let source = Tensor::f_ones([bytes], options)?;
    let mut target = Tensor::f_zeros([bytes], options)?;
    let measured = measure(compute, time, 5, || {
        Ok(target.f_copy_(&source).map(drop)?)
    })?;
    Ok(2.0 * bytes as f64 / measured.median.as_secs_f64())
}

/// Repeats `act` for at least `time` and at least `least` times, after two iterations of warm-up.
fn measure(
    compute: ExecConfig,
    time: Duration,
    least: usize,
    mut act: impl FnMut() -> Result<()>,
) -> Result<Measured> {
    let gpu = match compute.device {
        Device::Cuda(gpu) => Some(gpu),
        _ => None,
    };
    let mut once = || -> Result<Duration> {
        let began = Instant::now();
        act()?;
        gpu.map_or(Ok(()), native::synchronize)?;
        Ok(began.elapsed())
    };
    gpu.map(native::take_peak_memory).transpose()?;
    for _ in 0..2 {
        once()?;
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < least || began.elapsed() < time {
        times.push(once()?);
    }
    times.sort();
    Ok(Measured {
        median: times[times.len() / 2],
        iterations: times.len(),
        period: (began, Instant::now()),
        peak_memory: match gpu {
            Some(gpu) => Some(native::take_peak_memory(gpu)?.0),
            None => peak_of_process(),
        },
    })
}

/// Peak resident memory of this process in bytes; reported on Linux only.
fn peak_of_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
