//! The node `RsNet`: a resolution switchable network and its training.
//!
//! Here: its parameters, and what is checked before anything runs (`lengths`: of epochs and batches).
//! `parts`: device, network, optimizer; `start`: where a run starts; `dry_run`: whether a step fits into
//! memory; `session`: the run; `terms`: what is kept of a step's loss; `loss_watch`: that of the newest step;
//! `epoch_sums`: of an epoch.

mod dry_run;
mod epoch_sums;
mod lengths;
mod loss_watch;
mod parts;
mod session;
mod start;
mod terms;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::home;
use rsflow_base::nfc::nfc;
use rsflow_graph::{
    Allocator, Batch, Build, Contents, Incoming, Input, Node, NodeKind, Payload, Port, Preprocess,
    Report, Role, Schema, Spelling, Stage, World,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::checkpoint::{BestBy, Weights};
use crate::dist::reducer::Exchange;
use crate::nn::compute::{DeviceChoice, Precision, ProcessSettings};
use crate::nn::kernels::Fused;
use crate::nn::layers::{Affine, default_epsilon, default_momentum};
use crate::nn::networks::Network;
use crate::nn::parameters::WeightInit;
use crate::nn::replay::CudaGraph;
use crate::nn::summary::Summary;
use crate::nn::switchable::BatchNorms;
use crate::nn::transfer::{Channels, Normalize};
use crate::train::average::Average;
use crate::train::benchmark::Benchmark;
use crate::train::distillation::Distill;
use crate::train::metrics::{Checkpointed, Metric};
use crate::train::mixing::Mix;
use crate::train::objective::{Criterion, OverSizes};
use crate::train::optimizer::Optimizer;
use crate::train::processes::NormsOver;
use crate::train::sampling::Sampling;
use crate::train::schedule::Schedule;
use crate::train::trains::Trains;
use crate::train::{SPELLINGS, batches, check_threads};
use session::Session;

/// Trains one network at every resolution of its batches. The convolutions and the classifier are
/// shared, each resolution has its own batch norm.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "RsNet")]
pub struct Trainer {
    /// Training batches. Their resolutions are the network's, in the same order.
    train: Input,
    /// Validation batches, at the same resolutions. All of them are evaluated after every epoch, or as often as
    /// `validate_every` says.
    validate: Input,
    /// The network.
    network: Network,
    /// Whether each resolution has its own batch norms (`Private`) or all resolutions share them
    /// (`Shared`), as an ordinary network would: a baseline.
    #[serde(default)]
    batch_norms: BatchNorms,
    /// Of batch norms that are `Private`: whether each resolution has scales and shifts of its own, too
    /// (`Private`), or statistics alone (`Shared`).
    #[serde(default)]
    affine: Affine,
    /// The weight of a new batch in the running statistics of batch norms, above 0 and at most 1.
    #[serde(default = "default_momentum")]
    batch_norm_momentum: f64,
    /// What batch norms add to a variance, above 0.
    #[serde(default = "default_epsilon")]
    batch_norm_epsilon: f64,
    /// Start the last batch norm of each residual branch with a scale of 0, so that blocks are the identity at
    /// first ("Accurate, Large Minibatch SGD", 2017). Not of networks that `start_from` others.
    #[serde(default)]
    zero_gamma: bool,
    /// A checkpoint to fine-tune, from `rsflow import` or another run, or a run directory for its best one: only its
    /// weights are loaded.
    /// A resolution that it lacks starts with the batch norms of the nearest one; a classifier for
    /// other classes is not loaded. A quantized network may start from the residual network of its
    /// depth and width in full precision, or with other bits. Default: random, from the recipe's seed.
    #[serde(default)]
    start_from: Option<PathBuf>,
    /// Which weights of `start_from`: those that were `Trained`, or their `Average`. Default: the average where
    /// there is one.
    #[serde(default)]
    start_weights: Option<Weights>,
    /// Number of classes, compared with the data before the first batch. Default: as many as the training data
    /// has.
    #[serde(default)]
    classes: Option<u32>,
    /// Distillation: `None`; `Ensemble` (the learned ensemble teaches every resolution);
    /// `EnsembleTopDown` (in addition, every resolution teaches those after it).
    #[serde(default)]
    distill: Distill,
    /// The loss of a resolution's logits and the targets.
    #[serde(default)]
    criterion: Criterion,
    /// The share of each target that is spread evenly over all classes, at least 0 and below 1, such as 0.1.
    #[serde(default)]
    label_smoothing: f64,
    /// How the losses of the resolutions are joined: their `Sum`, as in the reference implementation, or their
    /// `Mean`.
    #[serde(default)]
    loss: OverSizes,
    /// A moving average of the weights, `Average(decay: 0.999)`: it is validated beside them, decides which epoch
    /// is the best, and is in the checkpoints, where `eval`, `predict` and `export` take it unless `--weights` says
    /// otherwise. Training does not depend on it. Default: none.
    #[serde(default)]
    average: Option<Average>,
    /// Which resolutions a step trains. Images of the others are made nevertheless.
    #[serde(default)]
    sampling: Sampling,
    /// Mixup and CutMix: mixes images of a batch with each other, `Mix(mixup: 0.1, cutmix: 1.0)`. Default: none.
    #[serde(default)]
    mix: Option<Mix>,
    /// Stochastic depth: the probability, for each image and step, that the last residual branch is left out of
    /// the network; that of the others rises to it in equal steps from 0, as in timm's residual networks. The same
    /// at all sizes. 0 to below 1.
    #[serde(default)]
    drop_path: f64,
    /// Dropout: the probability that an input of the classifier is left out. The same at all sizes. 0 to below 1.
    #[serde(default)]
    dropout: f64,
    /// The optimizer.
    optimizer: Optimizer,
    /// Factors of the learning rate for parts of the network, by the beginning of the names of their tensors in
    /// checkpoints: `[("layer1", 0.1), ("fc", 10.0)]`; `""` is all. Of several that fit the last one counts. Parts
    /// with 0 are frozen: they keep their weights, and their batch norms measure statistics.
    #[serde(default)]
    lr_factors: Vec<(String, f64)>,
    /// The largest Euclidean norm of all gradients together: before each step they are scaled down to it; above
    /// 0. Default: none.
    #[serde(default)]
    clip_gradients: Option<f64>,
    /// Images of each process that pass through the network at once, to train with larger batches than fit
    /// into memory: the gradients of a batch's parts are added up before the optimizer's step, and each part
    /// has its own batch norm statistics. Must divide each process's part of a batch. Default: the whole batch.
    #[serde(default)]
    micro_batch: Option<u32>,
    /// The learning rate schedule, applied before every step.
    #[serde(default)]
    schedule: Schedule,
    /// The learning rate at which `Cosine` and `Linear` end; at least 0 and below that of the optimizer.
    #[serde(default)]
    min_lr: f64,
    /// Epochs of linear warm-up of the learning rate from `warm_up_lr`; `Cosine` and `Linear` span the rest.
    #[serde(default)]
    warm_up_epochs: u64,
    /// The same in steps, in place of `warm_up_epochs`.
    #[serde(default)]
    warm_up_steps: u64,
    /// The learning rate of the first step of a warm-up; at least 0.
    #[serde(default)]
    warm_up_lr: f64,
    /// The last of the `epochs` that are trained at the learning rate at which the schedule ended.
    #[serde(default)]
    cool_down_epochs: u64,
    /// Epochs to train.
    epochs: u64,
    /// Epochs from one validation to the next; the last epoch is validated in any case. What is trained does not
    /// depend on it. `best` is the best of those that were validated.
    #[serde(default = "default_validate_every")]
    validate_every: u64,
    /// What the best validation is best at, whose checkpoint is `best`.
    #[serde(default)]
    best: BestBy,
    /// End the run after so many epochs without a better validation, by `best`. Default: never.
    #[serde(default)]
    patience: Option<u64>,
    /// End the run after the epoch in which so many hours are over, counted from where this was first set, over all
    /// resumes. The learning rate is that of all `epochs` nevertheless. Default: never.
    #[serde(default)]
    max_hours: Option<f64>,
    /// Steps between two logged losses. Reading the loss synchronizes with the device.
    #[serde(default = "default_log_every")]
    log_every: u64,
    /// The device: `Auto` (the first usable GPU, else the CPU), `Cpu`, or a GPU by its index,
    /// `Cuda(0)`.
    #[serde(default)]
    device: DeviceChoice,
    /// The dtype of convolutions and classifier: `Float32` as the reference implementation,
    /// `TensorFloat32` (GPUs), `BFloat16`, `Float16` (with loss scaling), or `Auto`: what is fast and
    /// safe on the device. Everything else is float32.
    #[serde(default)]
    precision: Precision,
    /// Use only kernels that give the same bits in every run, which may be slower on a GPU. The CPU
    /// always does, for the same number of `threads`.
    #[serde(default)]
    deterministic: bool,
    /// Compute batch norms, with the additions and activations behind them, with kernels of this program
    /// where there are any (`Auto`: on the CPU in float32 and bfloat16, on GPUs in half precision, and
    /// there max pooling and depthwise convolutions, too, if they agree with libtorch's operators), or with
    /// libtorch's operators (`Off`).
    #[serde(default)]
    fused: Fused,
    /// On GPUs: record a training step, and a pass of the validation, as a CUDA graph and replay it (`Auto`),
    /// which starts all its kernels at once, or start them one by one (`Off`). A graph is used if it agrees
    /// with a step that runs as usual, and there is memory for both. Those of quantized networks, with `Sandwich`,
    /// and of `Lamb` in float16 are not recorded.
    #[serde(default)]
    cuda_graph: CudaGraph,
    /// The images over which batch norms take their statistics in training: those of each process
    /// (`Process`), those of all processes (`AllProcesses`, which takes time in every layer), or 32 at a
    /// time, say (`Groups(32)`, as on a GPU of the published runs), which makes results independent of the
    /// number of processes, but for rounding and what `mix`, `drop_path` and `dropout` draw. Running statistics are the mean over all of them.
    #[serde(default)]
    norms_over: NormsOver,
    /// Of several processes: send gradients as they are (`Float32`), or in half the bytes (`BFloat16`), for
    /// networks between machines that are slower than the backward pass.
    #[serde(default)]
    exchange: Exchange,
    /// Keep the activations of one resolution at a time, to fit larger batches into memory: all
    /// resolutions but the first run forward twice, which takes longer.
    #[serde(default)]
    recompute: bool,
    /// Threads of libtorch on the CPU. Default: the number of cores. Changes the speed, and the last
    /// bits of the results.
    #[serde(default)]
    threads: Option<usize>,
    /// Normalization of each channel, for values in 0..1:
    /// `(mean: (0.485, 0.456, 0.406), std: (0.229, 0.224, 0.225))`. Default: none, the values stay in
    /// 0..1 as in the reference implementation.
    #[serde(default)]
    normalize: Option<Normalize>,
    /// The channel order of the input, `Rgb` or `Bgr`. It must match where weights come from another
    /// program.
    #[serde(default)]
    channels: Channels,
}

fn default_validate_every() -> u64 {
    1
}

fn default_log_every() -> u64 {
    10
}

/// Upper bound that catches typos.
const MAX_EPOCHS: u64 = 1_000_000;

impl Node for Trainer {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("train", &self.train), ("validate", &self.validate)]
    }

    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema> {
        let help = "see `rsflow nodes RsNet`";
        let sizes = inputs
            .first()
            .map(|train| train.schema.resolutions.as_slice());
        let sizes = sizes.unwrap_or_default();
        let networks = "`rsflow nodes RsNet` lists the networks";
        for (parameter, faults, help) in [
            ("network", self.network.check(), networks),
            ("", self.check_norms(), help),
            ("", self.dropping().check(), help),
            ("", self.check_lr_factors(sizes), help),
            ("optimizer", self.optimizer.check(), help),
            ("", self.objective().check(), help),
            (
                "mix",
                self.mix.map_or_else(Vec::new, |mix| mix.check()),
                help,
            ),
            (
                "average",
                self.average
                    .map_or_else(Vec::new, |average| average.check()),
                help,
            ),
            ("schedule", self.schedule.check(), help),
        ] {
            for (field, fault) in faults {
                let path = format!("{parameter}.{field}");
                report.parameter(path.trim_start_matches('.'), fault, help);
            }
        }
        for (field, value, most, help) in [
            (
                "classes",
                self.classes.map_or(1, u64::from),
                u64::MAX,
                "leave it out for the number of classes of the training data",
            ),
            ("epochs", self.epochs, MAX_EPOCHS, "such as `epochs: 120`"),
            (
                "validate_every",
                self.validate_every,
                MAX_EPOCHS,
                "such as `validate_every: 5`",
            ),
            (
                "log_every",
                self.log_every,
                u64::MAX,
                "give a positive number",
            ),
        ] {
            report.limit(field, value, 1..=most, help);
        }
        check_threads(self.threads, report);
        if let Some(images) = self.micro_batch {
            let help = "such as `micro_batch: 64`";
            report.limit("micro_batch", images.into(), 1..=u64::MAX, help);
        }
        if self
            .clip_gradients
            .is_some_and(|norm| norm.is_nan() || norm <= 0.0)
        {
            report.parameter(
                "clip_gradients",
                "`clip_gradients` must be above 0",
                "such as `clip_gradients: 1.0`",
            );
        }
        for (field, error, help) in self.check_ends(inputs) {
            report.parameter(field, error, help);
        }
        if self.norms_over == NormsOver::Groups(0) {
            report.parameter(
                "norms_over",
                "a group must have at least 1 image",
                "such as Groups(32)",
            );
        }
        for (field, error, help) in self.check_lengths(report.name()) {
            report.parameter(field, error, help);
        }
        if self
            .normalize
            .is_some_and(|by| by.std.iter().any(|&std| std.is_nan() || std <= 0.0))
        {
            report.parameter(
                "normalize.std",
                "`std` must be positive",
                "such as (0.229, 0.224, 0.225)",
            );
        }
        if let [train, validate] = inputs {
            let sizes = &train.schema.resolutions;
            if *sizes != validate.schema.resolutions {
                report.parameter(
                    "validate",
                    format!(
                        "`{}` has the resolutions {:?}, but `{}` has {:?}",
                        validate.node, validate.schema.resolutions, train.node, sizes
                    ),
                    "training and validation need the same sizes in the same order",
                );
            }
            if self.distill == Distill::EnsembleTopDown
                && let Some(pair) = sizes.windows(2).find(|pair| pair[0] < pair[1])
            {
                report.warning(
                    "distill",
                    format!(
                        "with `EnsembleTopDown` each size teaches those after it, and here {} teaches {}",
                        pair[0], pair[1]
                    ),
                    format!("list the sizes that lead to `{}` from the largest to the smallest", train.node),
                );
            }
            if let Some(growth) = train
                .schema
                .growth
                .filter(|growth| growth.until >= self.epochs)
            {
                report.warning(
                    "epochs",
                    format!(
                        "sizes grow until epoch {}: no epoch has full ones",
                        growth.until
                    ),
                    format!(
                        "give `growth` of the sizes that lead to `{}` a smaller `until`",
                        train.node
                    ),
                );
            }
            self.check_sizes(train, report);
        }
        if let Some(path) = &self.start_from
            && let Err(error) = home::expand(path)
        {
            report.parameter(
                "start_from",
                error.to_string(),
                "such as `start_from: \"best.safetensors\"`",
            );
        }
        if self.start_weights.is_some() && self.start_from.is_none() {
            report.parameter(
                "start_weights",
                "`start_weights` is of no use without `start_from`",
                "leave it out, or name a checkpoint",
            );
        }
        batches::check_validation(inputs, "validate", report);
        vec![Schema::default(), Schema::default()]
    }

    fn allocator(&self) -> Option<Arc<dyn Allocator>> {
        Some(batches::allocator(self.device))
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let [(_, train), (_, validate)] = build.inputs else {
            bail!("the trainer needs `train` and `validate`");
        };
        self.check_data(train, validate, build.run.world)?;
        let counted = u32::try_from(train.classes.len()).ok();
        let own = Trainer {
            classes: self.classes.or(counted),
            ..self.clone()
        };
        Ok(Stage::thread(Session::open(&own, build, train, validate)?))
    }
}

