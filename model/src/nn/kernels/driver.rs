//! A compiled program, loaded by NVIDIA's driver.

use std::ffi::{c_char, c_int, c_void};

use anyhow::{Context as _, Result};

use super::operators::{Launch, kernel_names, use_kernels};
use crate::nn::compute::Driver;

/// Loads a program onto a GPU, whose context is the thread's, and has its kernels used. It stays loaded.
pub(super) fn load(program: &[u8], gpu: usize) -> Result<()> {
    type LoadData = unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int;
    type GetFunction = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int;

    let driver = Driver::open()?;
    let mut module = std::ptr::null_mut();
    // SAFETY, here and below: as the driver's header declares it, with places that outlive the call.
    let loaded = driver.call("cuModuleLoadData", |f: LoadData| unsafe {
        f(&mut module, program.as_ptr().cast())
    });
    loaded.context("cannot load the kernels")?;
    let functions = kernel_names().into_iter().map(|name| {
        let mut function = std::ptr::null_mut();
        driver.call("cuModuleGetFunction", |f: GetFunction| unsafe {
            f(&mut function, module, name.as_ptr())
        })?;
        anyhow::Ok(function)
    });
    let functions: Vec<*mut c_void> = functions.collect::<Result<_>>()?;
    let launch = driver.function::<Launch>("cuLaunchKernel")?;
    // SAFETY: the functions have these names, and neither the module nor the driver is ever unloaded.
    unsafe { use_kernels(launch, &functions, Some(gpu)) }
}
