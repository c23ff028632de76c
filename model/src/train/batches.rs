//! The graph's batches as the network's floor sees them, and the memory they are filled in.

use std::sync::Arc;

use anyhow::{Result, ensure};
use rsflow_graph::{
    Allocator, Batch, Contents, Incoming, Memory, PlainMemory, Report, World, counted,
};
use tch::Device;

use crate::checkpoint::ClassMap;
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

/// A batch with the labels of a network whose classes are in another order than the data's.
#[derive(Clone, Debug)]
pub struct Labelled {
    batch: Batch,
    /// `None`: the batch's own.
    labels: Option<Vec<i64>>,
}

impl Labelled {
    pub fn new(batch: &Batch, classes: &ClassMap) -> Self {
        Labelled {
            labels: classes.labels(batch.labels()),
            batch: batch.clone(),
        }
    }
}

impl Labelled {
    /// See [`Batch::replaced`].
    pub fn replaced(&self) -> &[usize] {
        self.batch.replaced()
    }
}

impl HostBatch for Labelled {
    fn labels(&self) -> &[i64] {
        self.labels
            .as_deref()
            .unwrap_or_else(|| self.batch.labels())
    }

    fn images(&self) -> Vec<(u32, &[u8])> {
        self.batch.images()
    }
}

/// Checks the batches that a trainer validates on, which come in at `port`.
pub fn check_validation(inputs: &[Incoming], port: &str, report: &mut Report) {
    check_growth(inputs, port, report);
    check_dropped(inputs, port, report);
    check_turned(inputs, port, report);
}

/// Warns where images are turned upright for one of training and validation alone.
fn check_turned(inputs: &[Incoming], port: &str, report: &mut Report) {
    let (validated, trained): (Vec<_>, Vec<_>) = inputs.iter().partition(|it| it.port == port);
    let turns = |input: &Incoming| Some(input.schema.preprocess?.exif_orientation);
    let turning = |inputs: &[&Incoming]| inputs.first().copied().and_then(turns);
    if let (Some(train), Some(validate)) = (turning(&trained), turning(&validated))
        && train != validate
    {
        let (turned, others) = match train {
            true => ("training", "validation"),
            false => ("validation", "training"),
        };
        report.warning(
            port,
            format!("images for {turned} are turned as their EXIF orientation says, those for {others} are not"),
            "give both nodes `DecodeImage` the same `exif_orientation`",
        );
    }
}

/// Refuses images to measure with at the input `port` whose sizes grow over the epochs.
pub fn check_growth(inputs: &[Incoming], port: &str, report: &mut Report) {
    let mut inputs = inputs.iter();
    if let Some(input) = inputs.find(|input| input.port == port && input.schema.growth.is_some()) {
        report.parameter(
            port,
            format!(
                "the images of `{}` do not have their full size in every epoch",
                input.node
            ),
            "leave out `growth` of the sizes that lead to it",
        );
    }
}

/// Warns where the input `port`, which accuracy is measured with, may lack the last batch of an epoch.
pub fn check_dropped(inputs: &[Incoming], port: &str, report: &mut Report) {
    let mut inputs = inputs.iter();
    if let Some(input) = inputs.find(|input| input.port == port && input.schema.drops_last) {
        report.warning(
            port,
            format!(
                "`{}` drops the last batch if it is not full: the accuracy may be that of a part of the images",
                input.node
            ),
            format!("write `drop_last: false` in `{}`", input.node),
        );
    }
}

/// The same when the number of images is known.
pub fn warn_of_dropped_images(contents: &Contents, world: World) {
    let full = contents.items_per_epoch.saturating_sub(1) * contents.group;
    // Of several processes each has a share; the first one has the largest.
    let measured = (full + contents.last_group) * u64::from(world.size);
    if world.rank == 0 && measured < contents.samples {
        tracing::warn!(
            "`drop_last: true` leaves out {} of the {} images of {}: the accuracy is that of the others",
            contents.samples - measured,
            contents.samples,
            contents.origin
        );
    }
}

/// Refuses data, which comes in at the input `port`, that does not fill a single batch.
///
/// # Errors
/// It does not.
pub fn check_one_batch(port: &str, contents: &Contents, world: World) -> Result<()> {
    ensure!(
        contents.items_per_epoch > 0,
        "`{port}` gets no batch: {} has {}, fewer than the `size: {}` of its batches, and `drop_last: true` leaves out \
         a batch that is not full; give a smaller `size`, or `drop_last: false`",
        contents.origin,
        counted(
            usize::try_from(contents.samples).unwrap_or(usize::MAX),
            "image"
        ),
        contents.group * u64::from(world.size)
    );
    Ok(())
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
