//! Images per second from files to batches: through the graph, and with plain threads that call the same
//! kernels, which is the upper bound for the graph.
//!
//! Prints `N images/s`. `cargo xtask bench --images FOLDER` compares it with other loaders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_graph::{
    Build, Catalogue, Incoming, Input, Kind, Node, NodeKind, Options, Payload, PlainMemory, Plan,
    Pool, Port, Recipe, Report, Running, Schema, Sink, Slots, Stage, Text,
};
use rsflow_pipeline::images::{EncodedImage, Extraneous, LazyImage, Outputs, SizedImages};
use rsflow_pipeline::nodes::{
    Batch, DecodeImage, ImageFolder, RandAugment, RandomErasing, RandomResizedCrop, Resize,
};
use rsflow_pipeline::pixels::{Limits, Orientation, Verify, crop, header};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Parser)]
struct Arguments {
    /// A folder of class folders
    #[arg(long)]
    images: PathBuf,
    #[arg(long, num_args = 1.., default_values_t = [224, 192, 160, 128, 96])]
    sizes: Vec<u32>,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Timed epochs, after one for warm-up
    #[arg(long, default_value_t = 4)]
    epochs: u64,
    /// Measure plain threads instead of the graph
    #[arg(long)]
    bare: bool,
    /// Augment the crops by two operations of RandAugment, and erase a part of a quarter of them
    #[arg(long, conflicts_with = "bare")]
    augment: bool,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rate = if arguments.bare {
        bare(&arguments)?
    } else {
        graph(&arguments)?
    };
    println!("{rate:.1} images/s");
    Ok(())
}

/// Images per second of a recipe, without its first epoch.
fn graph(arguments: &Arguments) -> Result<f64> {
    let (augmentations, augmented) = if arguments.augment {
        let nodes = r#"
            "changed": RandAugment(input: "crops", operations: 2, magnitude: 9),
            "erased":  RandomErasing(input: "changed", probability: 0.25),"#;
        (nodes, "erased")
    } else {
        ("", "crops")
    };
    let recipe = format!(
        r#"(seed: 0, cpu_workers: {}, nodes: {{
            "files":   ImageFolder(root: {:?}, shuffle: true),
            "images":  DecodeImage(input: "files"),
            "crops":   RandomResizedCrop(input: "images"),{augmentations}
            "sizes":   Resize(input: {augmented:?}, sizes: {:?}, flip: 0.5),
            "batches": Batch(input: "sizes", size: {}),
            "counted": Counted(input: "batches"),
        }})"#,
        arguments.workers, arguments.images, arguments.sizes, arguments.batch
    );
    const KINDS: &[Kind] = &[
        Kind::of::<ImageFolder>(),
        Kind::of::<DecodeImage>(),
        Kind::of::<RandomResizedCrop>(),
        Kind::of::<RandAugment>(),
        Kind::of::<RandomErasing>(),
        Kind::of::<Resize>(),
        Kind::of::<Batch>(),
        Kind::of::<Counted>(),
    ];
    let recipe = Recipe::parse(Text::new("bench", recipe), Catalogue(KINDS), &[]);
    let plan = Plan::new(recipe.expect("the recipe is sound")).expect("the plan is sound");
    let options = Options {
        epochs: Some(arguments.epochs + 1),
        ..Options::default()
    };
    Running::start(&plan, options)?.wait()?;
    let rate = RATE.load(Relaxed);
    ensure!(rate > 0, "there are too few images for a measurement");
    Ok(rate as f64 / 10.0)
}

/// The result of [`Counted`] in tenths of images per second.
static RATE: AtomicUsize = AtomicUsize::new(0);

/// A sink that measures the rate of batches.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Counted {
    input: Input,
}

impl Node for Counted {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        Vec::new()
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        Ok(Stage::sink(Counting {
            warm_up: build.inputs[0].1.items_per_epoch,
            seen: 0,
            images: 0,
            start: Instant::now(),
        }))
    }
}

impl NodeKind for Counted {
    const NAME: &'static str = "Counted";
    const SUMMARY: &'static str = "counts";
    const INPUTS: &'static [Port] = &[Port {
        name: "input",
        carries: rsflow_graph::Batch::NAME,
    }];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = r#"Counted(input: "batches")"#;
}

struct Counting {
    warm_up: u64,
    seen: u64,
    images: usize,
    start: Instant,
}

impl Sink for Counting {
    type In = rsflow_graph::Batch;

    fn accept(&mut self, batch: Self::In) -> Result<()> {
        self.seen += 1;
        if self.seen > self.warm_up {
            self.images += batch.labels().len();
        } else if self.seen == self.warm_up {
            self.start = Instant::now();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let rate = self.images as f64 / self.start.elapsed().as_secs_f64();
        RATE.store((rate * 10.0) as usize, Relaxed);
        Ok(())
    }

    fn queue(&self) -> usize {
        1
    }
}

/// Images per second of threads that share only a counter and write into separate batches.
fn bare(arguments: &Arguments) -> Result<f64> {
    let mut files = Vec::new();
    for class in std::fs::read_dir(&arguments.images)? {
        for file in std::fs::read_dir(class?.path())? {
            files.push(file?.path());
        }
    }
    ensure!(
        !files.is_empty(),
        "no images in {}",
        arguments.images.display()
    );
    let mut best = 0.0;
    for round in 0..2 {
        let next = AtomicUsize::new(0);
        let total = files.len()
            * if round == 0 {
                1
            } else {
                arguments.epochs as usize
            };
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..arguments.workers)
                .map(|worker| {
                    scope.spawn({
                        let (files, next) = (&files, &next);
                        move || work(arguments, files, next, total, worker)
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread panicked"))
        })?;
        best = total as f64 / start.elapsed().as_secs_f64();
    }
    Ok(best)
}

fn work(
    arguments: &Arguments,
    files: &[PathBuf],
    next: &AtomicUsize,
    total: usize,
    worker: usize,
) -> Result<()> {
    let Arguments { sizes, batch, .. } = arguments;
    let pool = Pool::new(Arc::new(PlainMemory), Slots::bytes(sizes, *batch));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(worker as u64);
    let node = rsflow_graph::NodeId {
        name: "bare".into(),
        kind: "Bare",
    };
    let meter = rsflow_graph::Meter::new(node, rsflow_graph::WorksOn::Workers);
    let mut slots = Slots::new(&pool, sizes, *batch)?;
    let mut slot = 0;
    loop {
        let index = next.fetch_add(1, Relaxed);
        if index >= total {
            return Ok(());
        }
        let bytes = Arc::new(std::fs::read(&files[random.random_range(0..files.len())])?);
        let header = header(&bytes, &Limits::default())?;
        let (scale, ratio) = ((0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        let (width, height) = (header.width, header.height);
        let region = crop::random_resized_crop(width, height, scale, ratio, &mut random);
        let sizes = sizes.iter();
        let renditions = sizes
            .map(|&size| crop::training(region, size, random.random_bool(0.5)))
            .collect();
        let images = SizedImages {
            outputs: Outputs::Rendered(renditions),
            augmentations: vec![],
            lighting: vec![],
            image: LazyImage {
                encoded: EncodedImage { bytes, label: 0 },
                header,
                orientation: Orientation::default(),
                verify: Verify::Region,
                extraneous: Extraneous::default(),
                meter: meter.clone(),
            },
            region,
            meter: meter.clone(),
        };
        images.render(&slots, slot)?;
        slot += 1;
        if slot == *batch {
            slots.finish()?;
            slots = Slots::new(&pool, &arguments.sizes, *batch)?;
            slot = 0;
        }
    }
}
