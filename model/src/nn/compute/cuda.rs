//! NVIDIA GPUs: whether they can be used, and what is missing.
//!
//! The program is linked to the part of libtorch for the CPU alone. The part for GPUs is loaded when
//! one is wanted, so that one binary serves machines with and without.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail, ensure};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::Serialize;

/// The library of the NVIDIA driver, and the part of libtorch for GPUs.
const DRIVER: &str = "libcuda.so.1";
const LIBTORCH: &str = "libtorch_cuda.so";

/// What there is to compute on.
#[derive(Clone, Debug, Serialize)]
pub struct Cuda {
    /// The newest CUDA that the driver can do, as 1000 * major + 10 * minor.
    pub driver: u32,
    /// The CUDA that libtorch was built for, likewise.
    pub runtime: u32,
    /// The version of cuDNN, as 10000 * major + 100 * minor + patch.
    pub cudnn: u32,
    /// The GPUs, in CUDA's order.
    pub gpus: Vec<Gpu>,
}

/// A GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// As NVIDIA calls it.
    pub name: String,
    /// In bytes.
    pub memory: u64,
    /// Its compute capability: 9.0 is `(9, 0)`.
    pub capability: (u32, u32),
}

impl Cuda {
    /// Loads what is needed to compute on GPUs, once in a process.
    ///
    /// # Errors
    /// What is missing or does not fit, and what to do about it; the same each time.
    pub fn open() -> Result<&'static Cuda> {
        static OPENED: OnceLock<Result<Cuda, String>> = OnceLock::new();
        let opened = OPENED.get_or_init(|| open().map_err(|error| format!("{error:#}")));
        opened.as_ref().map_err(|reason| anyhow!("{reason}"))
    }

    /// Makes sure that a GPU is there and not too old for this libtorch.
    ///
    /// # Errors
    /// It is not, or is.
    pub fn check(&self, index: usize) -> Result<()> {
        let Some(gpu) = self.gpus.get(index) else {
            bail!(
                "there is no GPU {index}: {} {} found{}",
                self.gpus.len(),
                if self.gpus.len() == 1 { "was" } else { "were" },
                visible()
            );
        };
        // libtorch for CUDA 13 has no kernels for what is older than Turing.
        let (major, minor) = gpu.capability;
        ensure!(
            self.runtime < 13000 || gpu.capability >= (7, 5),
            "{} is too old (compute capability {major}.{minor}): this libtorch has kernels from 7.5 on",
            gpu.name
        );
        Ok(())
    }
}

/// What the environment hides, for the end of a sentence.
fn visible() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => format!(" (with CUDA_VISIBLE_DEVICES={visible})"),
        Err(_) => String::new(),
    }
}

/// Whether an NVIDIA driver is installed.
pub fn driver_is_there() -> bool {
    load(DRIVER, RTLD_NOW).is_ok()
}

fn open() -> Result<Cuda> {
    let library = load(DRIVER, RTLD_NOW).map_err(|reason| {
        anyhow!("no NVIDIA driver is installed ({reason}); a machine with an NVIDIA GPU needs one")
    })?;
    let driver = Driver { library };
    driver.call(
        "cuInit",
        |function: unsafe extern "C" fn(c_uint) -> c_int| {
            // SAFETY: as the driver's header declares it; there are no flags.
            unsafe { function(0) }
        },
    )?;
    let version = driver.version()?;
    let torch = load(LIBTORCH, RTLD_NOW | RTLD_GLOBAL).map_err(|reason| {
        anyhow!(
            "this libtorch cannot use GPUs ({reason}); `cargo xtask setup` installs one that can where it \
             finds a driver, and LD_LIBRARY_PATH may name the `lib` folder of another 2.11"
        )
    })?;
    // Its constructors made it known to the rest of libtorch, which keeps pointers into it.
    std::mem::forget(torch);
    ensure!(
        tch::utils::has_cudart(),
        "libtorch was in use before its part for GPUs was loaded: it is too late in this process"
    );
    let runtime = u32::try_from(tch::utils::version_cudart()).unwrap_or_default();
    check_versions(version, runtime)?;
    let gpus = driver.gpus()?;
    // It stays loaded, whoever else uses it.
    std::mem::forget(driver);
    ensure!(
        !gpus.is_empty() && tch::Cuda::is_available(),
        "libtorch finds no GPU{}",
        if gpus.is_empty() {
            ""
        } else {
            ", though the driver does"
        }
    );
    Ok(Cuda {
        driver: version,
        runtime,
        cudnn: u32::try_from(tch::utils::version_cudnn()).unwrap_or_default(),
        gpus,
    })
}

/// Within one major version, every driver serves every runtime.
fn check_versions(driver: u32, runtime: u32) -> Result<()> {
    let written = |version: u32| format!("{}.{}", version / 1000, version % 1000 / 10);
    ensure!(
        driver / 1000 >= runtime / 1000,
        "the NVIDIA driver is too old: it can do CUDA {}, and this libtorch needs {}; update the driver",
        written(driver),
        written(runtime)
    );
    Ok(())
}

