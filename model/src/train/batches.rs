//! The graph's batches as the network's floor sees them, and the memory they are filled in.

use std::sync::Arc;

use anyhow::Result;
use rsflow_graph::{Allocator, Batch, Memory, PlainMemory};
use tch::Device;

use crate::nn::compute::{DeviceChoice, Pinned};
use crate::nn::transfer::HostBatch;

impl HostBatch for Batch {
    fn labels(&self) -> &[i64] {
        Batch::labels(self)
    }

    fn images(&self) -> Vec<(u32, &[u8])> {
        let sides = self.resolutions().enumerate();
        sides
            .map(|(position, side)| (side, self.pixels(position)))
            .collect()
    }
}

/// Memory for batches that are computed with on the chosen device: page-locked for a GPU, which then
/// copies from it while both sides compute; ordinary memory otherwise. Where the device cannot be
/// opened, building the node reports it.
pub fn allocator(device: DeviceChoice) -> Arc<dyn Allocator> {
    match device.open() {
        Ok(Device::Cuda(_)) => Arc::new(PinnedMemory),
        _ => Arc::new(PlainMemory),
    }
}

struct PinnedMemory;

impl Allocator for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        Ok(Box::new(Pinned::new(bytes)?))
    }
}

impl Memory for Pinned {
    fn bytes(&self) -> &[u8] {
        Pinned::bytes(self)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        Pinned::bytes_mut(self)
    }
}
