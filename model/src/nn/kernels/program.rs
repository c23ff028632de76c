//! From the text of the kernels to a program of a GPU, compiled by NVRTC and kept in the user's cache.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use rsflow_base::shown::Shown as _;
use rsflow_base::{home, input_file, whole_file};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// The text of the kernels. NVRTC reads no files.
const TEXT: [&str; 4] = [
    include_str!("../../../native/gpu/arguments.h"),
    include_str!("../../../native/gpu/kernels.cu"),
    include_str!("../../../native/gpu/depthwise.cu"),
    include_str!("../../../native/gpu/entry_points.cu"),
];
/// Beside libtorch; linked to the NVRTC that it was built with, which lies elsewhere.
const BESIDE_LIBTORCH: &str = "libcaffe2_nvrtc.so";
/// A file in the cache: this, a checksum, the program.
const MAGIC: &[u8] = b"rsflow kernels 1\n";
/// What a program may have in the cache; they have some 200 KB.
const MAX_BYTES: u64 = 64 << 20;

/// The compute capability that a program is for: 9.0 is `(9, 0)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture(pub (u32, u32));

impl Architecture {
    fn option(self) -> String {
        let (major, minor) = self.0;
        format!("--gpu-architecture=sm_{major}{minor}")
    }
}

fn text() -> String {
    TEXT.concat().replace("#pragma once\n", "")
}

/// The program for a GPU: from the user's cache, or compiled and put there.
pub(super) fn cached(
    architecture: Architecture,
    compile: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    cached_in(home::cache_folder().as_deref(), architecture, compile)
}

fn cached_in(
    cache: Option<&Path>,
    architecture: Architecture,
    compile: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let key = xxh3_128(format!("{}\n{}", architecture.option(), text()).as_bytes());
    let path = cache.map(|cache| cache.join(format!("{key:032x}.rsflow-kernels")));
    if let Some(found) = path.as_deref().and_then(load) {
        return Ok(found);
    }
    let program = compile()?;
    // A program that cannot be kept can be compiled again.
    if let Some(path) = path
        && let Err(error) = save(&path, &program)
    {
        tracing::debug!(path = %path.shown(), "the kernels are not kept: {error}");
    }
    Ok(program)
}

fn load(path: &Path) -> Option<Vec<u8>> {
    let bytes = input_file::read(path, MAX_BYTES).ok()?;
    let program = decode(&bytes).map(<[u8]>::to_vec);
    if program.is_none() {
        tracing::warn!(file = %path.shown(), "the file with the kernels is damaged, compiling them again");
    }
    program
}

fn decode(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, program) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    (u64::from_le_bytes(*sum) == xxh3_64(program)).then_some(program)
}

fn save(path: &Path, program: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let sum = xxh3_64(program).to_le_bytes();
    whole_file::write_cache(path, &[MAGIC, &sum, program].concat())
}

/// NVIDIA's compiler for kernels that come as text; see its header `nvrtc.h`.
#[derive(Debug)]
pub struct Compiler {
    library: Library,
}

/// A program that is being compiled.
type Program = *mut c_void;

impl Compiler {
    /// The one that belongs to libtorch.
    ///
    /// # Errors
    /// There is none.
    pub fn of_libtorch() -> Result<Self> {
        Self::open(Path::new(BESIDE_LIBTORCH))
    }

