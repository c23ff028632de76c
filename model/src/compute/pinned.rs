//! Memory for batches that a GPU reads by itself.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::{Allocator, Memory, PlainMemory};
use tch::{Device, Kind, Tensor};

/// Memory for batches that are to be computed with on this device: pinned for a GPU, which then copies
/// from it while both sides go on; ordinary memory otherwise.
pub fn allocator(device: Device) -> Arc<dyn Allocator> {
    match device {
        Device::Cuda(_) => Arc::new(PinnedMemory(device)),
        _ => Arc::new(PlainMemory),
    }
}

/// For that GPU.
struct PinnedMemory(Device);

impl Allocator for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        let size = i64::try_from(bytes).context("a batch of that size")?;
        let tensor = Tensor::f_zeros([size], (Kind::Uint8, Device::Cpu))
            .and_then(|tensor| tensor.f_pin_memory(self.0))
            .with_context(|| {
                format!(
                    "no pinned memory for a batch of {:.1} GB; make it smaller, by its images or by their sizes",
                    bytes as f64 / 1e9
                )
            })?;
        ensure!(tensor.numel() == bytes, "a tensor of another size");
        Ok(Box::new(Pinned {
            start: tensor.data_ptr().cast(),
            bytes,
            _tensor: tensor,
        }))
    }
}

struct Pinned {
    start: *mut u8,
    bytes: usize,
    /// Whose memory it is. Nothing else has it.
    _tensor: Tensor,
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
        let tensor = Tensor::zeros([1000], (Kind::Uint8, Device::Cpu));
        let mut memory = Pinned {
            start: tensor.data_ptr().cast(),
            bytes: 1000,
            _tensor: tensor,
        };
        assert_eq!(memory.bytes(), [0; 1000]);
        memory.bytes_mut()[999] = 7;
        assert_eq!(memory.bytes()[998..], [0, 7]);
    }
}
