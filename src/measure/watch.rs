//! Counting what comes out of the node that is measured.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};
use rsflow_graph::{AnySink, Batch, Item, Payload as _, Planned, Sink, Tap};
use rsflow_model::train::metrics::Metric;

use super::digest::Digest;

/// Counts the items of one output; clones share the counts.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Seen>>);

/// What has come out so far.
pub struct Seen {
    /// Batches or images of a data node, steps of a trainer.
    pub items: u64,
    /// Images in these items.
    pub images: u64,
    /// When the last item came out; before the first, when the watch was made.
    pub last: Instant,
    /// The hash of the stream, if it is wanted.
    pub digest: Option<Digest>,
}

impl Watch {
    /// Nothing has come out yet.
    pub fn new(digest: Option<Digest>) -> Self {
        Watch(Arc::new(Mutex::new(Seen {
            items: 0,
            images: 0,
            last: Instant::now(),
            digest,
        })))
    }

    /// What has come out so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a node's output: a trainer's steps, or a stream of data.
    pub fn tap(&self, of: &Planned) -> Tap {
        let steps = of.kind.output_of(Metric::NAME);
        let sink: Box<dyn AnySink> = match steps {
            Some(_) => Box::new(Steps(self.clone())),
            None => Box::new(Stream {
                watch: self.clone(),
                batches: of.kind.output_of(Batch::NAME).is_some(),
                in_epoch: 0,
            }),
        };
        Tap {
            node: of.id.name.clone(),
            output: steps.unwrap_or(0),
            sink,
            name: "profile",
        }
    }

    fn count(&self, images: usize, hash: impl FnOnce(&mut Digest)) {
        let mut seen = self.seen();
        seen.items += 1;
        seen.images += images as u64;
        seen.last = Instant::now();
        seen.digest.as_mut().map(hash);
    }
}

/// Reads a stream of data and drops it.
struct Stream {
    watch: Watch,
    batches: bool,
    /// Items in the current epoch.
    in_epoch: u64,
}

impl AnySink for Stream {
    fn accept(&mut self, item: Item) -> Result<()> {
        self.in_epoch += 1;
        if self.batches {
            let batch: Batch = item.take()?;
            let images = batch.labels().len();
            self.watch.count(images, |digest| digest.batch(&batch));
        } else {
            self.watch.count(1, |_| {});
        }
        Ok(())
    }

    fn end_of_epoch(&mut self, epoch: u64) -> Result<()> {
        // Otherwise a run without `epochs` would never end.
        ensure!(
            std::mem::take(&mut self.in_epoch) > 0,
            "epoch {} has no batches: there are too few images for a full batch, for that many \
             processes (WORLD_SIZE), or for --start",
            epoch + 1
        );
        if let Some(digest) = &mut self.watch.seen().digest {
            digest.end_of_epoch(epoch);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Batches are large: one waits, as at a trainer.
    fn queue(&self) -> usize {
        if self.batches { 1 } else { 64 }
    }
}

/// Counts training steps.
struct Steps(Watch);

impl Sink for Steps {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        if let Metric::Step(step) = metric {
            self.0.count(step.images, |_| {});
        }
        Ok(())
    }
}
