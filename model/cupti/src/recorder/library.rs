//! CUPTI itself: where it lies, and its functions.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use rsflow_base::shown::Shown as _;

use super::buffers;

/// Names the library instead of the search, for tests and for installations that the search misses.
const VARIABLE: &str = "RSFLOW_CUPTI";
/// The driver, without which CUPTI cannot work.
const DRIVER: &str = "libcuda.so.1";
/// The names of CUPTI for CUDA 13 and 12, and where NVIDIA's wheels put them, seen from libtorch's folder.
const NAMES: [&str; 2] = ["libcupti.so.13", "libcupti.so.12"];
const BESIDE_LIBTORCH: [&str; 4] = [
    "../../nvidia/cu13/lib/libcupti.so.13",
    "../../nvidia/cuda_cupti/lib/libcupti.so.12",
    "libcupti.so.13",
    "libcupti.so.12",
];

/// CUPTI; see its headers `cupti_activity.h` and `cupti_result.h`.
#[derive(Debug)]
pub(super) struct Cupti {
    /// What `dlopen` returned. It is never closed.
    handle: *mut c_void,
    name: PathBuf,
}

// SAFETY: the handle stays valid, and `dlsym` and CUPTI's functions may be called from any thread.
unsafe impl Send for Cupti {}
// SAFETY: likewise.
unsafe impl Sync for Cupti {}

impl Cupti {
    /// The library that [`VARIABLE`] names, the one that is loaded (libtorch is linked to it), the one that
    /// lies beside libtorch, or the loader's.
    pub fn find() -> Result<Self> {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            return Self::open(Path::new(&path))
                .map_err(|reason| anyhow!("`{VARIABLE}` names no CUPTI: {reason}"));
        }
        // Without a driver, CUPTI 13.2 crashes in `cuptiGetResultString`, and 13.4 and 13.5 say 999 to all calls.
        Self::open(Path::new(DRIVER)).map_err(|reason| {
            anyhow!(
                "no NVIDIA driver is installed ({reason}), so there is no GPU to record; install one"
            )
        })?;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let candidates = candidates(&maps);
        let opened = candidates.iter().find_map(|path| Self::open(path).ok());
        opened.ok_or_else(|| {
            let tried: Vec<String> = candidates
                .iter()
                .map(|path| path.shown().to_string())
                .collect();
            anyhow!(
                "CUPTI, NVIDIA's library for profilers, was not found; looked for {}; help: \
                 `pip install nvidia-cuda-cupti` (CUDA 13) or `nvidia-cuda-cupti-cu12` (CUDA 12) brings it, and \
                 {VARIABLE} may name its libcupti.so",
                tried.join(", ")
            )
        })
    }

    fn open(path: &Path) -> Result<Self, String> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: constructors run, those of NVIDIA's libraries, which expect that.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err(loader_error());
        }
        Ok(Cupti {
            handle,
            name: path.to_owned(),
        })
    }

    /// A function of it, which must be of the type `F`.
    pub fn function<F: Copy>(&self, name: &str) -> Result<F> {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>(), "{name}");
        let symbol = CString::new(name)?;
        // SAFETY: the handle is of a loaded library, and the name ends with a zero.
        let address = unsafe { libc::dlsym(self.handle, symbol.as_ptr()) };
        ensure!(
            !address.is_null(),
            "{} has no {name}: {}",
            self.name.shown(),
            loader_error()
        );
        // SAFETY: as large as a pointer, and the caller names the type that the header declares.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }

    /// Calls a function of the type `F`, and turns its code into an error.
    fn call<F: Copy>(&self, name: &str, call: impl FnOnce(F) -> c_int) -> Result<()> {
        match call(self.function(name)?) {
            0 => Ok(()),
            code => Err(self.error(name, code)),
        }
    }

    /// What a code other than 0 of one of its functions means.
    pub fn error(&self, name: &str, code: c_int) -> anyhow::Error {
        type GetResultString = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        const INSUFFICIENT_PRIVILEGES: c_int = 35;
        const MULTIPLE_SUBSCRIBERS: c_int = 39;

        let mut text = std::ptr::null();
        let found = self
            .function::<GetResultString>("cuptiGetResultString")
            // SAFETY: as the header declares it.
            .is_ok_and(|function| unsafe { function(code, &mut text) } == 0);
        let text = if found && !text.is_null() {
            // SAFETY: not null, and static.
            let text = unsafe { CStr::from_ptr(text) };
            format!("{} ({code})", text.to_string_lossy())
        } else {
            format!("error {code}")
        };
        let help = match code {
            INSUFFICIENT_PRIVILEGES => {
                "; help: the driver's option NVreg_RestrictProfilingToAdminUsers=0 lets every user profile"
            }
            MULTIPLE_SUBSCRIBERS => {
                "; help: another profiler, such as nsys, uses CUPTI; run without it"
            }
            _ => "",
        };
        anyhow!("CUPTI does not work: {name} says {text}{help}")
    }

    /// The layouts in [`super::buffers`] are those of CUDA 12 and 13.
    pub fn check_version(&self) -> Result<()> {
        type GetVersion = unsafe extern "C" fn(*mut u32) -> c_int;
        let mut version = 0;
        self.call("cuptiGetVersion", |f: GetVersion| {
            // SAFETY: as the header declares it.
            unsafe { f(&mut version) }
        })?;
        // CUDA 11.8 to 12.9 count from 18 to 28 (12.0 and 12.1 still say 18); from 13.0 on it is
        // 10000 * major + 100 * minor + update.
        ensure!(
            matches!(version, 18..100 | 130_000..140_000),
            "{} is CUPTI of version {version}, whose records this program cannot read; help: take that of CUDA 12 \
             (version 18 and above) or CUDA 13 (version 13xxxx)",
            self.name.shown()
        );
        Ok(())
    }

    pub fn register_callbacks(&self) -> Result<()> {
        type Register = unsafe extern "C" fn(buffers::Requested, buffers::Completed) -> c_int;
        self.call("cuptiActivityRegisterCallbacks", |f: Register| {
            // SAFETY: as the header declares it; the functions are static.
            unsafe { f(buffers::requested, buffers::completed) }
        })
    }

    /// Has CUPTI record activities of a kind, or not any more.
    pub fn set_enabled(&self, kind: u32, enabled: bool) -> Result<()> {
        type SetEnabled = unsafe extern "C" fn(u32) -> c_int;
        let name = if enabled {
            "cuptiActivityEnable"
        } else {
            "cuptiActivityDisable"
        };
        // SAFETY: as the header declares it, which declares both alike.
        self.call(name, |f: SetEnabled| unsafe { f(kind) })
    }

    /// Has CUPTI call back with all buffers, and waits for that.
    pub fn flush(&self) -> Result<()> {
        type FlushAll = unsafe extern "C" fn(u32) -> c_int;
        /// Also the buffers with a record that is not finished.
        const FORCED: u32 = 1;
        // SAFETY: as the header declares it.
        self.call("cuptiActivityFlushAll", |f: FlushAll| unsafe { f(FORCED) })
    }

    /// The time by the clock of its records, in nanoseconds.
    pub fn now(&self) -> Result<u64> {
        type GetTimestamp = unsafe extern "C" fn(*mut u64) -> c_int;
        let mut now = 0;
        self.call("cuptiGetTimestamp", |f: GetTimestamp| {
            // SAFETY: as the header declares it.
            unsafe { f(&mut now) }
        })?;
        Ok(now)
    }

    /// How many records it had no room for, since the last call.
    pub fn dropped(&self) -> Result<u64> {
        type GetNumDropped = unsafe extern "C" fn(*mut c_void, u32, *mut usize) -> c_int;
        let mut dropped = 0;
        self.call("cuptiActivityGetNumDroppedRecords", |f: GetNumDropped| {
            // SAFETY: as the header declares it; no context means all of them.
            unsafe { f(std::ptr::null_mut(), 0, &mut dropped) }
        })?;
        Ok(dropped as u64)
    }
}

