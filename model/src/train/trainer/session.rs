//! A training run: step, log, validate, save.

mod ending;
mod failures;
mod rates;
mod validating;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::{
    Batch, Build, Contents, PROGRESS, Ports, Position, Received, Receiver, Sender, Thread, World,
};
use tch::{Kind, Tensor};

use super::dry_run::dry_run;
use super::epoch_sums::EpochSums;
use super::loss_watch::LossWatch;
use super::start::{Lengths, Origin, resume, resume_average, start_from};
use super::terms::Terms;
use super::{Trainer, first_sizes, preprocess, resolutions};
use crate::checkpoint::{Checkpoint, ClassMap, ClassOrder, Metadata, Snapshot, match_classes};
use crate::dist::{PeerLost, Peers};
use crate::nn::compute::{ExecConfig, adopt_thread_count};
use crate::nn::parameters::WeightInit;
use crate::nn::replay::Inference;
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::DeviceTransfer;
use crate::train::average::RunningAverage;
use crate::train::batches::Labelled;
use crate::train::cores_of;
use crate::train::distillation::Loss;
use crate::train::metrics::{Checkpointed, Metric, Samples, Step, Table};
use crate::train::optimizer::RunningOptimizer;
use crate::train::processes::StepExchange;
use crate::train::steps::Steps;

/// Everything that a run needs, opened; it becomes the trainer's thread.
pub(super) struct Session {
    settings: Trainer,
    net: SwitchableNetwork,
    optimizer: RunningOptimizer,
    /// Follows the network.
    average: Option<RunningAverage>,
    steps: Steps,
    /// The passes of validations.
    inference: Inference,
    transfer: DeviceTransfer,
    /// The run's position, as checkpoints store it.
    at: Metadata,
    lengths: Lengths,
    validation_batches: u64,
    /// Those of all processes.
    validation_samples: u64,
    /// The network's classes of the training and of the validation data.
    training_classes: ClassMap,
    validation_classes: ClassMap,
    /// A checkpoint is wanted every so many steps.
    save_every: Option<u64>,
    loss: LossWatch,
    /// Of the current epoch.
    sums: EpochSums,
    /// The step of the last checkpoint, which is sound: written, or gone on from.
    saved: Option<u64>,
    /// When this process began to train, and the seconds that were trained for before.
    began: Instant,
    seconds_before: f64,
    /// The other processes of the run.
    peers: Option<Arc<Peers>>,
    exchange: Option<StepExchange>,
    world: World,
}

/// The trainer's output ports.
struct Outputs {
    metrics: Sender<Metric>,
    /// Metrics sent so far.
    sent: u64,
    checkpoints: Sender<Checkpointed>,
}

impl Outputs {
    fn metric(&mut self, metric: Metric) {
        self.metrics.send(metric);
        self.sent += 1;
    }
}

/// How a part of the run ended.
enum Ended {
    /// All of it is done.
    Complete,
    /// The run is to end here.
    Stopped,
}

/// Makes sure that all processes of a run train the same network on the same data.
fn ensure_alike(
    peers: &Peers,
    build: &Build,
    (train, validate): (&Contents, &Contents),
    compute: ExecConfig,
) -> Result<()> {
    let last = Tensor::from_slice(&[train.last_group as i64]);
    let all = peers
        .sum(&[&last])?
        .first()
        .map(|sum| sum.f_int64_value(&[0]));
    let equal = train.last_group as i64 * i64::from(peers.world().size);
    ensure!(
        all.transpose()? == Some(equal),
        "the last batch of an epoch cannot be shared out evenly among {} processes: set `shuffle: true` \
         in the node that reads the training images, or `drop_last: true` in the node that makes batches",
        peers.world().size
    );
    let (train, validate) = (train.names_hash, validate.names_hash);
    peers.ensure_same(&[
        ("program", env!("CARGO_PKG_VERSION").to_owned()),
        ("recipe", build.recipe.to_owned()),
        ("seed", build.seed.to_string()),
        ("names of the training images", format!("{train:?}")),
        ("names of the validation images", format!("{validate:?}")),
        (
            "dtype of convolutions",
            format!("{:?}", compute.compute_dtype),
        ),
    ])
}

