//! One hash of a stream's bytes.

use rsflow_graph::{Batch, Position, World};
use xxhash_rust::xxh3::Xxh3;

/// A hash over the hashes of the samples and over the ends of epochs. How samples are gathered into
/// batches does not count, so a stream may be hashed from any sample on.
pub struct Digest {
    hash: Xxh3,
    /// The sample that comes next, in the order of all processes.
    at: Position,
    /// From one sample of this process to the next.
    stride: u64,
    /// The first that counts.
    from: Position,
    /// Samples that counted.
    samples: u64,
    /// The epoch of the first that counts has as many samples.
    reached: bool,
}

impl Digest {
    /// Nothing was hashed yet. `at`: where the stream starts; `from`: what is to be hashed.
    /// Of several processes each hashes its own samples.
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

    /// The next samples: label, then each resolution and its pixels.
    pub fn batch(&mut self, batch: &Batch) {
        for (slot, label) in batch.labels().iter().enumerate() {
            let counts = (self.at.epoch, self.at.sample) >= (self.from.epoch, self.from.sample);
            self.at.sample += self.stride;
            if !counts {
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

    /// That epoch is over.
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

    /// Whether the stream came to where hashing starts: at a sample, or where an epoch ends.
    pub fn reached(&self) -> bool {
        self.reached
    }

    /// xxh3 of 128 bits in hexadecimal, and of how many samples.
    pub fn finish(&self) -> (String, u64) {
        (format!("{:032x}", self.hash.digest128()), self.samples)
    }
}
