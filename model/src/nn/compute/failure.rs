//! Errors of memory and of the device.

use anyhow::Error;

use crate::nn::native::{FailureKind, LibtorchError};

/// The kind of failure of an error of libtorch; `None` for all others.
///
/// The shim's own calls know it from the type of the C++ exception. tch keeps only the text of one, and
/// some libraries have no type for it: then the text decides.
pub fn failure_kind(error: &Error) -> Option<FailureKind> {
    let typed = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<LibtorchError>()
            .and_then(LibtorchError::kind)
    });
    typed.or_else(|| kind_of_text(&format!("{error:#}")))
}

/// Whether an error says that memory ran out.
pub fn is_out_of_memory(error: &Error) -> bool {
    failure_kind(error) == Some(FailureKind::OutOfMemory)
}

/// By the text alone, as a last resort.
fn kind_of_text(text: &str) -> Option<FailureKind> {
    const OUT_OF_MEMORY: [&str; 4] = [
        // The allocators of GPUs, and CUDA's error 2.
        "out of memory",
        // The allocator of the CPU.
        "can't allocate memory",
        // cuDNN tries the next kernel while one has no memory, until there is none.
        "unable to find an engine",
        // cuBLAS and cuDNN, for memory of their own.
        "ALLOC_FAILED",
    ];
    const DEVICE: [&str; 3] = ["CUDA", "cuDNN", "CUBLAS"];
    let has = |known: &[&str]| known.iter().any(|known| text.contains(known));
    if has(&OUT_OF_MEMORY) {
        Some(FailureKind::OutOfMemory)
    } else if has(&DEVICE) {
        Some(FailureKind::Device)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn texts_of_libtorch_and_its_libraries() {
        use FailureKind::{Device, OutOfMemory};
        for (text, kind) in [
            (
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
                Some(OutOfMemory),
            ),
            ("CUDA error: out of memory", Some(OutOfMemory)),
            (
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: \
                 you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
                Some(OutOfMemory),
            ),
            (
                "GET was unable to find an engine to execute this computation",
                Some(OutOfMemory),
            ),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                Some(OutOfMemory),
            ),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Some(OutOfMemory)),
            (
                "CUDA error: the launch timed out and was terminated",
                Some(Device),
            ),
            (
                "CUDA error: an illegal memory access was encountered",
                Some(Device),
            ),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", Some(Device)),
            (
                "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
                Some(Device),
            ),
            ("a momentum has the shape [1], its parameter [2]", None),
            ("No space left on device (os error 28)", None),
        ] {
            assert_eq!(failure_kind(&anyhow!(text)), kind, "{text}");
            let wrapped = anyhow!(text).context("step 3 failed");
            assert_eq!(failure_kind(&wrapped), kind, "{text}, as a cause");
        }
    }

    #[test]
    fn a_type_counts_more_than_a_text() {
        let error = LibtorchError::new(Some(FailureKind::OutOfMemory), "no more".to_owned());
        let error = Error::new(error).context("CUDA failed");
        assert_eq!(failure_kind(&error), Some(FailureKind::OutOfMemory));
    }
}
