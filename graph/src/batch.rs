//! Batches, the items that data nodes send to the model: pixels by resolution, and labels.
//!
//! They are defined here because neither side may depend on the other. To the graph they are plain
//! memory; to both sides, a contiguous uint8 array `[batch, resolution, resolution, 3]` (RGB) for
//! each resolution.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::item::Payload;

/// Bytes of one sample at one resolution.
pub fn bytes_per_image(resolution: u32) -> usize {
    let side = resolution as usize;
    side * side * 3
}

/// Allocates memory for batches: plain, or pinned for a GPU.
pub trait Allocator: Send + Sync {
    /// At least `bytes` bytes, zeroed.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>>;
}

pub trait Memory: Send + Sync {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Ordinary heap memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainMemory;

impl Allocator for PlainMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(bytes).with_context(|| {
            format!(
                "cannot allocate {:.1} GB for a batch; reduce its `size` or the resolutions",
                bytes as f64 / 1e9
            )
        })?;
        memory.resize(bytes, 0);
        Ok(Box::new(memory))
    }
}

impl Memory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Reuses the memory of batches, so that the steady state allocates nothing. The number of buffers is
/// bounded by the queues that hold the batches.
#[derive(Clone)]
pub struct Pool {
    allocator: Arc<dyn Allocator>,
    bytes: usize,
    free: Arc<Mutex<Vec<Box<dyn Memory>>>>,
}

impl Pool {
    /// A pool of buffers of `bytes` bytes.
    pub fn new(allocator: Arc<dyn Allocator>, bytes: usize) -> Self {
        Pool {
            allocator,
            bytes,
            free: Arc::default(),
        }
    }

    fn take(&self) -> Result<Pooled> {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let memory = match free {
            Some(memory) => memory,
            None => self.allocator.allocate(self.bytes)?,
        };
        ensure!(
            memory.bytes().len() >= self.bytes,
            "the allocator returned {} bytes, expected {}",
            memory.bytes().len(),
            self.bytes
        );
        Ok(Pooled {
            memory: Some(memory),
            home: Arc::clone(&self.free),
        })
    }
}

/// Returns to its pool when dropped.
struct Pooled {
    memory: Option<Box<dyn Memory>>,
    home: Arc<Mutex<Vec<Box<dyn Memory>>>>,
}

impl Pooled {
    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| memory.bytes())
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let memory = self.memory.take();
        let mut free = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(memory);
    }
}

/// A finished batch. Cloning shares the memory.
#[derive(Clone)]
pub struct Batch(Arc<Contents>);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resolutions: Vec<u32> = self.resolutions().collect();
        write!(f, "{} images at {resolutions:?}", self.labels().len())
    }
}

struct Contents {
    memory: Pooled,
    regions: Vec<(u32, Range<usize>)>,
    labels: Vec<i64>,
    /// Slots, sorted.
    replaced: Vec<usize>,
}

impl Payload for Batch {
    const NAME: &'static str = "batches";

    fn bytes(&self) -> u64 {
        let regions = self.0.regions.iter();
        regions.map(|(_, region)| region.len() as u64).sum()
    }
}

impl Batch {
    /// Class indices.
    pub fn labels(&self) -> &[i64] {
        &self.0.labels
    }

    /// Positions of images that took the place of damaged ones, sorted: they are in the epoch twice.
    pub fn replaced(&self) -> &[usize] {
        &self.0.replaced
    }

    /// The resolutions, in the order of the recipe.
    pub fn resolutions(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.0.regions.iter().map(|(resolution, _)| *resolution)
    }

    /// The pixels `[batch, resolution, resolution, 3]` of the `position`-th resolution.
    pub fn pixels(&self, position: usize) -> &[u8] {
        &self.0.memory.bytes()[self.0.regions[position].1.clone()]
    }
}

/// A batch that is being filled: many threads write samples, each into its own slot.
pub struct Slots {
    contents: Contents,
    base: *mut u8,
    state: Vec<Mutex<SlotState>>,
}

#[derive(Clone, Copy, PartialEq)]
enum SlotState {
    Empty,
    Written { label: i64, replaced: bool },
}

// `base` points into memory that `contents` owns for as long as the `Slots` live, and is only
// written through `write`, which holds the lock of the slot whose bytes it touches.
unsafe impl Send for Slots {}
unsafe impl Sync for Slots {}

