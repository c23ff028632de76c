//! The node `Evaluate`: measures a checkpoint, at sizes that need not be those it was trained at.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the node: its parameters, and what is opened |
//! | `cells` | which sizes are measured with which batch norms |
//! | `evaluation` | the measurement |
//! | `predictions` | what was predicted of each image, as a file |

mod cells;
mod evaluation;
pub mod predictions;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::home;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Allocator, Batch, Build, Incoming, Input, Node, NodeKind, PROGRESS, Payload, Port, Report,
    Role, Schema, Spelling, Stage, first_few, repeated,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::checkpoint::{Checkpoint, ClassMap, ClassOrder, Metadata, Weights, match_classes};
use crate::nn::compute::{DeviceChoice, ExecConfig, Precision, ProcessSettings};
use crate::nn::kernels::Fused;
use crate::nn::replay::CudaGraph;
use crate::nn::switchable::BatchNorms;
use crate::nn::transfer::DeviceTransfer;
use crate::train::metrics::Metric;
use crate::train::{SPELLINGS, batches, check_threads};
use evaluation::Evaluation;

/// Measures a checkpoint at every size of its batches, and the ensemble of those that it was
/// trained at. A size that it was not trained at runs with batch norms interpolated between those of the
/// next resolutions below and above (beyond all, with those of the nearest), with those of one that is named,
/// or with some whose running statistics are measured first, on training images.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The batches to measure with.
    input: Input,
    /// The checkpoint.
    checkpoint: PathBuf,
    /// Which of its weights: those that were `Trained`, or their `Average`, if the run kept one. If left out:
    /// the average where there is one.
    #[serde(default)]
    weights: Option<Weights>,
    /// Pairs of a size and the resolution whose batch norms it runs with: `[(176, 160)]`. A size
    /// that is in no pair has its own, or interpolated ones.
    #[serde(default)]
    batch_norms: Vec<(u32, u32)>,
    /// Measures every size with every resolution's batch norms, and with interpolated ones where there are some,
    /// in place of the ensemble.
    #[serde(default)]
    matrix: bool,
    /// The order of class folders for a network whose class names are not known: `Text` as torchvision
    /// sorts them (0, 1, 10, 2), or `Numeric` (0, 1, 2, 10). Known names are matched by name.
    #[serde(default)]
    class_order: ClassOrder,
    /// Batches of training images at sizes that were not trained: each of these gets batch norms
    /// of its own, with the scales and shifts of the resolution that it would run with, and with
    /// statistics of these images.
    #[serde(default)]
    calibrate: Option<Input>,
    /// How many images are taken from `calibrate`; all of an epoch if left out.
    #[serde(default)]
    calibration_images: Option<u64>,
    /// A CSV file to write: a row for each image, with its class and what was predicted at each size. A sample
    /// that replaces a damaged one has the other's name.
    #[serde(default)]
    predictions: Option<PathBuf>,
    /// Refuses other images than those that the checkpoint's run was validated on, by their names.
    #[serde(default)]
    same_images: bool,
    /// Where to write the checkpoint with the calibrated batch norms in it.
    #[serde(default)]
    store: Option<PathBuf>,
    /// Threads that libtorch computes with on the CPU; the number of cores if left out.
    #[serde(default)]
    threads: Option<usize>,
    /// Where to compute: `Auto`, `Cpu`, or a GPU, `Cuda(0)`.
    #[serde(default)]
    device: DeviceChoice,
    /// With which numbers: `Auto`, `Float32`, `TensorFloat32`, `BFloat16`, `Float16`. `Auto` is
    /// `Float32` for a network that was trained in it.
    #[serde(default)]
    precision: Precision,
    /// Kernels of this program where there are any (`Auto`), or libtorch's operators (`Off`), as the
    /// trainer's `fused`.
    #[serde(default)]
    fused: Fused,
    /// On GPUs: record a pass as a CUDA graph and replay it (`Auto`), or not (`Off`).
    #[serde(default)]
    cuda_graph: CudaGraph,
}

