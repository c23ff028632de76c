//! The speed of a recipe's network alone: training steps and inference, on images that are on the
//! device already.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_graph::Schema;
use tch::{Device, Kind, Tensor};

use super::{Trainer, resolutions};
use crate::nn::compute::Compute;
use crate::nn::layers::Mode;
use crate::nn::native;
use crate::nn::parameters::Start;
use crate::nn::rs_net::RsNet;
use crate::train::optimizer::RunningOptimizer;

/// A network with random weights, ready to be measured.
#[derive(Debug)]
pub struct Benchmark {
    settings: Trainer,
    compute: Compute,
    net: RsNet,
    /// Until inference is measured.
    optimizer: Option<RunningOptimizer>,
}

/// How long something took, over and over.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The median, of which it is.
    pub median: Duration,
    /// How often it was done, warm-up not counted.
    pub times: usize,
    /// The most memory, in bytes: that tensors had at once on a GPU; on the CPU that the process had
    /// until then, where the system tells.
    pub peak_memory: Option<u64>,
}

impl Trainer {
    /// Makes its network for measuring; `incoming` is what the plan knows of its inputs.
    ///
    /// # Errors
    /// No `train` comes in; the device cannot be used; what libtorch says.
    pub fn benchmark(&self, incoming: &[(&'static str, Schema)]) -> Result<Benchmark> {
        let compute = self.compute()?;
        compute.prepare_process(self.threads);
        let net = self.network(compute, &resolutions(incoming)?, Start::Random { seed: 0 })?;
        Ok(Benchmark {
            optimizer: Some(self.optimizer.start(net.parameters())?),
            settings: self.clone(),
            compute,
            net,
        })
    }
}

impl Benchmark {
    /// The network.
    pub fn net(&self) -> &RsNet {
        &self.net
    }

    /// What it computes on, and how.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The same in words, with the CPU's threads.
    pub fn computes(&self) -> String {
        match self.compute.device {
            Device::Cpu => format!("{}, {} threads", self.compute, tch::get_num_threads()),
            _ => self.compute.to_string(),
        }
    }

    /// Multiply-adds of a training step for one image: forward at all resolutions, and twice as much
    /// backward.
    pub fn step_multiply_adds(&self) -> u64 {
        let costs = self.net.summary().resolutions.iter();
        3 * costs.map(|cost| cost.multiply_adds).sum::<u64>()
    }

    /// Training steps with `batch` images, for some time and at least three.
    ///
    /// # Errors
    /// What libtorch says: out of memory, for one. Inference was measured already.
    pub fn steps(&mut self, batch: u64, time: Duration) -> Result<Measured> {
        let sides = self.net.resolutions().to_vec();
        let images = sides.iter().map(|&side| self.images(batch, side));
        let images = images.collect::<Result<Vec<_>>>()?;
        let count = i64::try_from(batch).context("a batch of that size")?;
        let classes = i64::from(self.net.classes());
        let labels = Tensor::f_randint(classes, [count], (Kind::Int64, self.compute.device))?;
        let (step, distill) = (self.settings.step(), self.settings.distill);
        let lr = self.settings.optimizer.lr();
        let (net, compute) = (&self.net, self.compute);
        let optimizer = self.optimizer.as_mut();
        let optimizer = optimizer.context("steps are measured before inference")?;
        measure(compute, time, 3, || {
            step(net, optimizer, &images, &labels, distill, lr).map(drop)
        })
    }

    /// Forward passes at the resolution at `position` with `batch` images, for some time and at least
    /// three. The network is frozen for it.
    ///
    /// # Errors
    /// As [`Benchmark::steps`]; no such resolution.
    pub fn inference(&mut self, position: usize, batch: u64, time: Duration) -> Result<Measured> {
        let side = self.net.resolutions().get(position).copied();
        let images = self.images(batch, side.context("no such resolution")?)?;
        if self.optimizer.take().is_some() {
            self.net.freeze()?;
        }
        measure(self.compute, time, 3, || {
            self.net.logits(&images, position, Mode::Evaluate).map(drop)
        })
    }

    fn images(&self, batch: u64, side: u32) -> Result<Tensor> {
        let (count, side) = (i64::try_from(batch)?, i64::from(side));
        let options = (Kind::Float, self.compute.device);
        let images = Tensor::f_rand([count, 3, side, side], options)?;
        self.compute
            .lay_out(images.f_to_kind(self.compute.multiply)?)
    }
}

/// Multiply-adds in a second of a large matrix product in the kind that the network multiplies in: what
/// the device can do at best.
///
/// # Errors
/// What libtorch says.
pub fn peak(compute: Compute, time: Duration) -> Result<f64> {
    let side: i64 = match compute.device {
        Device::Cuda(_) => 8192,
        _ => 1024,
    };
    let options = (Kind::Float, compute.device);
    let factor = || Tensor::f_rand([side, side], options)?.f_to_kind(compute.multiply);
    let (a, b) = (factor()?, factor()?);
    let measured = measure(compute, time, 5, || Ok(a.f_matmul(&b).map(drop)?))?;
    Ok((side as f64).powi(3) / measured.median.as_secs_f64())
}

/// Does something for some time, and at least so often, after having done it twice.
fn measure(
    compute: Compute,
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
        times: times.len(),
        peak_memory: match gpu {
            Some(gpu) => Some(native::take_peak_memory(gpu)?.0),
            None => peak_of_process(),
        },
    })
}

/// The most memory that this process ever had in RAM, in bytes; Linux alone tells.
fn peak_of_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
