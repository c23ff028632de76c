//! Memory for batches that a GPU reads by itself.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::{Allocator, Memory, PlainMemory};
use tch::{Device, Kind, Tensor};

use crate::native;

/// Memory for batches that are to be computed with on this device: pinned for a GPU, which then copies
/// from it while both sides go on; ordinary memory otherwise.
pub fn allocator(device: Device) -> Arc<dyn Allocator> {
    match device {
        Device::Cuda(_) => Arc::new(PinnedMemory),
        _ => Arc::new(PlainMemory),
    }
}

/// For that GPU.
struct PinnedMemory;

/// Bytes in front of a batch. libtorch records an event where memory that is copied from starts a block
/// of its own, and after an error of the GPU recording one would end the process.
const IN_FRONT: usize = 64;

impl Allocator for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        let tensor = native::pinned(bytes + IN_FRONT).with_context(|| {
            format!(
                "no pinned memory for a batch of {:.1} GB; make it smaller, by its images or by their sizes",
                bytes as f64 / 1e9
            )
        })?;
        Ok(Box::new(Pinned::of(tensor, bytes)?))
    }
}

struct Pinned {
    start: *mut u8,
    bytes: usize,
    /// Whose memory it is. Nothing else has it.
    _tensor: Tensor,
}

impl Pinned {
    /// The part of a uint8 tensor, to which there is no other handle, behind what is left in front.
    fn of(mut tensor: Tensor, bytes: usize) -> Result<Self> {
        ensure!(
            tensor.f_kind()? == Kind::Uint8 && tensor.numel() == bytes + IN_FRONT,
            "memory of another size"
        );
        let _ = tensor.f_zero_()?;
        Ok(Pinned {
            // SAFETY: the tensor is longer than that.
            start: unsafe { tensor.data_ptr().cast::<u8>().add(IN_FRONT) },
            bytes,
            _tensor: tensor,
        })
    }
}

// SAFETY: plain bytes, which are written through `&mut` alone.
unsafe impl Send for Pinned {}
unsafe impl Sync for Pinned {}

impl Memory for Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the tensor is uint8, has so many elements side by side, and lives as long.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a handle to the tensor.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_tensor_are_written_and_read() {
        let whole = 1000 + IN_FRONT as i64;
        let tensor = Tensor::ones([whole], (Kind::Uint8, Device::Cpu));
        let mut memory = Pinned::of(tensor, 1000).unwrap();
        assert_eq!(memory.bytes(), [0; 1000]);
        memory.bytes_mut()[999] = 7;
        assert_eq!(memory.bytes()[998..], [0, 7]);
    }
}
