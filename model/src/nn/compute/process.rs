//! What libtorch and malloc keep for the whole process.

use anyhow::{Context as _, Result};
use tch::Device;

use super::DeviceChoice;
use crate::nn::native;

/// What a network's computation needs of the process. Plain data; [`apply`] sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// What computes.
    pub device: DeviceChoice,
    /// Whether GPUs multiply float32 as TF32.
    pub tf32: bool,
    /// Whether only kernels may be used that give the same bits each time.
    pub deterministic: bool,
    /// Threads that libtorch computes with on the CPU; one per core if `None`.
    pub threads: Option<usize>,
}

impl ProcessSettings {
    /// An environment variable and its value that must be set before [`apply`], and before the process
    /// has a second thread. A value that the user set stays.
    pub fn environment(&self) -> Option<(&'static str, &'static str)> {
        // cuBLAS reads it when it is first used; with its default, sums may change from run to run.
        self.deterministic
            .then_some(("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
    }
}

/// Sets TF32, determinism, cuDNN's benchmark mode, the number of threads and, on the CPU, that malloc
/// keeps freed memory. For the program to call, once, before a run starts; a thread that computes then
/// calls [`adopt_thread_count`].
///
/// A device that cannot be used is no error here: the node that computes on it says so.
///
/// # Errors
/// What libtorch says.
pub fn apply(settings: &ProcessSettings) -> Result<()> {
    // First: libtorch's part for GPUs must be loaded before libtorch is used.
    let Ok(device) = settings.device.open() else {
        return Ok(());
    };
    native::set_arithmetic(settings.tf32, settings.deterministic)
        .context("cannot set how libtorch computes")?;
    if device.is_cuda() {
        // Benchmark mode takes the fastest kernel of each run, which need not be the same one.
        tch::Cuda::cudnn_set_benchmark(!settings.deterministic);
    }
    if let Some(threads) = settings.threads {
        tch::set_num_threads(threads.try_into().unwrap_or(i32::MAX));
    }
    if device == Device::Cpu {
        native::keep_freed_memory();
    }
    Ok(())
}

/// Has the calling thread compute with the process's number of threads. OpenMP counts for each thread
/// apart, and libtorch hands the number on only where it uses OpenMP itself: oneDNN would start with
/// one thread per core.
pub fn adopt_thread_count() {
    // Asking is what makes libtorch hand it on.
    let _ = tch::get_num_threads();
}