impl Session {
    /// Builds the network, on the checkpoint to go on from if there is one.
    pub fn open(
        settings: &Trainer,
        build: &Build,
        train: &Contents,
        validate: &Contents,
    ) -> Result<Self> {
        let resolutions = resolutions(build.schemas)?;
        let peers = build.peers::<Arc<Peers>>()?.cloned();
        let resumed = Origin::of(build.resume::<Checkpoint>()?, "resume", peers.as_deref())?;
        let start = match resumed {
            None => WeightInit::Random { seed: build.seed },
            Some(_) => WeightInit::Zeros,
        };
        let mut settings = settings.clone();
        if let Some(peers) = &peers {
            settings.device = settings.device_of(peers.world())?;
        }
        let settings = &settings;
        let compute = match &resumed {
            None => settings.compute()?,
            Some(origin) => settings.compute_as_before(origin.metadata())?,
        };
        if let Some(peers) = &peers {
            if compute.device.is_cuda() {
                peers.use_gpu()?;
            }
            ensure_alike(peers, build, (train, validate), compute)?;
        }
        let mut net = settings.network(compute, &resolutions, start)?;
        let at_once = settings.micro_batch.map_or(train.group, u64::from);
        net.set_norm_scope(settings.norms_over.scope(
            peers.as_deref(),
            at_once,
            settings.micro_batch.is_some(),
        )?);
        let first_sizes = first_sizes(build.schemas, &resolutions);
        settings.check_lengths_of(train, &first_sizes)?;
        dry_run(settings, compute, &resolutions, train.group)?;
        let mut optimizer = settings.start_optimizer(&net)?;
        let classes = train.classes.to_vec();
        let mut at = Metadata {
            batch_norms: settings.batch_norms,
            norms: settings.norm_options(),
            preprocess: preprocess(build.schemas),
            normalize: settings.normalize,
            channels: settings.channels,
            trained_in_float32: compute.compute_dtype == Kind::Float,
            steps_per_epoch: Some(train.items_per_epoch),
            samples_per_epoch: Some(train.samples),
            training_names: train.names_hash.map(|hash| format!("{hash:016x}")),
            validation_names: validate.names_hash.map(|hash| format!("{hash:016x}")),
            seed: build.seed,
            recipe: build.recipe.to_owned(),
            ..Metadata::new(settings.network.clone(), classes, resolutions)
        };
        let lengths = Lengths {
            epochs: settings.epochs,
            steps_per_epoch: train.items_per_epoch,
            samples_per_epoch: train.samples,
            batch: train.group * u64::from(build.run.world.size),
        };
        let optimizer_of = &mut optimizer;
        let training_classes = match (&resumed, &settings.start_from) {
            (Some(origin), _) => {
                let run_dir = build.run.run_dir.as_deref();
                let peers = peers.as_deref();
                resume(origin, run_dir, peers, &mut at, &net, optimizer_of, lengths)?
            }
            (None, Some(path)) => {
                let from = (path.as_path(), settings.start_weights);
                start_from(from, &net, optimizer_of, &mut at, peers.as_deref())?
            }
            (None, None) => ClassMap::identity(),
        };
        let origin = &validate.origin;
        let validation_classes =
            match_classes(&at.classes, &validate.classes, origin, ClassOrder::Text)?;
        let demands = build.demands.iter();
        let save_every = demands
            .filter(|(port, _)| *port == "checkpoints")
            .filter_map(|(_, demand)| demand.every_steps)
            .min();
        // After the weights were loaded.
        let average = settings.average.map(|rule| -> Result<_> {
            let mut average = rule.start(&net, settings.cuda_graph)?;
            if let Some(origin) = &resumed {
                resume_average(origin, &mut average, peers.as_deref())?;
            }
            Ok(average)
        });
        let exchange = peers.clone().map(|peers| {
            StepExchange::new(
                peers,
                &net,
                settings.exchange,
                settings.step(net.resolutions()).overlaps_exchange(),
            )
        });
        let (sizes, device) = (net.resolutions().len(), net.parameters().device());
        let sums = at.training.take().filter(|_| at.sample_in_epoch > 0);
        let sums = sums.map(|sums| EpochSums::resumed(sums, sizes, device));
        let sums = sums.transpose()?.unwrap_or_default();
        let before = resumed.as_ref().map(|origin| origin.metadata().clone());
        let session = Session {
            average: average.transpose()?,
            exchange: exchange.transpose()?,
            steps: settings.steps(&net)?,
            inference: Inference::new(&net, settings.cuda_graph),
            transfer: DeviceTransfer::new(compute, settings.normalize, settings.channels)?,
            settings: settings.clone(),
            net,
            optimizer,
            loss: LossWatch::default(),
            sums,
            saved: resumed.map(|_| at.step),
            began: Instant::now(),
            seconds_before: at.trained_seconds.unwrap_or(0.0),
            at,
            lengths,
            validation_batches: validate.items_per_epoch,
            validation_samples: validate.samples,
            training_classes,
            validation_classes,
            save_every,
            peers,
            world: build.run.world,
        };
        if let Some(before) = before {
            session.warn_of_learning_rate(&before);
        }
        Ok(session)
    }