impl Node for Evaluate {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        let calibrate = self.calibrate.as_ref().map(|input| ("calibrate", input));
        [("input", &self.input)]
            .into_iter()
            .chain(calibrate)
            .collect()
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        if self.checkpoint.as_os_str().is_empty() {
            report.parameter("checkpoint", "the file has no name", "name a checkpoint");
        }
        for (field, path) in [
            ("checkpoint", Some(&self.checkpoint)),
            ("store", self.store.as_ref()),
            ("predictions", self.predictions.as_ref()),
        ] {
            if let Some(Err(error)) = path.map(|path| home::expand(path)) {
                report.parameter(field, error.to_string(), "name a file");
            }
        }
        for port in ["input", "calibrate"] {
            batches::check_growth(inputs, port, report);
        }
        batches::check_dropped(inputs, "input", report);
        check_threads(self.threads, report);
        if self.calibration_images == Some(0) {
            report.parameter(
                "calibration_images",
                "statistics need images",
                "some hundred to some thousand will do",
            );
        }
        if self.calibrate.is_none() {
            let alone = [
                ("calibration_images", self.calibration_images.is_some()),
                ("store", self.store.is_some()),
            ];
            for (field, _) in alone.into_iter().filter(|(_, given)| *given) {
                report.parameter(
                    field,
                    format!("`{field}` is of no use without `calibrate`"),
                    "give `calibrate` batches of training images",
                );
            }
        }
        let named: Vec<u32> = self.batch_norms.iter().map(|(size, _)| *size).collect();
        for size in repeated(&named).into_iter().take(3) {
            report.parameter(
                "batch_norms",
                format!("size {size} is listed twice"),
                "remove one of the pairs",
            );
        }
        if self.matrix && self.predictions.is_some() {
            report.parameter(
                "matrix",
                "predictions are those of one network a size",
                "leave out `matrix` or `predictions`",
            );
        }
        let sizes = |port| {
            let mut found = inputs.iter().filter(|input| input.port == port);
            found.next().map(|input| &input.schema.resolutions)
        };
        if let Some(measured) = sizes("input") {
            for size in named.iter().filter(|size| !measured.contains(size)) {
                report.parameter(
                    "batch_norms",
                    format!("size {size} is not evaluated; the sizes are {measured:?}"),
                    "remove the pair, or add the size",
                );
            }
            for size in sizes("calibrate").into_iter().flatten() {
                if !measured.contains(size) {
                    report.parameter(
                        "calibrate",
                        format!("size {size} is not evaluated; the sizes are {measured:?}"),
                        "calibrate sizes that are measured",
                    );
                }
            }
        }
        vec![Schema::default()]
    }

    fn allocator(&self) -> Option<Arc<dyn Allocator>> {
        Some(batches::allocator(self.device))
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let settings = Evaluate {
            checkpoint: home::expand(&self.checkpoint)?,
            store: self.store.as_deref().map(home::expand).transpose()?,
            predictions: self.predictions.as_deref().map(home::expand).transpose()?,
            ..self.clone()
        };
        settings.open(build)
    }
}

