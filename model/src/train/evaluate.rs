//! The node `Evaluate`: measures a checkpoint, at sizes that need not be those it was trained at.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::home;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{
    Allocator, Batch, Build, Incoming, Input, Node, NodeKind, PROGRESS, Payload, Port, Ports,
    Received, Report, Role, Schema, Sender, Stage, Thread, first_few, repeated,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

use crate::checkpoint::{
    Checkpoint, ClassMap, ClassOrder, Metadata, OVERFLOW, Snapshot, Weights, is_finite,
    match_classes, write_atomically,
};
use crate::nn::compute::{
    DeviceChoice, ExecConfig, Precision, ProcessSettings, adopt_thread_count,
};
use crate::nn::kernels::Fused;
use crate::nn::layers::Mode;
use crate::nn::parameters::Parameter;
use crate::nn::replay::{CudaGraph, Inference};
use crate::nn::switchable::{BatchNorms, SwitchableNetwork};
use crate::nn::transfer::DeviceTransfer;
use crate::train::batches::Labelled;
use crate::train::metrics::{Metric, Table, Validating};
use crate::train::validation::Validation;
use crate::train::{batches, check_threads, cores_of};

/// Measures a checkpoint at every size of its batches, and the ensemble of those that it was
/// trained at. A size that it was not trained at runs with the batch norms of the nearest
/// resolution, of one that is named, or with some whose running statistics are measured first, on
/// training images.
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
    /// that is in no pair has its own, or those of the nearest resolution.
    #[serde(default)]
    batch_norms: Vec<(u32, u32)>,
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
        let sizes: Vec<u32> = self.batch_norms.iter().map(|(size, _)| *size).collect();
        for size in repeated(&sizes).into_iter().take(3) {
            report.parameter(
                "batch_norms",
                format!("size {size} is listed twice"),
                "remove one of the pairs",
            );
        }
        let sizes = |port| {
            let mut found = inputs.iter().filter(|input| input.port == port);
            found.next().map(|input| &input.schema.resolutions)
        };
        if let Some(measured) = sizes("input") {
            for (size, _) in &self.batch_norms {
                if !measured.contains(size) {
                    report.parameter(
                        "batch_norms",
                        format!("size {size} is not evaluated; the sizes are {measured:?}"),
                        "remove the pair, or add the size",
                    );
                }
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
                batches::warn_of_dropped_images(contents, build.run.world);
                classes = map;
            }
            ensure!(
                contents.items_per_epoch > 0,
                "{} is too small for a single batch of `{port}`",
                contents.origin
            );
        }
        if let Some(size) = calibrated.iter().find(|s| metadata.resolutions.contains(s)) {
            bail!(
                "{} was trained at {size}: its batch norms are not to be calibrated; leave that size out",
                self.checkpoint.shown()
            );
        }
        self.check_store(metadata)?;
        let source = |size| {
            let named = self.batch_norms.iter().find(|(of, _)| *of == size);
            named.map_or_else(|| metadata.batch_norm_for(size), |(_, norm)| *norm)
        };
        let norms: Vec<u32> = sizes_measured
            .iter()
            .map(|&size| {
                if calibrated.contains(&size) {
                    size
                } else {
                    source(size)
                }
            })
            .collect();
        let compute = ExecConfig::resolve(self.device, self.precision, metadata.hints()?)?;
        let compute = compute.with_kernels(self.fused);
        compute.log(false);
        let net = checkpoint.network_with(&sizes_measured, &norms, compute, |norm| {
            if calibrated.contains(&norm) {
                source(norm)
            } else {
                norm
            }
        })?;
        let batches = build.inputs.iter().find(|(port, _)| *port == "input");
        Ok(Stage::thread(Evaluation {
            classes,
            transfer: DeviceTransfer::new(compute, metadata.normalize, metadata.channels)?,
            batches: batches.map_or(0, |(_, contents)| contents.items_per_epoch),
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
    const EXAMPLE: &'static str =
        r#"Evaluate(input: "val_batches", checkpoint: "runs/mine/checkpoints/best.safetensors")"#;
}

/// Everything opened.
struct Evaluation {
    settings: Evaluate,
    checkpoint: Checkpoint,
    net: SwitchableNetwork,
    transfer: DeviceTransfer,
    /// The network's classes of the data.
    classes: ClassMap,
    /// Sizes whose statistics are measured first.
    calibrated: Vec<u32>,
    /// Batches to measure with.
    batches: u64,
}

impl Thread for Evaluation {
    fn run(self: Box<Self>, mut ports: Ports) -> Result<()> {
        adopt_thread_count();
        let began = Instant::now();
        let mut metrics: Sender<Metric> = ports.output("metrics");
        if !self.calibrated.is_empty() && !self.calibrate(&mut ports)? {
            return Ok(());
        }
        let Some(validation) = self.measure(&mut ports, &mut metrics)? else {
            return Ok(());
        };
        let metadata = self.checkpoint.metadata();
        let rows = validation.rows(&self.net)?;
        if let Some(row) = rows.iter().find(|row| !row.loss.is_finite()) {
            let place = match row.resolution {
                Some(resolution) => format!("at {resolution}"),
                None => "of the ensemble".to_owned(),
            };
            bail!(
                "{}: the loss {place} is {}: {OVERFLOW}",
                self.settings.checkpoint.shown(),
                row.loss
            );
        }
        metrics.send(Metric::Final(Table {
            epoch: metadata.epoch.saturating_sub(1),
            step: metadata.step,
            rows,
            average: vec![],
            images: validation.images(),
            seconds: began.elapsed().as_secs_f64(),
        }));
        // Behind the table, which is worth having whatever becomes of the file.
        if let Some(path) = &self.settings.store {
            write_atomically(&self.snapshot()?, path)?;
        }
        Ok(())
    }

    fn epochs(&self) -> Option<u64> {
        Some(1)
    }

    fn cores(&self, cores: usize) -> usize {
        cores_of(self.net.parameters().device(), self.settings.threads, cores)
    }
}

impl Evaluation {
    /// Measures the statistics of the calibrated sizes; false if the run was stopped.
    fn calibrate(&self, ports: &mut Ports) -> Result<bool> {
        let mut batches = ports
            .input::<Batch>("calibrate")
            .context("`calibrate` is not connected")?;
        let sizes = self.net.resolutions().iter();
        let positions: Vec<usize> = self
            .calibrated
            .iter()
            .filter_map(|size| sizes.clone().position(|of| of == size))
            .collect();
        let wanted = self.settings.calibration_images.unwrap_or(u64::MAX);
        let mut seen = 0;
        while seen < wanted {
            if ports.stopping() {
                return Ok(false);
            }
            let batch = match batches.receive()? {
                Received::Item(_, batch) => batch,
                Received::EndOfEpoch(_) => break,
                Received::Closed => return Ok(false),
            };
            let images = batch.labels().len() as u64;
            let used = images.min(wanted - seen);
            // A single image may have no variance, and weighs next to nothing behind others.
            if used == 1 && seen > 0 {
                break;
            }
            let (images, _) = self.transfer.batch(&batch, self.net.classes())?;
            for (tensor, &position) in images.iter().zip(&positions) {
                let tensor = tensor.f_narrow(0, 0, used as i64)?;
                let share = used as f64 / (seen + used) as f64;
                let mode = Mode::Calibrate { share };
                // Only the running statistics are wanted.
                let _ = self.net.logits(&tensor, position, mode)?;
            }
            seen += used;
        }
        tracing::info!(images = seen, sizes = ?self.calibrated, "calibrated");
        if seen + 1 < wanted && self.settings.calibration_images.is_some() {
            tracing::warn!("there were only {seen} images to calibrate with");
        }
        for parameter in self.net.parameters().iter() {
            ensure!(
                is_finite(&parameter.tensor)?,
                "the statistics {:?} are not finite: {seen} images are too few at so small a size",
                parameter.name
            );
        }
        Ok(true)
    }

    /// `None` if the run was stopped.
    fn measure(
        &self,
        ports: &mut Ports,
        metrics: &mut Sender<Metric>,
    ) -> Result<Option<Validation>> {
        let mut batches = ports
            .input::<Batch>("input")
            .context("`input` is not connected")?;
        let metadata = self.checkpoint.metadata();
        let trained = &metadata.resolutions;
        let members = (0..).zip(self.net.resolutions());
        let members = members.filter(|(_, size)| trained.contains(size));
        let members = members.map(|(position, _)| position).collect();
        let mut validation = Validation::new(&self.net, members)?;
        let mut inference = Inference::new(&self.net, self.settings.cuda_graph);
        let mut done = 0;
        loop {
            if ports.stopping() {
                return Ok(None);
            }
            match batches.receive()? {
                Received::Item(_, batch) => {
                    let batch = Labelled::new(&batch, &self.classes);
                    self.transfer
                        .batch(&batch, self.net.classes())
                        .and_then(|(images, labels)| {
                            validation.add(&self.net, &mut inference, &images, &labels)
                        })
                        .with_context(|| format!("batch {} cannot be measured", done + 1))?;
                }
                Received::EndOfEpoch(_) => return Ok(Some(validation)),
                Received::Closed => return Ok(None),
            }
            done += 1;
            metrics.send(Metric::Validating(Validating {
                epoch: 0,
                batches: done,
                of: self.batches,
            }));
        }
    }

    /// The checkpoint with the weights that were measured, and the calibrated batch norms.
    fn snapshot(&self) -> Result<Snapshot> {
        let mut metadata = self.checkpoint.metadata().clone();
        metadata
            .calibrated
            .retain(|size| !self.calibrated.contains(size));
        metadata.calibrated.extend(&self.calibrated);
        let is_new = |parameter: &&Parameter| {
            let of = parameter.resolution;
            of.is_some_and(|norm| self.calibrated.contains(&norm))
        };
        let new: Vec<&Parameter> = self.net.parameters().iter().filter(is_new).collect();
        let weights = self.checkpoint.weights();
        metadata.averaged |= weights == Weights::Average;
        let mut names = self.checkpoint.names_of(weights);
        names.retain(|(_, name)| new.iter().all(|parameter| parameter.name != *name));
        let old = self
            .checkpoint
            .read(names.iter().map(|(stored, _)| stored.as_str()))?;
        let names = names.into_iter().map(|(_, name)| name);
        let old: Vec<(String, &Tensor)> = names.zip(&old).collect();
        let new = new.into_iter().map(|p| (p.name.clone(), &p.tensor));
        Snapshot::from_tensors(metadata, old.into_iter().chain(new).collect())
    }
}
