//! Training: the nodes that train and evaluate a network, and the parts of a training step.
//!
//! - [`trainer`]: the node `RsNet`, which trains. [`evaluate`]: the node `Evaluate`, which evaluates a
//!   checkpoint.
//! - [`step`]: one training step, from images to updated weights. [`objective`], [`distillation`]: its loss.
//!   [`mixing`]: mixup and CutMix. [`dropping`]: stochastic depth and dropout.
//!   [`sampling`]: which resolutions a step trains. [`drawn`]: all three. [`optimizer`], [`schedule`], [`loss_scale`]: the update. [`steps`]: one after the other, on a GPU
//!   recorded and replayed.
//! - [`average`]: a moving average of the weights.
//! - [`processes`]: what several processes exchange after a step.
//! - [`validation`]: accuracy and loss at every resolution.
//! - [`metrics`]: losses, accuracies and checkpoints for the sinks and the command.
//! - [`trains`]: what the command asks of a node that trains; [`lookup`]: which nodes do. [`benchmark`]: the speed of its steps.
//! - [`batches`]: the graph's batches as `nn::transfer::HostBatch`, and their memory.

pub mod average;
pub mod batches;
pub mod benchmark;
pub mod distillation;
pub mod drawn;
pub mod dropping;
pub mod evaluate;
pub mod exchange_benchmark;
pub mod lookup;
pub mod loss_scale;
pub mod metrics;
pub mod mixing;
pub mod objective;
pub mod optimizer;
pub mod processes;
pub mod sampling;
pub mod schedule;
pub mod step;
pub mod steps;
pub mod trainer;
pub mod trains;
pub mod validation;

use rsflow_graph::{Report, Spelling, counted};
use tch::Device;

use crate::nn::compute::{DeviceChoice, Precision};

/// OpenMP ends the process where it cannot start its threads, and no processor has more cores.
const MAX_THREADS: u64 = 1024;

/// Fields of nodes whose values have other names elsewhere, such as `cuda:1` and `bf16`.
const SPELLINGS: &[(&str, Spelling)] = &[
    ("device", DeviceChoice::spelling),
    ("precision", Precision::spelling),
    ("exchange", Precision::spelling),
];

/// Reports a number of libtorch's threads outside 1 to [`MAX_THREADS`].
fn check_threads(threads: Option<usize>, report: &mut Report) {
    if let Some(threads) = threads {
        let help = "leave it out for one per core";
        report.limit("threads", threads as u64, 1..=MAX_THREADS, help);
        let cores = std::thread::available_parallelism().map_or(threads, usize::from);
        if threads > cores && threads as u64 <= MAX_THREADS {
            let message = format!(
                "`threads` is {threads}, and this machine has {}: a step may take many times as long",
                counted(cores, "core")
            );
            report.warning("threads", message, help);
        }
    }
}

/// How many of the machine's `cores` libtorch keeps busy: `threads` (default: all) on the CPU; on a
/// GPU one, which launches its kernels.
fn cores_of(device: Device, threads: Option<usize>, cores: usize) -> usize {
    match device {
        Device::Cpu => threads.unwrap_or(cores),
        _ => 1,
    }
}
