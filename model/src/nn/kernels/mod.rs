//! Our kernels: batch norm with the residual's addition and the activation, and on GPUs max pooling and
//! depthwise convolutions, too.
//!
//! Those for the CPU are C++ (`native/cpu`). Those for GPUs are CUDA C++ (`native/gpu/*.cu`) for channels
//! last, compiled at first use for the GPU that is there, and used only if they agree with libtorch's own
//! operators on that machine ([`trial`]). Where there are none, a network computes the same with
//! libtorch's operators.
//!
//! - `operators`: the operators, and which kernels they use.
//! - `joint`: batch norm with the statistics of all processes.
//! - `program`: from the text to a program of the GPU, by NVRTC, kept in the user's cache.
//! - `driver`: the program, loaded by NVIDIA's driver.
//! - [`trial`]: the comparison.
//! - `convolution`: convolutions with the batch norm, the residual and the activation, for inference on the CPU
//!   in float32.
//! - `inverted`: three convolutions of MobileNetV2's blocks in one, for the same.
//! - `pixels`: bytes of images as a network takes them, on the CPU.
//! - `pointwise`: oneDNN's with a bias, a residual and an activation, for the same in bfloat16.
//! - `small_maps`: convolutions over maps of a few values, on the CPU.

#[allow(unsafe_code)]
mod convolution;
#[allow(unsafe_code)]
mod driver;
#[allow(unsafe_code)]
mod inverted;
#[allow(unsafe_code)]
mod joint;
#[allow(unsafe_code)]
mod max_pool;
#[allow(unsafe_code)]
mod operators;
#[allow(unsafe_code)]
mod pixels;
#[allow(unsafe_code)]
mod pointwise;
#[allow(unsafe_code)]
mod program;
#[allow(unsafe_code)]
mod small_maps;
mod trial;

use std::sync::Mutex;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::nn::compute::{Cuda, ExecConfig, FailureKind, failure_kind};
pub use convolution::{Convolution, Place, convolution_sets, drop_buffers, get_or_make};
pub use inverted::{Inverted, Normed};
pub use joint::{JointSum, joint_batch_norm};
pub use max_pool::max_pool_cpu;
pub use operators::{
    Activation, BatchNorm, Kernels, Launch, Statistics, batch_norm, depthwise, drop_kernels,
    kernel_names, max_pool, use_kernels,
};
pub use pixels::PixelTable;
pub use pointwise::PackedConvolution;
pub use program::{Architecture, Compiler};
pub use small_maps::{are_small_maps, small_maps_convolution};
pub use trial::{composed, trial};

/// Whether a network uses our kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Fused {
    /// Where there are any, and they work.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl ExecConfig {
    /// The same with [our kernels](crate::nn::kernels), unless `fused` is `Off`, where there are any for it:
    /// on the CPU in float32 and bfloat16, on a GPU in half precision. For a GPU the first call of a process
    /// compiles them, or finds them in the user's cache, and tries them; where that fails it says so once,
    /// and libtorch's operators are used.
    pub fn with_kernels(self, fused: Fused) -> ExecConfig {
        let kernels = match (fused, self.device, self.compute_dtype) {
            (Fused::Off, ..) => None,
            (_, Device::Cuda(gpu), Kind::BFloat16 | Kind::Half) if self.channels_last => {
                works(gpu, self.compute_dtype).then_some(Kernels::Gpu)
            }
            (_, Device::Cpu, Kind::Float | Kind::BFloat16) => Some(Kernels::Cpu),
            _ => None,
        };
        ExecConfig { kernels, ..self }
    }
}

/// Whether the kernels work on a GPU. Tries it once, and says so where they do not.
fn works(gpu: usize, kind: Kind) -> bool {
    // The GPU and dtype that were tried, and how it went.
    static TRIED: Mutex<Vec<(usize, Kind, bool)>> = Mutex::new(Vec::new());
    let Ok(mut tried) = TRIED.lock() else {
        return false;
    };
    let known = tried.iter().find(|&&(on, of, _)| (on, of) == (gpu, kind));
    if let Some(&(.., works)) = known {
        return works;
    }
    let prepared = prepare(gpu, kind);
    if let Err(error) = &prepared {
        let hint = match failure_kind(error) {
            Some(FailureKind::Device) => {
                ". After an error of a GPU only a new process can use it: set `fused: Off`"
            }
            _ => "",
        };
        tracing::warn!(
            "batch norms, poolings and depthwise convolutions are computed by libtorch's operators, \
             which may be slower: {error:#}{hint}"
        );
    }
    tried.push((gpu, kind, prepared.is_ok()));
    prepared.is_ok()
}

/// Loads the kernels onto a GPU and tries them.
fn prepare(gpu: usize, kind: Kind) -> Result<()> {
    let cuda = Cuda::open()?;
    let capability = cuda.gpus.get(gpu).context("there is no such GPU")?;
    let architecture = Architecture(capability.capability);
    // libtorch makes its context of the GPU the thread's.
    let _ = tch::Tensor::f_zeros([1], (kind, Device::Cuda(gpu)))?;
    let program = program::cached(architecture, || {
        Compiler::of_libtorch()?.compile(architecture)
    })?;
    driver::load(&program, gpu)?;
    trial(Device::Cuda(gpu), kind).inspect_err(|_| drop_kernels())
}