    fn step(&mut self, batch: &Batch, lr: f64) -> Result<Loss> {
        #[cfg(debug_assertions)]
        injected_failure(self.at.step + 1)?;
        let batch = Labelled::new(batch, &self.training_classes);
        let classes = self.net.classes();
        let (images, labels) = self.transfer.batch(&batch, classes)?;
        let (seed, at) = (self.at.seed, (self.at.step, self.world.rank));
        let drawn = self.settings.drawn();
        let inputs = drawn.draw(&self.net, images, labels, seed, at)?;
        let (net, optimizer) = (&self.net, &mut self.optimizer);
        let exchange = self.exchange.as_ref();
        self.steps.step(net, optimizer, &inputs, lr, exchange)
    }

    /// Keeps the loss of the last step, of so many images. Waits for nothing.
    fn record(&mut self, loss: &Loss, images: u64) -> Result<()> {
        let positions = self.positions(self.at.step);
        let terms = Terms::of(loss, &positions, self.net.resolutions().len())?;
        self.loss.record(&terms, self.at.step)?;
        self.sums.add(terms, images)
    }

    /// The positions of the resolutions that a step trains; it counts from 1.
    fn positions(&self, step: u64) -> Vec<usize> {
        let (seed, step) = (self.at.seed, step.saturating_sub(1));
        let sampling = self.settings.sampling;
        sampling.draw(self.net.resolutions(), seed, step)
    }

    /// What this process does, for the message if it is lost.
    fn set_doing(&self, doing: impl FnOnce(&Self) -> String) {
        if let Some(peers) = &self.peers {
            peers.set_doing(doing(self));
        }
    }

    /// Saves the last whole step if the run fails because another process is lost.
    fn save_if_lost(&mut self, outputs: &mut Outputs, error: &anyhow::Error) -> Result<()> {
        let is_new = self.at.step > 0 && self.saved != Some(self.at.step);
        if let Some(exchange) = self
            .exchange
            .as_ref()
            .filter(|_| PeerLost::is_in(error) && is_new)
        {
            exchange.undo()?;
            self.sound_losses()?;
            self.save(outputs, None, false)?;
        }
        Ok(())
    }

    /// Whether the run is to end here: of several processes, if one of them says so, all end after the same
    /// step.
    fn stops(&self, own: bool) -> Result<bool> {
        match &self.peers {
            Some(peers) => peers.any(own),
            None => Ok(own),
        }
    }

