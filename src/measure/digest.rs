//! A hash of a stream of batches.

use rsflow_graph::{Batch, Position, World};
use xxhash_rust::xxh3::Xxh3;

/// A hash over the hashes of the samples and the ends of epochs. It does not depend on how samples
/// are grouped into batches, so a stream can be hashed from any sample on.
pub struct Digest {
    hash: Xxh3,
    /// The next sample, in the order of all processes.
    at: Position,
    /// Distance from one sample of this process to the next.
    stride: u64,
    /// The first sample that is hashed.
    from: Position,
    /// Number of samples hashed.
    samples: u64,
    /// Whether the epoch of `from` is long enough to hold it.
    reached: bool,
}

impl Digest {
    /// `at`: where the stream starts; `from`: the first sample to hash. Each process of `world`
    /// hashes its own samples.
    pub fn new(at: Position, from: Position, world: World) -> Self {
        Digest {
            hash: Xxh3::new(),
            stride: world.size.into(),
            at,
            from,
            samples: 0,
            reached: false,
        }
    }

    /// Adds a batch: of each sample the label, then each resolution and its pixels.
    pub fn batch(&mut self, batch: &Batch) {
        for (slot, label) in batch.labels().iter().enumerate() {
            let is_hashed = (self.at.epoch, self.at.sample) >= (self.from.epoch, self.from.sample);
            self.at.sample += self.stride;
            if !is_hashed {
                continue;
            }
            let mut sample = Xxh3::new();
            sample.update(&label.to_le_bytes());
            for (position, resolution) in batch.resolutions().enumerate() {
                let pixels = batch.pixels(position);
                let length = pixels.len() / batch.labels().len();
                sample.update(&resolution.to_le_bytes());
                sample.update(&pixels[slot * length..(slot + 1) * length]);
            }
            self.hash.update(b"sample");
            self.hash.update(&sample.digest128().to_le_bytes());
            self.samples += 1;
        }
    }

    /// Adds the end of an epoch.
    pub fn end_of_epoch(&mut self, epoch: u64) {
        if epoch == self.from.epoch {
            self.reached = self.at.sample >= self.from.sample;
        }
        if epoch >= self.from.epoch {
            self.hash.update(b"epoch");
            self.hash.update(&epoch.to_le_bytes());
        }
        self.at = Position {
            epoch: epoch + 1,
            sample: 0,
        };
    }

    /// Whether the stream reached the first sample to hash, or the end of its epoch just before it.
    pub fn reached(&self) -> bool {
        self.reached
    }

    /// The hash (xxh3, 128 bits) in hexadecimal, and the number of samples.
    pub fn finish(&self) -> (String, u64) {
        (format!("{:032x}", self.hash.digest128()), self.samples)
    }
}
