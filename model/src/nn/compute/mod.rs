//! How a network computes: device, dtypes, memory format.
//!
//! Resolving a recipe's choices ([`ExecConfig::resolve`]) sets nothing. What libtorch and malloc keep
//! for the whole process is data ([`ProcessSettings`]) until the program applies it ([`apply`]).
//! [`failure_kind`] recognizes errors of memory and of the device.

#[allow(unsafe_code)]
mod cuda;
mod failure;
#[allow(unsafe_code)]
mod pinned;
mod process;
mod processor;
mod spelling;

use std::fmt;
use std::path::Path;
use std::sync::Once;

use anyhow::{Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

pub use crate::nn::native::FailureKind;
pub(super) use cuda::Driver;
pub use cuda::{Cuda, Gpu, driver_is_there};
pub use failure::{failure_kind, is_out_of_memory};
pub use pinned::Pinned;
pub use process::{ProcessSettings, adopt_thread_count, apply};
pub use processor::{CPU_BFLOAT16, cpu_bfloat16_is_fast, has_amx};

use crate::nn::kernels::Kernels;
use crate::nn::native;

/// Where a network computes, as a recipe names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceChoice {
    /// The first GPU if there is one that can be used, the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of that number, from 0.
    Cuda(u32),
}

impl DeviceChoice {
    /// The choice of one of several processes: `Auto` takes the GPU of its number on its machine, where there
    /// are GPUs.
    ///
    /// # Errors
    /// `Cuda(0)` and so on, which would be one GPU for all; fewer GPUs than processes.
    pub fn of_process(self, local_rank: u32, local_size: u32) -> Result<DeviceChoice> {
        match self {
            DeviceChoice::Cuda(index) => bail!(
                "`device: Cuda({index})` is one GPU, and there are several processes: with `device: Auto` each \
                 takes the GPU of its number on its machine"
            ),
            DeviceChoice::Cpu => Ok(self),
            DeviceChoice::Auto => {
                let found = Cuda::open().map_or(0, |cuda| cuda.gpus.len());
                gpu_of_process(found, local_rank, local_size)
            }
        }
    }

    /// The device, ready to be used.
    ///
    /// # Errors
    /// A GPU is wanted that is not there or cannot be used; the message says what to do. `Auto` never
    /// fails.
    pub fn open(self) -> Result<Device> {
        if self == DeviceChoice::Cpu {
            return Ok(Device::Cpu);
        }
        let found = Cuda::open().and_then(|cuda| {
            let index = match self {
                DeviceChoice::Cuda(index) => Some(index as usize),
                _ => (0..cuda.gpus.len()).find(|&index| cuda.check(index).is_ok()),
            };
            // Of several that are too old, the first says so.
            let index = index.unwrap_or(0);
            cuda.check(index)?;
            Ok(Device::Cuda(index))
        });
        match (self, found) {
            (_, Ok(device)) => Ok(device),
            (DeviceChoice::Auto, Err(reason)) => {
                // Worth a warning only where a GPU could have been meant, and once.
                static SAID: Once = Once::new();
                SAID.call_once(|| match driver_is_there() {
                    true => tracing::warn!("computing on the CPU: {reason:#}"),
                    false => tracing::debug!("computing on the CPU: {reason:#}"),
                });
                Ok(Device::Cpu)
            }
            (_, Err(reason)) => Err(reason.context(format!(
                "cannot compute on `device: {self:?}`; `Auto` takes the CPU where there is no GPU, \
                 and `rsflow doctor` says what is missing"
            ))),
        }
    }
}

/// Of so many GPUs that a process sees.
fn gpu_of_process(found: usize, local_rank: u32, local_size: u32) -> Result<DeviceChoice> {
    match (found, local_size as usize) {
        (0, _) => Ok(DeviceChoice::Cpu),
        // A launcher may show each process its own GPU alone.
        (1, _) => Ok(DeviceChoice::Cuda(0)),
        (found, local_size) => {
            ensure!(
                found >= local_size,
                "{local_size} processes on this machine need as many GPUs, and there are {found}: start fewer, \
                 or set `device: Cpu`"
            );
            Ok(DeviceChoice::Cuda(local_rank))
        }
    }
}

/// With which numbers convolutions and the classifier multiply. All else is in float32 in any case:
/// the weights that are trained, statistics of batch norms, losses, the ensemble, the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// What is fast and safe: `BFloat16` on GPUs that have instructions for it and processors that
    /// are faster with it (AMX, or AMD's AVX512-BF16), `Float16` on older GPUs with tensor cores,
    /// `Float32` elsewhere, for quantized networks, and on processors for networks with depthwise
    /// convolutions. A network that was trained in float32 is resumed and evaluated in float32.
    #[default]
    Auto,
    /// float32 throughout, as the reference implementation trains.
    Float32,
    /// float32, of whose 23 bits behind the point GPUs from Ampere on multiply with 10 only.
    TensorFloat32,
    /// bfloat16: the range of float32, with 7 bits behind the point.
    BFloat16,
    /// float16: 10 bits behind the point and a small range, for which the loss is scaled.
    Float16,
}