    /// All epochs that are left.
    fn train(
        &mut self,
        train: &mut Receiver<Batch>,
        validate: &mut Receiver<Batch>,
        ports: &Ports,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let run_began = Instant::now();
        if self.ended_before(outputs)? {
            return Ok(());
        }
        while self.at.epoch < self.settings.epochs {
            let began = Instant::now();
            self.sums.run_clock();
            let ended = self.train_epoch(train, ports, outputs)?;
            self.sums.stop_clock();
            let complete = matches!(ended, Ended::Complete);
            let out_of_time = complete && self.is_out_of_time()?;
            if complete && !self.validates_now() && !out_of_time {
                let table = self.unvalidated(began.elapsed().as_secs_f64())?;
                self.end_epoch();
                outputs.metric(Metric::Epoch(table));
                self.save(outputs, Some(self.at.epoch), false)?;
                if self.stops(ports.stopping())? {
                    return Ok(());
                }
                continue;
            }
            let validation = match ended {
                Ended::Stopped => None,
                Ended::Complete => self.validate(validate, outputs)?,
            };
            let Some(validation) = validation else {
                // The user's wish, or another node's failure: what was learned is kept.
                return self.save(outputs, None, false);
            };
            let best = self.is_best(&validation);
            self.at.validation = Some(validation);
            let table = Table {
                training: self.training()?,
                ..self.last_table(began.elapsed().as_secs_f64())
            };
            self.end_epoch();
            // Before the checkpoint: when it is there, its validation is in the log.
            outputs.metric(Metric::Epoch(table));
            let reason = self.reason_to_end(out_of_time);
            let ends = reason.is_some() || self.at.epoch == self.settings.epochs;
            if ends {
                let table = self.last_table(run_began.elapsed().as_secs_f64());
                outputs.metric(Metric::Final(table));
            }
            self.save(outputs, Some(self.at.epoch), best)?;
            if let Some(reason) = reason.filter(|_| self.at.epoch < self.settings.epochs) {
                tracing::info!(target: PROGRESS, "{reason}: the run ends after epoch {}", self.at.epoch);
            }
            if ends || self.stops(ports.stopping())? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next step is of the next epoch.
    fn end_epoch(&mut self) {
        self.at.epoch += 1;
        self.at.sample_in_epoch = 0;
        self.sums = EpochSums::default();
    }

    fn train_epoch(
        &mut self,
        batches: &mut Receiver<Batch>,
        ports: &Ports,
        outputs: &mut Outputs,
    ) -> Result<Ended> {
        let mut since = (Instant::now(), 0);
        let mut save_due = false;
        loop {
            self.set_doing(|own| format!("waiting for the images of step {}", own.at.step + 1));
            let received = batches.receive()?;
            let closed = matches!(received, Received::Closed);
            let stop = closed || self.peers.is_some() && ports.stopping();
            if self.stops(stop)? {
                if self.loss.has_steps() {
                    self.sound_losses()?; // what is saved now, too
                }
                return Ok(Ended::Stopped);
            }
            let batch = match received {
                Received::Item(_, batch) => batch,
                Received::EndOfEpoch(_) => return Ok(Ended::Complete),
                Received::Closed => return Ok(Ended::Stopped),
            };
            self.set_doing(|own| format!("in step {}", own.at.step + 1));
            let lr = self.learning_rate();
            let loss = self.step(&batch, lr);
            let loss = loss.map_err(|error| self.failed_step(self.at.step + 1, error))?;
            self.at.step += 1;
            self.at.learning_rate = Some(lr);
            if let Some(average) = &mut self.average {
                let updated = average.update(&self.net, self.at.step);
                updated.map_err(|error| self.failed_step(self.at.step, error))?;
            }
            let done = self.at.sample_in_epoch + self.lengths.batch;
            self.at.sample_in_epoch = done.min(self.lengths.samples_per_epoch);
            let step_in_epoch = self.at.sample_in_epoch.div_ceil(self.lengths.batch);
            // Of all processes, which have equal shares.
            let images = batch.labels().len() * self.world.size as usize;
            let recorded = self.record(&loss, images as u64);
            recorded.map_err(|error| self.failed_step(self.at.step, error))?;
            if self.at.step == 1 {
                outputs.metric(Metric::Samples(Samples::of(&batch, 1)));
            }
            drop(batch); // its memory goes back to be filled again
            since.1 += images;

            let last = step_in_epoch == self.lengths.steps_per_epoch;
            let log =
                self.at.step == 1 || last || self.at.step.is_multiple_of(self.settings.log_every);
            save_due |= self
                .save_every
                .is_some_and(|every| self.at.step.is_multiple_of(every));
            // The end of an epoch saves anyway.
            let save = save_due && !last && outputs.checkpoints.has_room();
            // Of several processes, all end before the same step.
            let stop = self.peers.is_none() && ports.stopping();
            // What is saved is known to be sound.
            let losses = (log || save || stop)
                .then(|| self.sound_losses())
                .transpose()?;
            outputs.metric(Metric::Step(Step {
                epoch: self.at.epoch,
                step: self.at.step,
                losses: losses.filter(|_| log),
                learning_rate: lr,
                images_per_second: since.1 as f64 / since.0.elapsed().as_secs_f64(),
                step_in_epoch,
                steps_per_epoch: self.lengths.steps_per_epoch,
                epochs: self.settings.epochs,
                images,
            }));
            if log {
                since = (Instant::now(), 0);
            }
            if save {
                self.save(outputs, None, false)?;
                save_due = false;
            }
            if stop {
                return Ok(Ended::Stopped);
            }
        }
    }

    fn save(&mut self, outputs: &mut Outputs, end_of_epoch: Option<u64>, best: bool) -> Result<()> {
        if self.peers.as_ref().is_some_and(|peers| !peers.is_first()) {
            self.saved = Some(self.at.step);
            return Ok(()); // all hold the same, and the first one writes it
        }
        let began = Instant::now();
        let snapshot = self
            .optimizer
            .loss_scale()
            .and_then(|loss_scale| {
                let at = Metadata {
                    loss_scale,
                    optimizer_updates: self.optimizer.updates()?,
                    optimizer_missed: self.optimizer.missed(),
                    trained_seconds: self.seconds(),
                    training: self.sums.saved()?,
                    ..self.at.clone()
                };
                let average = self.average.iter().flat_map(RunningAverage::buffers);
                let buffers = self.optimizer.buffers().chain(average);
                Snapshot::take(at, self.net.parameters(), buffers)
            })
            .with_context(|| {
                format!(
                    "no checkpoint can be taken after {}. {}",
                    self.place(self.at.step),
                    self.hint()
                )
            })?;
        // All that training waits for; the sink writes while the next step runs.
        tracing::info!(
            step = self.at.step,
            seconds = began.elapsed().as_secs_f64(),
            "copied the network for a checkpoint"
        );
        self.saved = Some(self.at.step);
        let checkpointed = Checkpointed {
            snapshot: Arc::new(snapshot),
            end_of_epoch,
            best,
            metrics: outputs.sent,
        };
        // It waits while the one before is written.
        match &self.peers {
            Some(peers) => peers.writing(|| outputs.checkpoints.send(checkpointed)),
            None => outputs.checkpoints.send(checkpointed),
        }
        Ok(())
    }
}

/// For tests, in debug builds alone: the step that RSFLOW_FAILING_STEP names fails as it would if
/// the device were lost.
#[cfg(debug_assertions)]
fn injected_failure(step: u64) -> Result<()> {
    let named = std::env::var("RSFLOW_FAILING_STEP").ok();
    ensure!(
        named.and_then(|named| named.parse().ok()) != Some(step),
        "CUDA error: the launch timed out and was terminated"
    );
    Ok(())
}

impl Thread for Session {
    fn run(mut self: Box<Self>, mut ports: Ports) -> Result<()> {
        adopt_thread_count();
        let mut train = ports
            .input::<Batch>("train")
            .context("the trainer needs `train`")?;
        let mut validate = ports
            .input::<Batch>("validate")
            .context("the trainer needs `validate`")?;
        let mut outputs = Outputs {
            metrics: ports.output("metrics"),
            sent: 0,
            checkpoints: ports.output("checkpoints"),
        };
        let trained = self.train(&mut train, &mut validate, &ports, &mut outputs);
        if let Err(error) = &trained
            && let Err(unsaved) = self.save_if_lost(&mut outputs, error)
        {
            tracing::warn!("the last step was not saved: {unsaved:#}");
        }
        trained
    }

    fn epochs(&self) -> Option<u64> {
        Some(self.settings.epochs)
    }

    fn cores(&self, cores: usize) -> usize {
        cores_of(self.net.parameters().device(), self.settings.threads, cores)
    }

    fn start(&self, port: &str) -> Position {
        match port {
            "train" => Position {
                epoch: self.at.epoch,
                sample: self.at.sample_in_epoch,
            },
            // Every validation is a whole one, and an epoch of its stream.
            _ => Position {
                epoch: self.at.epoch / self.settings.validate_every.max(1),
                sample: 0,
            },
        }
    }
}