/// Why the last call of the loader failed.
fn loader_error() -> String {
    // SAFETY: takes nothing; the text, if there is one, lives until the thread's next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: not null.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

/// Where CUPTI may be, the best first, given the content of `/proc/self/maps`.
fn candidates(maps: &str) -> Vec<PathBuf> {
    let loaded = || {
        let lines = maps.lines();
        lines.filter_map(|line| Some(Path::new(&line[line.find('/')?..])))
    };
    let is_called = |path: &Path, start: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(start) && name.contains(".so")
    };
    // Some builds of libtorch rename it: libcupti-1234abcd.so.12.
    let cupti = loaded().filter(|path| is_called(path, "libcupti"));
    let libtorch = loaded().filter(|path| is_called(path, "libtorch"));
    let beside = libtorch
        .filter_map(Path::parent)
        .flat_map(|folder| BESIDE_LIBTORCH.map(|path| folder.join(path)));
    let by_name = NAMES.into_iter().map(PathBuf::from);
    // A library has several lines.
    let mut seen = HashSet::new();
    let all = cupti.map(Path::to_owned).chain(beside).chain(by_name);
    all.filter(|path| seen.insert(path.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_comes_before_what_lies_beside_libtorch() {
        let maps = "\
            7f00-7f01 r--p 00000000 08:01 1    /opt/site/torch/lib/libtorch_cpu.so\n\
            7f01-7f02 r-xp 00001000 08:01 1    /opt/site/torch/lib/libtorch_cpu.so\n\
            7f02-7f03 r--p 00000000 00:00 0\n\
            7f03-7f04 r--p 00000000 08:01 2    /opt/my libs/libcupti-1b2c.so.12\n\
            7f04-7f05 r--p 00000000 08:01 3    /opt/libcupti_notes.txt\n";
        let found = candidates(maps);
        let found: Vec<&str> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "/opt/my libs/libcupti-1b2c.so.12",
                "/opt/site/torch/lib/../../nvidia/cu13/lib/libcupti.so.13",
                "/opt/site/torch/lib/../../nvidia/cuda_cupti/lib/libcupti.so.12",
                "/opt/site/torch/lib/libcupti.so.13",
                "/opt/site/torch/lib/libcupti.so.12",
                "libcupti.so.13",
                "libcupti.so.12",
            ]
        );
    }
}
