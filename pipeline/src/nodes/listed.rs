//! The source that all nodes are that read a listing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::seq::SliceRandom as _;
use rsflow_graph::{Contents, Context, OnError, Source, random};

use crate::images::EncodedImage;
use crate::listing::Listing;

/// What makes reading faster.
pub(super) const TUNING_HINT: &str = "a faster disk helps";

/// Parameters that sources of files once had.
pub(super) const REMOVED: &[(&str, &str)] = &[(
    "shard",
    "remove it: which process reads which images is no part of the recipe any more, but of the launch \
     (RANK and WORLD_SIZE in the environment, as torchrun sets them)",
)];

/// A listing at work.
pub(super) struct Listed {
    pub listing: Listing,
    /// Seed and node name, if each epoch is shuffled.
    pub order: Option<(u64, String)>,
    pub on_error: OnError,
    pub read_timeout: Option<Duration>,
}

impl Source for Listed {
    type Out = EncodedImage;

    fn contents(&self) -> Contents {
        Contents {
            items_per_epoch: self.listing.len().into(),
            classes: Arc::clone(&self.listing.classes),
            group: 1,
            last_group: 1,
            origin: self.listing.origin.clone(),
            ..Contents::default()
        }
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.listing.len()).collect();
        if let Some((seed, node)) = &self.order {
            order.shuffle(&mut random(*seed, node, "shuffle", &[epoch]));
        }
        order
    }

    fn fetch(&self, sample: u32, _: &Context) -> Result<EncodedImage> {
        Ok(EncodedImage {
            label: self.listing.label(sample)?.into(),
            bytes: Arc::new(self.listing.read(sample)?),
        })
    }

    fn describe(&self, sample: u32) -> String {
        self.listing.describe(sample)
    }

    fn on_error(&self) -> OnError {
        self.on_error
    }

    fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// What is shuffled is trained on. What is read in order is measured with: no image counts twice.
    fn pads(&self) -> bool {
        self.order.is_some()
    }
}