impl Precision {
    /// What `Auto` resolves to on a GPU of this compute capability.
    pub fn of_gpu(capability: (u32, u32)) -> Precision {
        match capability {
            (8.., _) => Precision::BFloat16,
            (7, _) => Precision::Float16,
            _ => Precision::Float32,
        }
    }

    /// Resolves `Auto` on this device; an explicit choice stays.
    fn resolve(self, device: Device, hints: ComputeHints) -> Result<Precision> {
        let capability = match device {
            Device::Cuda(index) => Cuda::open()?.gpus.get(index).map(|gpu| gpu.capability),
            _ => None,
        };
        Ok(match (self, capability) {
            (Precision::Auto, _) if hints.float32 => Precision::Float32,
            (Precision::Auto, Some(capability)) => Precision::of_gpu(capability),
            (Precision::Auto, None) if device == Device::Cpu && cpu_bfloat16_is_fast()? => {
                if hints.slow_bfloat16 {
                    tracing::info!(
                        "`precision: Auto` is Float32: on processors depthwise convolutions are slower \
                         in bfloat16"
                    );
                    Precision::Float32
                } else {
                    Precision::BFloat16
                }
            }
            (Precision::Auto, _) => Precision::Float32,
            (chosen, _) => chosen,
        })
    }
}

/// What is best for a network where the recipe says `Auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeHints {
    /// `Auto` is float32 on every device.
    pub float32: bool,
    /// `Auto` is float32 on processors, also on those that are fast in bfloat16. Measured on an EPYC with
    /// AVX512-BF16: MobileNetV2's steps, with their depthwise convolutions, are 1.4 times as fast in
    /// float32, those of ResNet18 0.6 times.
    pub slow_bfloat16: bool,
    /// In float32 on the CPU: channels last.
    pub channels_last: bool,
}

/// The libtorch in use.
#[derive(Clone, Debug, Serialize)]
pub struct Libtorch {
    /// The version that this program was built for.
    pub built_for: String,
    /// The version that is loaded, as far as the files beside it say.
    pub version: Option<String>,
    /// Its folder; known on Linux only.
    pub folder: Option<String>,
    /// Whether it has oneDNN, the fast convolutions of the CPU.
    pub onednn: bool,
}

/// What libtorch this process has loaded.
pub fn libtorch() -> Libtorch {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let library = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]))
        .find(|path| path.ends_with("/libtorch_cpu.so"));
    let folder = library.and_then(|path| Path::new(path).parent());
    let version = folder.and_then(|folder| {
        // Of a wheel, and of PyTorch's archives.
        let python = std::fs::read_to_string(folder.join("../version.py")).unwrap_or_default();
        let quoted = python.lines().find(|line| line.starts_with("__version__"));
        let quoted = quoted
            .and_then(|line| line.split('\'').nth(1))
            .map(str::to_owned);
        quoted.or_else(|| {
            let text = std::fs::read_to_string(folder.join("../build-version")).ok()?;
            Some(text.trim().to_owned())
        })
    });
    Libtorch {
        built_for: native::libtorch_version(),
        version,
        folder: folder.map(|folder| folder.shown().to_string()),
        onednn: tch::utils::has_mkldnn(),
    }
}

/// How a network computes: device, dtypes and memory format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    /// Where it computes.
    pub device: Device,
    /// The dtype of everything that is kept (parameters, statistics, logits): `Kind::Float`, or
    /// `Kind::Double` to compare with a reference.
    pub dtype: Kind,
    /// The dtype that convolutions and the classifier compute in: `dtype`, `Kind::BFloat16` or
    /// `Kind::Half`.
    pub compute_dtype: Kind,
    /// Whether a GPU multiplies float32 as TF32.
    pub tf32: bool,
    /// The memory format of weights and activations: channels last (NHWC) or contiguous (NCHW). Shapes
    /// are `[batch, channels, height, width]` either way.
    pub channels_last: bool,
    /// [Our kernels](crate::nn::kernels) that are used where they can be; `None`: libtorch's operators.
    pub kernels: Option<Kernels>,
}

impl ExecConfig {
    /// On the CPU, with one dtype throughout, contiguous.
    pub fn cpu(dtype: Kind) -> Self {
        ExecConfig {
            device: Device::Cpu,
            dtype,
            compute_dtype: dtype,
            tf32: false,
            channels_last: false,
            kernels: None,
        }
    }