    /// The library of that name or path.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: constructors run, those of NVIDIA's and PyTorch's libraries, which expect that.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|error| anyhow!("NVRTC cannot be loaded ({error})"))?;
        open_builtins();
        Ok(Compiler { library })
    }

    /// Compiles the kernels for an architecture.
    ///
    /// # Errors
    /// It does not know the architecture, or is no NVRTC.
    pub fn compile(&self, architecture: Architecture) -> Result<Vec<u8>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

        let source = CString::new(text())?;
        let options = [architecture.option(), "--std=c++17".to_owned()];
        let options: Vec<CString> = options
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        self.call("nvrtcCreateProgram", |f: Create| {
            // SAFETY, here and below: as the header declares it, with places that outlive the call.
            unsafe {
                f(
                    &mut program,
                    source.as_ptr(),
                    c"kernels.cu".as_ptr(),
                    0,
                    none,
                    none,
                )
            }
        })?;
        let compiled = self.call("nvrtcCompileProgram", |f: Compile| unsafe {
            f(program, options.len() as c_int, options.as_ptr())
        });
        let result = match compiled {
            Ok(()) => self.bytes(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
            Err(error) => {
                let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
                let log = log.unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let log = log.trim_end_matches('\0').trim();
                Err(error.context(format!(
                    "NVRTC cannot compile the kernels with {}: {log}",
                    architecture.option()
                )))
            }
        };
        let _ = self.call("nvrtcDestroyProgram", |f: Destroy| unsafe {
            f(&mut program)
        });
        result
    }

    /// What two functions say of a program: how long something is, and what it is.
    fn bytes(&self, program: Program, size: &str, content: &str) -> Result<Vec<u8>> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Content = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let mut length = 0;
        // SAFETY, here and below: as the header declares it, with places that outlive the call.
        self.call(size, |f: Size| unsafe { f(program, &mut length) })?;
        ensure!(length as u64 <= MAX_BYTES, "{length} bytes of {content}");
        let mut bytes = vec![0; length];
        self.call(content, |f: Content| unsafe {
            f(program, bytes.as_mut_ptr().cast())
        })?;
        Ok(bytes)
    }

    /// Calls a function of the type `F`, and turns its code into an error.
    fn call<F: Copy>(&self, name: &str, call: impl FnOnce(F) -> c_int) -> Result<()> {
        type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
        let symbol = format!("{name}\0");
        // SAFETY: the caller names the type that the header declares.
        let function = unsafe { self.library.get::<F>(symbol.as_bytes()) };
        let function = function.map_err(|error| anyhow!("NVRTC has no {name}: {error}"))?;
        let code = call(*function);
        if code == 0 {
            return Ok(());
        }
        // SAFETY: as the header declares it; the text is static.
        let text = unsafe {
            let describe = self.library.get::<ErrorString>(b"nvrtcGetErrorString\0");
            describe.map(|describe| {
                CStr::from_ptr(describe(code))
                    .to_string_lossy()
                    .into_owned()
            })
        };
        bail!("{name} says {}", text.unwrap_or_else(|_| code.to_string()))
    }
}

/// NVRTC opens a library of its own by name alone, so one that is not in the loader's folders must be open
/// already: it lies beside NVRTC.
fn open_builtins() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let is_called = |path: &Path, start: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(start)
    };
    let nvrtc = paths
        .filter(|path| is_called(path, "libnvrtc.so"))
        .find_map(Path::parent);
    let beside = nvrtc.and_then(|folder| fs::read_dir(folder).ok());
    let builtins: Vec<PathBuf> = beside
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_called(path, "libnvrtc-builtins.so"))
        .collect();
    for path in builtins {
        // SAFETY: as above.
        if let Ok(library) = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            std::mem::forget(library);
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_program_is_compiled_once_for_each_architecture() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Some(folder.path());
        let old = Architecture((8, 0));
        let compiled = |architecture, program: &[u8]| {
            cached_in(cache, architecture, || Ok(program.to_vec())).unwrap()
        };
        let found = |architecture| cached_in(cache, architecture, || bail!("not found")).ok();

        assert_eq!(found(old), None);
        assert_eq!(compiled(old, b"first"), b"first");
        assert_eq!(found(old).as_deref(), Some(&b"first"[..]));
        assert_eq!(found(Architecture((9, 0))), None);

        // Every change of the file is noticed, and the program made anew.
        let entry = fs::read_dir(&folder).unwrap().next().unwrap();
        let path = entry.unwrap().path();
        let sound = fs::read(&path).unwrap();
        for damage in 0..=sound.len() {
            let mut bytes = sound.clone();
            match bytes.get_mut(damage) {
                Some(byte) => *byte ^= 1,
                None => bytes.truncate(sound.len() - 1),
            }
            fs::write(&path, bytes).unwrap();
            assert_eq!(found(old), None, "{damage}");
        }
        assert_eq!(compiled(old, b"again"), b"again");
        assert_eq!(found(old).as_deref(), Some(&b"again"[..]));
    }

    #[test]
    fn what_cannot_be_kept_is_compiled_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for cache in [None, Some(file.path())] {
            for _ in 0..2 {
                let program = cached_in(cache, Architecture((9, 0)), || Ok(vec![7]));
                assert_eq!(program.unwrap(), [7]);
            }
        }
    }

    #[test]
    fn a_missing_compiler_is_told() {
        let error = Compiler::open(Path::new("/nowhere/libnvrtc.so")).unwrap_err();
        assert!(
            error.to_string().contains("NVRTC cannot be loaded"),
            "{error}"
        );
    }
}