/// How images are made that the network is validated on.
fn preprocess(incoming: &[(&'static str, Schema)]) -> Option<Preprocess> {
    let validate = incoming.iter().find(|(port, _)| *port == "validate");
    validate.and_then(|(_, schema)| schema.preprocess)
}

/// What the training images' sizes are in the first epoch.
fn first_sizes(incoming: &[(&'static str, Schema)], resolutions: &[u32]) -> Vec<u32> {
    let train = incoming.iter().find(|(port, _)| *port == "train");
    match train.and_then(|(_, schema)| schema.growth) {
        Some(growth) => growth.sizes(resolutions, 0),
        None => resolutions.to_vec(),
    }
}

/// The resolutions of the training batches.
fn resolutions(incoming: &[(&'static str, Schema)]) -> Result<Vec<u32>> {
    let train = incoming.iter().find(|(port, _)| *port == "train");
    let (_, schema) = train.context("the trainer needs `train`")?;
    Ok(schema.resolutions.clone())
}

impl Trains for Trainer {
    fn architecture(&self) -> &Network {
        &self.network
    }

    fn resolutions(&self, incoming: &[(&'static str, Schema)]) -> Result<Vec<u32>> {
        resolutions(incoming)
    }

    fn classes(&self) -> Option<u32> {
        self.classes
    }

    fn epochs(&self) -> u64 {
        self.epochs
    }

    fn block(&self) -> u32 {
        self.norms_over.block()
    }

    fn process_settings(&self) -> ProcessSettings {
        ProcessSettings {
            device: self.device,
            // `Auto` never resolves to it.
            tf32: self.precision == Precision::TensorFloat32,
            deterministic: self.deterministic,
            threads: self.threads,
        }
    }

    fn summary(&self, incoming: &[(&'static str, Schema)]) -> Result<Summary> {
        let resolutions = resolutions(incoming)?;
        let norms = self.norms(&resolutions);
        Summary::new(&self.network, self.given_classes()?, &resolutions, norms)
    }

    fn benchmark(&self, incoming: &[(&'static str, Schema)], world: World) -> Result<Benchmark> {
        let own = Trainer {
            device: self.device_of(world)?,
            ..self.clone()
        };
        let compute = own.compute()?;
        let net = self.network(
            compute,
            &resolutions(incoming)?,
            WeightInit::Random { seed: 0 },
        )?;
        let optimizer = self.start_optimizer(&net)?;
        Ok(Benchmark {
            compute,
            steps: self.steps(&net)?,
            cuda_graph: self.cuda_graph,
            inputs: self.drawn(),
            average: match self.average {
                Some(average) => Some(average.start(&net, CudaGraph::Off)?),
                None => None,
            },
            exchange: self.exchange,
            overlaps: self.step(net.resolutions()).overlaps_exchange(),
            net,
            lr: self.optimizer.lr(),
            optimizer: Some(optimizer),
        })
    }
}

impl Trainer {
    /// Compares the recipe with the data.
    fn check_data(&self, train: &Contents, validate: &Contents, world: World) -> Result<()> {
        let found = train.classes.len();
        if let Some(classes) = self.classes {
            ensure!(
                found == classes as usize,
                "`classes` is {classes}, but {} has {}; correct `classes`, leave it out, or correct the folder",
                train.origin,
                match found {
                    1 => "1 class".to_owned(),
                    found => format!("{found} classes"),
                }
            );
        }
        let only_in = |a: &Contents, b: &Contents| {
            let names: HashSet<_> = b.classes.iter().map(|class| nfc(class)).collect();
            let missing = a.classes.iter().find(|class| !names.contains(&nfc(class)));
            missing.map(|class| format!("`{class}` is only in {}", a.origin))
        };
        if let Some(example) = only_in(train, validate).or_else(|| only_in(validate, train)) {
            bail!(
                "{} holds {} classes and {} holds {}, and they differ: {example}; both need the same class folders",
                train.origin,
                train.classes.len(),
                validate.origin,
                validate.classes.len()
            );
        }
        if let Some(images) = self.micro_batch {
            ensure!(
                train.group.is_multiple_of(images.into()),
                "`micro_batch: {images}` must divide the {} images of a batch that each process has; change one \
                 of them",
                train.group
            );
        }
        batches::warn_of_dropped_images(validate, world);
        for (port, contents) in [("train", train), ("validate", validate)] {
            batches::check_one_batch(port, contents, world)?;
        }
        Ok(())
    }
}

impl NodeKind for Trainer {
    const NAME: &'static str = "RsNet";
    const SUMMARY: &'static str = "trains a resolution switchable network, and validates it";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "train",
            carries: Batch::NAME,
        },
        Port {
            name: "validate",
            carries: Batch::NAME,
        },
    ];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "metrics",
            carries: Metric::NAME,
        },
        Port {
            name: "checkpoints",
            carries: Checkpointed::NAME,
        },
    ];
    const ROLE: Role = Role::Trainer { port: "train" };
    const SPELLINGS: &'static [(&'static str, Spelling)] = SPELLINGS;
    const EXAMPLE: &'static str = r#"RsNet(train: "train_batches", validate: "val_batches", network: ResNet(depth: 18), classes: 1000, optimizer: Sgd(lr: 0.1), epochs: 120)"#;
}
