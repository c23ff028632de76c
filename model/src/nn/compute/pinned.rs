//! Page-locked (pinned) memory for batches.

use anyhow::{Context as _, Result, ensure};
use tch::{Kind, Tensor};

use crate::nn::native;

/// Bytes before a batch. libtorch records an event where memory that is copied from starts a block
/// of its own, and after an error of the GPU recording one would end the process.
const HEADROOM: usize = 64;

/// Page-locked memory, from which a GPU copies while both sides compute.
pub struct Pinned {
    start: *mut u8,
    bytes: usize,
    /// Whose memory it is. Nothing else has it.
    _tensor: Tensor,
}

impl Pinned {
    /// `bytes` bytes, all zero. The current device must be a GPU.
    ///
    /// # Errors
    /// The driver has no page-locked memory left; the message names the size.
    pub fn new(bytes: usize) -> Result<Self> {
        let tensor = native::pinned(bytes + HEADROOM).with_context(|| {
            format!(
                "no pinned memory for a batch of {:.1} GB; use smaller batches or smaller sizes",
                bytes as f64 / 1e9
            )
        })?;
        Self::of(tensor, bytes)
    }

    /// The part of a uint8 tensor, to which there is no other handle, behind what is left in front.
    fn of(mut tensor: Tensor, bytes: usize) -> Result<Self> {
        ensure!(
            tensor.f_kind()? == Kind::Uint8 && tensor.numel() == bytes + HEADROOM,
            "memory of another size"
        );
        let _ = tensor.f_zero_()?;
        Ok(Pinned {
            // SAFETY: the tensor is longer than that.
            start: unsafe { tensor.data_ptr().cast::<u8>().add(HEADROOM) },
            bytes,
            _tensor: tensor,
        })
    }
}

// SAFETY: plain bytes, which are written through `&mut` alone.
unsafe impl Send for Pinned {}
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the tensor is uint8, has so many elements side by side, and lives as long.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a handle to the tensor.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn bytes_of_a_tensor_are_written_and_read() {
        let whole = 1000 + HEADROOM as i64;
        let tensor = Tensor::ones([whole], (Kind::Uint8, Device::Cpu));
        let mut memory = Pinned::of(tensor, 1000).unwrap();
        assert_eq!(memory.bytes(), [0; 1000]);
        memory.bytes_mut()[999] = 7;
        assert_eq!(memory.bytes()[998..], [0, 7]);
    }
}
