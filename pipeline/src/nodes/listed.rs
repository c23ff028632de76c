//! The source that all nodes are that read a listing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::seq::SliceRandom as _;
use rsflow_base::home;
use rsflow_graph::{
    Build, Contents, Context, ListedImages, OnError, PROGRESS, SampleNames, Source, Stage, counted,
    random,
};

use crate::images::EncodedImage;
use crate::listing::{Listing, Part, in_brackets};

/// What makes reading faster.
pub(super) const TUNING_HINT: &str = "a faster disk helps";

/// Parameters that sources of files once had.
pub(super) const REMOVED: &[(&str, &str)] = &[(
    "shard",
    "remove it: which process reads which images is no part of the recipe any more, but of the launch \
     (RANK and WORLD_SIZE in the environment, as torchrun sets them)",
)];

/// The images that a source lists, before it is opened: those of a part of the data set at `path`, the value of
/// `parameter`, of what is `within` it. Nothing is looked up.
pub(super) fn lists(
    (parameter, path): (&'static str, &Path),
    within: &str,
    part: Part,
) -> Option<ListedImages> {
    let path = std::path::absolute(home::expand(path).ok()?).ok()?;
    // Without `.` and `/` at its end.
    Some(ListedImages {
        parameter,
        root: path.components().collect(),
        within: within.to_owned(),
        part: part.listed(),
    })
}

/// A listing at work.
pub(super) struct Listed {
    listing: Arc<Listing>,
    /// See [`Listing::hash`].
    hash: u64,
    order: Order,
    on_error: OnError,
    read_timeout: Option<Duration>,
}

/// The order of an epoch's samples: that of the listing, or shuffled by seed and node name.
#[derive(Clone)]
struct Order(Option<(u64, String)>);

impl Order {
    fn of(&self, epoch: u64, listing: &Listing) -> Vec<u32> {
        let mut order: Vec<u32> = (0..listing.len()).collect();
        if let Some((seed, node)) = &self.0 {
            order.shuffle(&mut random(*seed, node, "shuffle", &[epoch]));
        }
        order
    }
}

/// How a listing is read.
pub(super) struct Reading {
    pub shuffle: bool,
    pub on_error: OnError,
    pub read_timeout: Option<Duration>,
}

impl Listed {
    /// The stage of a node that reads a listing. Reports what is read and what is not.
    pub fn stage(build: &Build, listing: Listing, reading: Reading) -> Stage {
        let images = match listing.whole {
            None => counted(listing.len() as usize, "image"),
            Some(whole) => format!("{} of {}", listing.len(), counted(whole as usize, "image")),
        };
        let classes = match listing.classes.len() {
            1 => "1 class".to_owned(),
            count => format!("{count} classes"),
        };
        let passed_over = in_brackets(&listing.passed_over);
        tracing::info!(target: PROGRESS, "{}: {images}, {classes}{passed_over}", build.node);
        if let Some(warning) = listing.one_level_too_high() {
            tracing::warn!("{}: {warning}", build.node);
        }
        Stage::source(Listed {
            hash: listing.hash(),
            listing: Arc::new(listing),
            order: Order(reading.shuffle.then(|| (build.seed, build.node.to_owned()))),
            on_error: reading.on_error,
            read_timeout: reading.read_timeout,
        })
    }
}

impl Source for Listed {
    type Out = EncodedImage;

    fn contents(&self) -> Contents {
        let (listing, order) = (Arc::clone(&self.listing), self.order.clone());
        let names = move |epoch| {
            let order = order.of(epoch, &listing).into_iter();
            order.map(|sample| listing.name_text(sample)).collect()
        };
        Contents {
            items_per_epoch: self.listing.len().into(),
            classes: Arc::clone(&self.listing.classes),
            group: 1,
            last_group: 1,
            origin: self.listing.origin.clone(),
            names_hash: Some(self.hash),
            sample_names: SampleNames::new(names),
            ..Contents::default()
        }
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        self.order.of(epoch, &self.listing)
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
        self.order.0.is_some()
    }
}
