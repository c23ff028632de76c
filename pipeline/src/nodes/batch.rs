//! `Batch`: consecutive images, each rendered straight into its slot.

use anyhow::{Result, ensure};
use rsflow_graph::{
    Build, Context, Fold, Growth, Incoming, Input, Node, NodeKind, Payload, Pool, Port, Report,
    Schema, Slots, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{input, output};
use crate::images::SizedImages;

/// Gathers images into batches: for each size one contiguous uint8 array `[batch, size, size, 3]`,
/// and the labels. Values are widened and normalized on the device, not here.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The images.
    input: Input,
    /// Images in a batch. With several processes, in the batch of all of them (the global batch):
    /// each process takes an equal part.
    size: usize,
    /// Drop the last batch of an epoch if it is not full.
    #[serde(default)]
    drop_last: bool,
    /// Finished batches that may wait for the trainer. Each takes memory.
    #[serde(default = "default_prefetch")]
    prefetch: usize,
}

fn default_prefetch() -> usize {
    2
}

/// Upper bounds that catch typos.
const MAX_BATCH: u64 = 1 << 20;
const MAX_PREFETCH: u64 = 1 << 10;

impl Node for Batch {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let (size, prefetch) = (self.size as u64, self.prefetch as u64);
        report.limit("size", size, 1..=MAX_BATCH, "such as `size: 256`");
        report.limit("prefetch", prefetch, 1..=MAX_PREFETCH, "2 is the default");
        let schema = |input: &Incoming| Schema {
            drops_last: self.drop_last,
            ..input.schema.clone()
        };
        inputs.iter().map(schema).collect()
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let schema = build.schemas.first().map(|(_, schema)| schema.clone());
        let Schema {
            resolutions,
            growth,
            ..
        } = schema.unwrap_or_default();
        let processes = build.run.world.size.max(1) as usize;
        ensure!(
            self.size.is_multiple_of(processes),
            "`size: {}` cannot be shared out evenly among {processes} processes; make it a multiple of \
             {processes}",
            self.size
        );
        let size = self.size / processes;
        let bytes = Slots::bytes(&resolutions, size);
        Ok(Stage::fold(Batching {
            size,
            drop_last: self.drop_last,
            prefetch: self.prefetch,
            pool: Pool::new(build.allocator.clone(), bytes),
            resolutions,
            growth,
        }))
    }

    fn batch_size(&self) -> Option<u64> {
        Some(self.size as u64)
    }
}

struct Batching {
    /// Images of this process.
    size: usize,
    drop_last: bool,
    prefetch: usize,
    pool: Pool,
    resolutions: Vec<u32>,
    growth: Option<Growth>,
}

impl Fold for Batching {
    type In = SizedImages;
    type Group = Slots;
    type Out = rsflow_graph::Batch;

    fn group(&self) -> usize {
        self.size
    }

    fn drop_last(&self) -> bool {
        self.drop_last
    }

    fn prefetch(&self) -> usize {
        self.prefetch
    }

    fn open(&self, items: usize, epoch: u64) -> Result<Slots> {
        match self.growth {
            None => Slots::new(&self.pool, &self.resolutions, items),
            Some(growth) => {
                let sizes = growth.sizes(&self.resolutions, epoch);
                Slots::new(&self.pool, &sizes, items)
            }
        }
    }

    fn place(
        &self,
        slots: &Slots,
        slot: usize,
        images: SizedImages,
        context: &Context,
    ) -> Result<()> {
        images.render(slots, slot)?;
        if context.key.attempt > 0 {
            slots.mark_replaced(slot);
        }
        Ok(())
    }

    fn close(&self, slots: Slots) -> Result<rsflow_graph::Batch> {
        slots.finish()
    }
}

impl NodeKind for Batch {
    const NAME: &'static str = "Batch";
    const SUMMARY: &'static str = "gathers images into batches, one array for each size";
    const INPUTS: &'static [Port] = &[input(SizedImages::NAME)];
    const OUTPUTS: &'static [Port] = &[output(rsflow_graph::Batch::NAME)];
    const EXAMPLE: &'static str = r#"Batch(input: "train_sizes", size: 256)"#;
}