/// Loads a library, or says why not.
fn load(name: &str, flags: c_int) -> Result<Library, String> {
    // SAFETY: constructors run, those of NVIDIA's and PyTorch's libraries, which expect that.
    let library = unsafe { Library::open(Some(name), flags) };
    library.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// NVIDIA's driver; see its header `cuda.h`.
pub(in crate::nn) struct Driver {
    library: Library,
}

impl Driver {
    /// The driver that [`Cuda::open`] opened.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> Result<Self> {
        let library = load(DRIVER, RTLD_NOW).map_err(|reason| anyhow!("{reason}"))?;
        Ok(Driver { library })
    }

    /// A function of it, which must be of the type `F`; it stays valid, as the driver stays loaded.
    pub fn function<F: Copy>(&self, name: &str) -> Result<F> {
        let symbol = format!("{name}\0");
        // SAFETY: the caller names the type that the driver's header declares.
        let function = unsafe { self.library.get::<F>(symbol.as_bytes()) };
        let function =
            function.map_err(|error| anyhow!("the NVIDIA driver has no {name}: {error}"))?;
        Ok(*function)
    }

    /// Calls a function of it, of the type `F`, and turns its code into an error.
    pub fn call<F: Copy>(&self, name: &str, call: impl FnOnce(F) -> c_int) -> Result<()> {
        let code = call(self.function(name)?);
        ensure!(
            code == 0,
            "the NVIDIA driver does not work: {name} says {}{}",
            self.reason(code),
            match code {
                100 => format!(
                    "; no GPU is there, or this container or user may not see it{}",
                    visible()
                ),
                _ => "; `nvidia-smi` may show more".to_owned(),
            }
        );
        Ok(())
    }

    fn reason(&self, code: c_int) -> String {
        type GetErrorString = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        let mut text = std::ptr::null();
        // SAFETY: as the header declares it; the text, if there is one, is static.
        let told = unsafe {
            self.library
                .get::<GetErrorString>(b"cuGetErrorString\0")
                .is_ok_and(|function| function(code, &mut text) == 0 && !text.is_null())
        };
        if told {
            // SAFETY: not null, and static.
            let text = unsafe { CStr::from_ptr(text) };
            format!("{} ({code})", text.to_string_lossy())
        } else {
            format!("error {code}")
        }
    }

    fn version(&self) -> Result<u32> {
        let mut version = 0;
        self.call(
            "cuDriverGetVersion",
            |function: unsafe extern "C" fn(*mut c_int) -> c_int| {
                // SAFETY: as the header declares it.
                unsafe { function(&mut version) }
            },
        )?;
        Ok(u32::try_from(version).unwrap_or_default())
    }

    fn gpus(&self) -> Result<Vec<Gpu>> {
        type GetCount = unsafe extern "C" fn(*mut c_int) -> c_int;
        type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
        type GetName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
        type TotalMem = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
        type GetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        const CAPABILITY_MAJOR: c_int = 75;
        const CAPABILITY_MINOR: c_int = 76;

        let mut count = 0;
        // SAFETY, here and below: as the header declares it, with places that outlive the call.
        self.call("cuDeviceGetCount", |f: GetCount| unsafe { f(&mut count) })?;
        (0..count)
            .map(|index| {
                let mut device = 0;
                self.call("cuDeviceGet", |f: Get| unsafe { f(&mut device, index) })?;
                let mut name = [0; 256];
                let room = name.len() as c_int - 1; // the last stays zero
                self.call("cuDeviceGetName", |f: GetName| unsafe {
                    f(name.as_mut_ptr(), room, device)
                })?;
                let mut memory = 0;
                self.call("cuDeviceTotalMem_v2", |f: TotalMem| unsafe {
                    f(&mut memory, device)
                })?;
                let attribute = |of| {
                    let mut value = 0;
                    self.call("cuDeviceGetAttribute", |f: GetAttribute| unsafe {
                        f(&mut value, of, device)
                    })?;
                    Ok::<_, anyhow::Error>(u32::try_from(value).unwrap_or_default())
                };
                // SAFETY: ends with a zero, as the array does.
                let name = unsafe { CStr::from_ptr(name.as_ptr()) };
                Ok(Gpu {
                    name: name.to_string_lossy().into_owned(),
                    memory: memory as u64,
                    capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Cuda, Gpu, check_versions};

    #[test]
    fn a_gpu_that_is_too_old_is_told() {
        let gpu = |name: &str, capability| Gpu {
            name: name.to_owned(),
            memory: 1 << 34,
            capability,
        };
        let cuda = |runtime| Cuda {
            driver: runtime,
            runtime,
            cudnn: 0,
            gpus: vec![gpu("V100", (7, 0)), gpu("T4", (7, 5))],
        };
        let check = |runtime, index| cuda(runtime).check(index).map_err(|e| e.to_string());
        assert_eq!(check(12080, 0), Ok(()));
        assert_eq!(check(13000, 1), Ok(()));
        for (index, part) in [
            (0, "V100 is too old (compute capability 7.0)"),
            (2, "no GPU 2: 2 were found"),
        ] {
            let error = check(13000, index).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_driver_that_is_too_old_is_told() {
        for (driver, runtime, fine) in [
            (13000, 13000, true),
            (13000, 13020, true),
            (14010, 13000, true),
            (12080, 13000, false),
        ] {
            let result = check_versions(driver, runtime);
            assert_eq!(result.is_ok(), fine, "{driver} {runtime}");
            if let Err(error) = result {
                let text = error.to_string();
                assert!(
                    text.contains("CUDA 12.8") && text.contains("needs 13.0"),
                    "{text}"
                );
            }
        }
    }
}
