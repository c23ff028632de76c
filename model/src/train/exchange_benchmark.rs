//! What several processes lose by exchanging: sums of some sizes, and a training step with and without its
//! exchange. All processes measure the same at the same time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::benchmark::Benchmark;
use super::processes::StepExchange;
use crate::dist::Peers;

/// Times of sums over all processes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SumTime {
    pub bytes: u64,
    pub seconds: f64,
    /// 2 (W - 1) / W times the bytes over the time, which is what each of W processes sends in a ring.
    pub bytes_per_second: f64,
}

/// Times of training steps, medians in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct StepTimes {
    /// Images of each process.
    pub images: u64,
    /// Without an exchange, of each process.
    pub alone: Vec<f64>,
    /// With the exchange: of the process that measures.
    pub exchanged: f64,
    /// Of that, waiting for the other processes.
    pub waited: f64,
    /// Bytes of gradients, as they are sent, and of running statistics and losses.
    pub gradient_bytes: u64,
    pub statistics_bytes: u64,
}

/// Measures a sum of so many bytes that are on a device, for about `time`.
///
/// # Errors
/// Another process is lost.
pub fn sum_time(peers: &Peers, device: Device, bytes: u64, time: Duration) -> Result<SumTime> {
    let values = i64::try_from(bytes / 4)?;
    let own = Tensor::f_ones([values], (Kind::Float, device))?;
    let seconds = together(peers, &format!("sum of {bytes}"), time, || {
        peers.sum(&[&own]).map(drop)
    })?;
    let world = f64::from(peers.world().size);
    Ok(SumTime {
        bytes,
        seconds,
        bytes_per_second: 2.0 * (world - 1.0) / world * bytes as f64 / seconds,
    })
}

impl Benchmark {
    /// Measures training steps of `images` in each process, for about `time` without and with their exchange.
    ///
    /// # Errors
    /// The device fails or is out of memory; another process is lost.
    pub fn exchanged_steps(
        &mut self,
        peers: &Arc<Peers>,
        images: u64,
        time: Duration,
    ) -> Result<StepTimes> {
        ensure!(
            images > 0,
            "a step needs at least one image of each process"
        );
        let peers_of_steps = Arc::clone(peers);
        let exchange = StepExchange::new(peers_of_steps, &self.net, self.exchange, self.overlaps)?;
        let (images_of_all, labels) = self.batch(images)?;
        let drawn = self.inputs;
        let (net, steps, lr) = (&self.net, &mut self.steps, self.lr);
        let optimizer = self.optimizer.as_mut();
        let optimizer = optimizer.context("steps are measured before inference")?;
        let mut done = 0;
        let mut step = |exchange: Option<&StepExchange>| {
            let images = images_of_all.iter().map(Tensor::shallow_clone).collect();
            let inputs = drawn.draw(net, images, labels.shallow_clone(), 0, (done, 0))?;
            done += 1;
            let loss = steps.step(net, optimizer, &inputs, lr, exchange);
            loss.map(drop)
        };
        let own = together(peers, "steps alone", time, || step(None))?;
        // In its own place of a vector that is summed.
        let rank = i64::from(peers.world().rank);
        let all = Tensor::f_zeros([i64::from(peers.world().size)], (Kind::Double, Device::Cpu))?;
        let _ = all.f_get(rank)?.f_fill_(own)?;
        let alone = Vec::<f64>::try_from(&peers.sum(&[&all])?[0])?;

        let before = peers.waited();
        let mut count = 0;
        let exchanged = together(peers, "steps with an exchange", time, || {
            count += 1;
            step(Some(&exchange))
        })?;
        let waited = peers.waited() - before;
        let (gradient_bytes, statistics_bytes) = exchange.bytes();
        Ok(StepTimes {
            images,
            alone,
            exchanged,
            waited: waited.as_secs_f64() / f64::from(count),
            gradient_bytes,
            statistics_bytes,
        })
    }
}

/// Repeats `act` equally often in all processes, for about `time`. Returns the median of its seconds.
fn together(
    peers: &Peers,
    what: &str,
    time: Duration,
    mut act: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let mut once = || -> Result<f64> {
        let began = Instant::now();
        act()?;
        Ok(began.elapsed().as_secs_f64())
    };
    once()?;
    let second = once()?;
    let count = peers.broadcast(what, || {
        let count = time.as_secs_f64() / second.max(1e-6);
        format!("{}", count.clamp(3.0, 10_000.0) as u32)
    })?;
    let count: u32 = count.parse().context("a number of iterations")?;
    let mut times = (0..count).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
