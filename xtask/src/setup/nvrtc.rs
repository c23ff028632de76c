//! NVIDIA's compiler for kernels, with which the tests compile ours where no GPU is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{clear, lock, pip};
use crate::workspace::Workspace;

/// The library in a folder of packages.
const LIBRARY: &str = "nvidia/cu13/lib/libnvrtc.so.13";
/// Of the CUDA that libtorch's wheel is for.
const PACKAGE: &str = "nvidia-cuda-nvrtc==13.0.*";

/// The library: beside libtorch, where that is for GPUs, or installed into .libtorch/ (110 MB).
pub fn nvrtc(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.libtorch_folder();
    let site = folder.join("site-nvrtc");
    let torch = workspace.libtorch_link().canonicalize().ok();
    let beside = torch.as_deref().and_then(Path::parent);
    let places = [beside, Some(&site)];
    let mut found = places.into_iter().flatten().map(|site| site.join(LIBRARY));
    if let Some(library) = found.find(|library| library.is_file()) {
        return Ok(library);
    }
    let _lock = lock(&folder)?;
    let stage = folder.join("installing");
    clear(&stage)?;
    let installed = pip(&stage, &["--no-deps", PACKAGE]);
    if installed.is_ok() {
        clear(&site)?;
        fs::rename(stage.join("site"), &site)?;
    }
    clear(&stage)?;
    installed.map(|()| site.join(LIBRARY))
}
