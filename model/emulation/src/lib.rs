//! The GPU kernels, compiled for the CPU, so that tests run them where there is no GPU.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

unsafe extern "C" {
    fn rsflow_emulated_kernel(name: *const c_char) -> *mut c_void;
    fn rsflow_emulated_launch(
        function: *mut c_void,
        blocks_x: c_uint,
        blocks_y: c_uint,
        blocks_z: c_uint,
        threads_x: c_uint,
        threads_y: c_uint,
        threads_z: c_uint,
        shared_bytes: c_uint,
        stream: *mut c_void,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> c_int;
}

/// As `cuLaunchKernel`: blocks, threads of a block, bytes of shared memory, stream, arguments.
pub type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// Starts a kernel, and returns when it has run.
pub const LAUNCH: Launch = rsflow_emulated_launch;

/// The kernel of a name, for [`LAUNCH`]; null if there is none.
pub fn kernel(name: &CStr) -> *mut c_void {
    // SAFETY: compares the text with names.
    unsafe { rsflow_emulated_kernel(name.as_ptr()) }
}