impl Evaluate {
    fn open(self, build: &Build) -> Result<Stage> {
        let sizes = |port| {
            let mut found = build.schemas.iter().filter(|(of, _)| *of == port);
            found.next().map(|(_, schema)| schema.resolutions.clone())
        };
        let sizes_measured = sizes("input").context("`Evaluate` needs `input`")?;
        let calibrated = sizes("calibrate").unwrap_or_default();
        let checkpoint = Checkpoint::open(&self.checkpoint)?.with_weights(self.weights)?;
        let metadata = checkpoint.metadata();
        let mut classes = ClassMap::identity();
        let mut class_names = metadata.classes.clone();
        for (port, contents) in build.inputs {
            let (data, origin) = (&contents.classes, &contents.origin);
            let map = match_classes(&metadata.classes, data, origin, self.class_order)?;
            if *port == "input" {
                if map.missing > 0 {
                    tracing::info!(
                        target: PROGRESS,
                        "evaluating {} of {} classes: {}",
                        data.len(),
                        metadata.classes.len(),
                        first_few(data)
                    );
                }
                let hash = contents.names_hash.map(|hash| format!("{hash:016x}"));
                let known = metadata.validation_names.as_ref();
                ensure!(
                    !self.same_images || known.is_none_or(|known| Some(known) == hash.as_ref()),
                    "the images in {origin} are not those that the checkpoint's run was validated on: others have been \
                     put there, or its recipe's relative paths lead elsewhere from this folder; `--data` names images"
                );
                batches::warn_of_dropped_images(contents, build.run.world);
                classes = map;
                if class_names.iter().all(String::is_empty) {
                    class_names = data.to_vec();
                }
            }
            batches::check_one_batch(port, contents, build.run.world)?;
        }
        if let Some(size) = calibrated.iter().find(|s| metadata.resolutions.contains(s)) {
            bail!(
                "{} was trained at {size}: its batch norms are not to be calibrated; leave that size out",
                self.checkpoint.shown()
            );
        }
        self.check_store(metadata)?;
        let cells = cells::of(&self, metadata, &sizes_measured, &calibrated);
        let compute = ExecConfig::resolve(self.device, self.precision, metadata.hints()?)?;
        let compute = compute.with_kernels(self.fused);
        compute.log(false);
        let sizes: Vec<u32> = cells.iter().map(|cell| cell.size).collect();
        let norms: Vec<_> = cells.iter().map(|cell| (cell.label, cell.norms)).collect();
        let net = checkpoint.network_with(&sizes, &norms, compute)?;
        let batches = build.inputs.iter().find(|(port, _)| *port == "input");
        Ok(Stage::thread(Evaluation {
            classes,
            class_names,
            names: batches.and_then(|(_, contents)| contents.sample_names.of_epoch(0)),
            cells,
            transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
            batches: batches.map_or(0, |(_, contents)| contents.items_per_epoch),
            samples: batches.map_or(0, |(_, contents)| contents.samples),
            net,
            calibrated,
            checkpoint,
            settings: self,
        }))
    }

    /// What its computation needs of the process.
    pub fn process_settings(&self) -> ProcessSettings {
        ProcessSettings {
            device: self.device,
            tf32: self.precision == Precision::TensorFloat32,
            deterministic: false,
            threads: self.threads,
        }
    }

    /// Before anything is measured: what cannot be stored in the end.
    fn check_store(&self, metadata: &Metadata) -> Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        ensure!(
            metadata.batch_norms == BatchNorms::Private,
            "calibrated batch norms can only be stored beside private ones, and {} has shared ones; leave `store` out",
            self.checkpoint.shown()
        );
        ensure!(
            store.canonicalize().ok() != self.checkpoint.canonicalize().ok(),
            "`store` names the checkpoint itself; name another file"
        );
        let folder = store
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        ensure!(
            folder.is_none_or(|folder| folder.is_dir()),
            "the folder of {} does not exist; create it, or name another file",
            store.shown()
        );
        Ok(())
    }
}

impl NodeKind for Evaluate {
    const NAME: &'static str = "Evaluate";
    const SUMMARY: &'static str = "measures a checkpoint at any sizes";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "input",
            carries: Batch::NAME,
        },
        Port {
            name: "calibrate",
            carries: Batch::NAME,
        },
    ];
    const OUTPUTS: &'static [Port] = &[Port {
        name: "metrics",
        carries: Metric::NAME,
    }];
    const ROLE: Role = Role::Evaluator;
    const SPELLINGS: &'static [(&'static str, Spelling)] = SPELLINGS;
    const EXAMPLE: &'static str =
        r#"Evaluate(input: "val_batches", checkpoint: "runs/mine/checkpoints/best.safetensors")"#;
}