    /// Resolves a recipe's `device` and `precision` on this machine, and warns where another choice
    /// would be faster. Sets nothing: see [`ProcessSettings`].
    ///
    /// # Errors
    /// The device cannot be used, or does not support the precision.
    pub fn resolve(
        device: DeviceChoice,
        precision: Precision,
        hints: ComputeHints,
    ) -> Result<Self> {
        let device = device.open()?;
        let resolved = precision.resolve(device, hints)?;
        if let Device::Cuda(index) = device {
            let old = Cuda::open()?
                .gpus
                .get(index)
                .filter(|gpu| gpu.capability < (8, 0));
            match (old, resolved) {
                (Some(gpu), Precision::TensorFloat32) => {
                    tracing::warn!("{} has no TF32: this is plain float32", gpu.name);
                }
                (Some(gpu), Precision::BFloat16) => tracing::warn!(
                    "{} has no instructions for bfloat16: `precision: Float16` is faster",
                    gpu.name
                ),
                _ => {}
            }
        }
        if device == Device::Cpu {
            match resolved {
                Precision::TensorFloat32 => bail!(
                    "`precision: TensorFloat32` is for GPUs, and this network computes on the CPU; `Auto` \
                     takes what the device is good at"
                ),
                Precision::BFloat16 if !cpu_bfloat16_is_fast()? => tracing::warn!(
                    "this processor is slower in bfloat16: `precision: Float32` is faster here"
                ),
                Precision::Float16 => tracing::warn!(
                    "float16 is slow on processors: `precision: Float32` is faster here"
                ),
                _ => {}
            }
        }
        let compute_dtype = match resolved {
            Precision::BFloat16 => Kind::BFloat16,
            Precision::Float16 => Kind::Half,
            _ => Kind::Float,
        };
        Ok(ExecConfig {
            device,
            dtype: Kind::Float,
            compute_dtype,
            tf32: resolved == Precision::TensorFloat32,
            channels_last: match (compute_dtype, device) {
                // What oneDNN does best. Measured with AVX2, float32, three rounds in turn: MobileNetV2's
                // steps are 1.32 times as fast with channels last, ResNet50's 1.11 times, those of
                // ResNet18, with its kernels of 3x3, 0.81 times.
                (Kind::Float, Device::Cpu) => hints.channels_last,
                (Kind::Float, _) => false,
                // The kernels for half precision want it on every device.
                _ => true,
            },
            kernels: None,
        })
    }

    /// Logs what a run computes on, once it is decided.
    pub fn log(&self, deterministic: bool) {
        let and = if deterministic { ", deterministic" } else { "" };
        tracing::info!("computing on {self}{and}");
    }

    /// Converts a tensor `[a, b, height, width]` to the memory format; others stay as they are.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn to_memory_format(&self, tensor: Tensor) -> Result<Tensor> {
        if !self.channels_last || tensor.dim() != 4 {
            return Ok(tensor);
        }
        let channels_last = tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?;
        Ok(channels_last.f_permute([0, 3, 1, 2])?)
    }

    /// Whether the loss is scaled: in float16 small gradients would underflow.
    pub fn scales_loss(&self) -> bool {
        self.compute_dtype == Kind::Half
    }
}

/// Formats for the log, such as "CPU, float32, channels first".
impl fmt::Display for ExecConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Device::Cuda(index) => {
                let name = Cuda::open().ok().and_then(|cuda| cuda.gpus.get(index));
                let name = name.map_or("GPU", |gpu| gpu.name.as_str());
                write!(f, "{name} (Cuda({index}))")?;
            }
            _ => write!(f, "CPU")?,
        }
        let dtype = match self.compute_dtype {
            Kind::BFloat16 => "bfloat16",
            Kind::Half => "float16",
            Kind::Double => "float64",
            _ if self.tf32 => "TF32",
            _ => "float32",
        };
        let layout = if self.channels_last {
            "channels last"
        } else {
            "channels first"
        };
        let kernels = self.kernels.map_or("", |_| ", own kernels");
        write!(f, ", {dtype}, {layout}{kernels}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_gpu_of_its_own() {
        for (found, local_rank, local_size, expected) in [
            (0, 1, 2, Some(DeviceChoice::Cpu)),
            (1, 1, 2, Some(DeviceChoice::Cuda(0))),
            (8, 5, 8, Some(DeviceChoice::Cuda(5))),
            (8, 1, 2, Some(DeviceChoice::Cuda(1))),
            (4, 1, 8, None),
        ] {
            let choice = gpu_of_process(found, local_rank, local_size).ok();
            assert_eq!(
                choice, expected,
                "{found} GPUs, {local_rank} of {local_size}"
            );
        }
        assert!(DeviceChoice::Cuda(0).of_process(0, 2).is_err());
        assert_eq!(
            DeviceChoice::Cpu.of_process(1, 2).unwrap(),
            DeviceChoice::Cpu
        );
    }
}
