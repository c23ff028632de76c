//! The kernels for GPUs on the CPU.

use std::sync::Once;

use rsflow_model::nn::kernels::{kernel_names, use_kernels};

/// Has the emulation's kernels used for tensors on the CPU.
pub fn emulate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let functions = kernel_names().into_iter().map(rsflow_emulation::kernel);
        let functions: Vec<_> = functions.collect();
        // SAFETY: they are the kernels of these names, and are never unloaded.
        unsafe { use_kernels(rsflow_emulation::LAUNCH, &functions, None) }.unwrap();
    });
}