impl Slots {
    /// Takes memory for `batch` samples at each of `resolutions` from `pool`, whose buffers must hold
    /// [`Slots::bytes`].
    pub fn new(pool: &Pool, resolutions: &[u32], batch: usize) -> Result<Self> {
        let mut end = 0;
        let regions: Vec<_> = resolutions
            .iter()
            .map(|&resolution| {
                let start = end;
                end += batch * bytes_per_image(resolution);
                (resolution, start..end)
            })
            .collect();
        ensure!(
            end <= pool.bytes,
            "a batch of {end} bytes does not fit into a buffer of {}",
            pool.bytes
        );
        let mut memory = pool.take()?;
        let base = match memory.memory.as_mut() {
            Some(memory) => memory.bytes_mut().as_mut_ptr(),
            None => std::ptr::null_mut(),
        };
        Ok(Slots {
            base,
            contents: Contents {
                memory,
                regions,
                labels: Vec::new(),
                replaced: Vec::new(),
            },
            state: (0..batch).map(|_| Mutex::new(SlotState::Empty)).collect(),
        })
    }

    /// Size of a batch in bytes.
    pub fn bytes(resolutions: &[u32], batch: usize) -> usize {
        resolutions
            .iter()
            .map(|&resolution| batch * bytes_per_image(resolution))
            .sum()
    }

    /// Writes the sample of `slot`: calls `fill` for each resolution with the resolution's position
    /// and the slot's bytes `[resolution, resolution, 3]`. After an error the slot is empty and may be
    /// written again.
    pub fn write(
        &self,
        slot: usize,
        label: i64,
        mut fill: impl FnMut(usize, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        ensure!(slot < self.state.len(), "slot {slot} is outside the batch");
        let mut state = self.state[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *state = SlotState::Empty;
        for (position, (resolution, region)) in self.contents.regions.iter().enumerate() {
            let bytes = bytes_per_image(*resolution);
            // In bounds: `new` made each region `batch` times `bytes` long within the memory.
            // Not aliased: regions and slots do not overlap, and this slot's lock is held.
            let out = unsafe {
                std::slice::from_raw_parts_mut(self.base.add(region.start + slot * bytes), bytes)
            };
            fill(position, out)?;
        }
        *state = SlotState::Written {
            label,
            replaced: false,
        };
        Ok(())
    }

    /// Says of the sample in `slot`, which was written, that it took the place of a damaged one.
    pub fn mark_replaced(&self, slot: usize) {
        if let Some(state) = self.state.get(slot)
            && let SlotState::Written { replaced, .. } =
                &mut *state.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *replaced = true;
        }
    }

    /// The batch. Fails if a slot is empty.
    pub fn finish(self) -> Result<Batch> {
        let mut labels = Vec::with_capacity(self.state.len());
        let mut all_replaced = Vec::new();
        for (slot, state) in self.state.iter().enumerate() {
            match *state.lock().unwrap_or_else(PoisonError::into_inner) {
                SlotState::Written { label, replaced } => {
                    labels.push(label);
                    all_replaced.extend(replaced.then_some(slot));
                }
                SlotState::Empty => anyhow::bail!("slot {slot} of the batch is empty"),
            }
        }
        Ok(Batch(Arc::new(Contents {
            labels,
            replaced: all_replaced,
            ..self.contents
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fill_regions_and_memory_returns() {
        let resolutions = [2, 1];
        let pool = Pool::new(Arc::new(PlainMemory), Slots::bytes(&resolutions, 2));
        for round in 0..3u8 {
            let slots = Slots::new(&pool, &resolutions, 2).unwrap();
            for slot in [1, 0] {
                slots
                    .write(slot, slot as i64 + 5, |position, out| {
                        out.fill(round + 10 * slot as u8 + 100 * position as u8);
                        Ok(())
                    })
                    .unwrap();
            }
            if round == 1 {
                slots.mark_replaced(1);
            }
            let batch = slots.finish().unwrap();
            assert_eq!(batch.labels(), [5, 6]);
            assert_eq!(batch.replaced(), if round == 1 { &[1][..] } else { &[] });
            assert_eq!(batch.pixels(0)[..12], [round; 12]);
            assert_eq!(batch.pixels(0)[12..], [round + 10; 12]);
            assert_eq!(
                batch.pixels(1),
                [[round + 100; 3], [round + 110; 3]].concat()
            );
        }
        assert_eq!(pool.free.lock().unwrap().len(), 1, "one buffer is reused");
    }

    #[test]
    fn an_unwritten_or_failed_slot_is_an_error() {
        let pool = Pool::new(Arc::new(PlainMemory), Slots::bytes(&[1], 1));
        let slots = Slots::new(&pool, &[1], 1).unwrap();
        assert!(slots.write(0, 0, |_, _| anyhow::bail!("no")).is_err());
        assert!(slots.finish().is_err());
    }
}
