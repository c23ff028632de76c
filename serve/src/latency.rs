//! How long passes take on this machine.

use std::time::{Duration, Instant};

use anyhow::Result;
use rsflow_model::nn::compute::is_out_of_memory;
use rsflow_model::runtime::{Images, Runtime};

/// Passes at each size and batch before the first that counts, and what is enough to count.
const WARM_UP: usize = 3;
const MOST_PASSES: usize = 51;
const LEAST_PASSES: usize = 5;

/// The batch with the most images a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    pub batch: usize,
    pub images_per_second: f64,
}

/// The median time of passes with `batch` images of `size` pixels, from uint8 pixels to logits, after a
/// warm-up. Takes about as long as `about`, but at least eight passes.
///
/// # Errors
/// A size that is not loaded; the device fails.
pub fn pass_time(runtime: &Runtime, size: u32, batch: usize, about: Duration) -> Result<Duration> {
    let pixels = vec![128; batch * 3 * (size as usize).pow(2)];
    let mut logits = vec![0.0; batch * runtime.classes().len()];
    let mut times = Vec::with_capacity(MOST_PASSES);
    let mut pass = || {
        let start = Instant::now();
        runtime.logits_into(Images::Bytes(&pixels), size, &mut logits)?;
        Ok::<_, anyhow::Error>(start.elapsed())
    };
    for _ in 0..WARM_UP {
        pass()?;
    }
    let start = Instant::now();
    while times.len() < LEAST_PASSES || times.len() < MOST_PASSES && start.elapsed() < about {
        times.push(pass()?);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// The batch with the best throughput among 1, 2, 4 and so on up to `most`. Ends early where a pass takes
/// longer than a second, or twice in a row no more images a second came out.
///
/// # Errors
/// As [`pass_time`].
pub fn throughput(runtime: &Runtime, size: u32, most: usize) -> Result<Throughput> {
    let mut best = Throughput {
        batch: 0,
        images_per_second: 0.0,
    };
    let mut without_gain = 0;
    let batches = std::iter::successors(Some(1), |batch| Some(batch * 2));
    for batch in batches.take_while(|batch| *batch <= most) {
        let time = match pass_time(runtime, size, batch, Duration::from_millis(300)) {
            // There is room for no larger batch.
            Err(error) if best.batch > 0 && is_out_of_memory(&error) => break,
            time => time?,
        };
        let images_per_second = batch as f64 / time.as_secs_f64();
        without_gain += 1;
        if images_per_second > best.images_per_second {
            best = Throughput {
                batch,
                images_per_second,
            };
            without_gain = 0;
        }
        if without_gain == 2 || time > Duration::from_secs(1) {
            break;
        }
    }
    Ok(best)
}
