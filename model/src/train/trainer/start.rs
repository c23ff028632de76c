//! Where a run starts that does not start at random: the weights of another, or the place where a
//! checkpoint left it. Of several processes the first one reads the file, and the others get what is in
//! it from there.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::home;
use rsflow_base::run_files::{BEST, CHECKPOINTS, best_checkpoint};
use rsflow_base::shown::Shown as _;
use rsflow_graph::PROGRESS;

use crate::checkpoint::{
    Best, Checkpoint, ClassMap, ClassOrder, FORMAT, Metadata, Weights, match_classes, packed,
};
use crate::dist::Peers;
use crate::nn::parameters::{Parameter, Role, join_problems};
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::Normalize;
use crate::train::average::RunningAverage;
use crate::train::optimizer::RunningOptimizer;

/// A checkpoint that a run starts from.
pub(super) struct Origin<'a> {
    /// Its path, as it is printed.
    place: String,
    saved: Metadata,
    /// In the process that reads it.
    file: Option<&'a Checkpoint>,
}

impl<'a> Origin<'a> {
    /// The one that process 0 has opened, if it has. All processes call it with the same `name`.
    ///
    /// # Errors
    /// Another process is lost.
    pub fn of(
        file: Option<&'a Checkpoint>,
        name: &str,
        peers: Option<&Peers>,
    ) -> Result<Option<Self>> {
        let own = file.map(|file| (file.path().shown().to_string(), file.metadata()));
        let Some(peers) = peers else {
            return Ok(own.map(|(place, saved)| Origin {
                place,
                saved: saved.clone(),
                file,
            }));
        };
        let text = serde_json::to_string(&own)?;
        let text = peers.broadcast(name, || text)?;
        // Process 0 reads it, too: numbers may change a little when they are written as text.
        let known: Option<(String, Metadata)> = serde_json::from_str(&text)?;
        Ok(known.map(|(place, saved)| Origin { place, saved, file }))
    }

    pub fn metadata(&self) -> &Metadata {
        &self.saved
    }

    /// What is wrong with its network.
    fn other_network(&self, wanted: &Metadata) -> String {
        let (saved, wanted) = (&self.saved.network, &wanted.network);
        format!("{} holds {saved}, the recipe says {wanted}", self.place)
    }
}

/// Gives the other processes what the first one has read: the parameters, and the optimizer's state.
fn share(peers: &Peers, net: &SwitchableNetwork, optimizer: &mut RunningOptimizer) -> Result<()> {
    let own: Vec<String> = optimizer.buffers().map(|(name, _)| name).collect();
    let own = serde_json::to_string(&own)?;
    let names: Vec<String> = serde_json::from_str(&peers.broadcast("buffers", || own)?)?;
    if !peers.is_first() {
        optimizer.make_buffers(&names)?;
    }
    let parameters = net.parameters().iter().map(|p| &p.tensor);
    peers.share(&parameters.chain(optimizer.state()).collect::<Vec<_>>())
}

/// What to do with a checkpoint that a run cannot go on from.
const ANEW: &str = "; a new run can start from its weights: `start_from` in the recipe's trainer";

/// The map of data that has all of the network's classes.
fn all_classes(network: &[String], data: &[String]) -> Result<ClassMap> {
    let map = match_classes(network, data, "the data", ClassOrder::Text)?;
    ensure!(
        map.missing == 0,
        "the network has {} classes, but the data has {}",
        network.len(),
        data.len()
    );
    Ok(map)
}

/// Gives the network the weights of a checkpoint, as far as they fit. `to` is what the new run says
/// of itself; it gets the order of the network's classes.
pub(super) fn start_from(
    (path, weights): (&Path, Option<Weights>),
    net: &SwitchableNetwork,
    optimizer: &mut RunningOptimizer,
    to: &mut Metadata,
    peers: Option<&Peers>,
) -> Result<ClassMap> {
    let first = peers.is_none_or(Peers::is_first);
    let file = first.then(|| {
        let path = home::expand(path)?;
        let file = best_checkpoint(&path).unwrap_or(path);
        Checkpoint::open(&file)?.with_weights(weights)
    });
    let file = file.transpose()?;
    let origin = Origin::of(file.as_ref(), "start_from", peers)?;
    let origin = origin.context("process 0 has no checkpoint to start from")?;
    let Origin { place, saved, .. } = &origin;
    let same_network = to.network.is_compatible_with(&saved.network);
    ensure!(
        same_network || to.network.can_start_from(&saved.network),
        origin.other_network(to)
    );
    let same_classes = all_classes(&saved.classes, &to.classes);
    if let Err(difference) = &same_classes {
        tracing::warn!("{place}: {difference}; the classifier starts at random");
    }
    for norm in to.batch_norm_resolutions() {
        if !saved.batch_norm_resolutions().contains(&norm) {
            tracing::warn!(
                "{place} has no batch norms of resolution {norm}: they start with those of {}",
                saved.batch_norm_for(norm)
            );
        }
    }
    if saved.normalize != to.normalize {
        tracing::warn!(
            "{place} was trained with `normalize: {}`, the recipe says {}",
            written_out(saved.normalize),
            written_out(to.normalize)
        );
    }
    if saved.norms.epsilon != to.norms.epsilon {
        tracing::warn!(
            "{place} was trained with `batch_norm_epsilon: {:e}`, the recipe says {:e}",
            saved.norms.epsilon,
            to.norms.epsilon
        );
    }
    if saved.channels != to.channels {
        tracing::warn!(
            "{place} was trained with `channels: {:?}`, the recipe says {:?}",
            saved.channels,
            to.channels
        );
    }
    if saved.packed {
        tracing::warn!("{place} is packed: its weights start at their levels");
    }
    let wanted = |file: &Checkpoint, parameter: &Parameter| match parameter.role {
        Role::LinearWeight | Role::LinearBias => same_classes.is_ok(),
        // Those of other levels say nothing of these, and the first step replaces them.
        role if role.is_quantizer_state() => same_network,
        _ if same_network => true,
        _ => {
            file.holds(parameter, |norm| saved.batch_norm_for(norm))
                || packed::contains(file, parameter)
        }
    };
    if let Some(file) = origin.file.filter(|_| !same_network) {
        let anew: Vec<String> = net
            .parameters()
            .iter()
            .filter(|&p| !wanted(file, p) && !p.role.is_quantizer_state())
            .map(|p| p.name.clone())
            .collect();
        let quantizers = match to.network.is_quantized() {
            true => "; quantizers start fresh",
            false => "",
        };
        let others = match anew.len() {
            0 => String::new(),
            count => format!("; {count} tensors start fresh: {}", join_problems(&anew)),
        };
        tracing::warn!(
            "{}: only its weights are loaded; optimizer and epoch start fresh{quantizers}{others}",
            origin.other_network(to)
        );
    }
    if let Some(file) = origin.file {
        let nearest = |norm| saved.batch_norm_for(norm);
        file.load_with(net, nearest, |parameter| wanted(file, parameter))?;
    }
    if let Some(peers) = peers {
        share(peers, net, optimizer)?;
    }
    let weights = origin.file.map(Checkpoint::weights);
    tracing::info!(checkpoint = %place, ?weights, "started from its weights");
    let classes = same_classes.unwrap_or_else(|_| ClassMap::identity());
    if !classes.is_identity() {
        to.classes.clone_from(&saved.classes);
    }
    Ok(classes)
}

/// As a recipe has it.
fn written_out(normalize: Option<Normalize>) -> String {
    normalize.map_or_else(|| "None".to_owned(), |by| by.to_string())
}

/// How long a run is.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub epochs: u64,
    pub steps_per_epoch: u64,
    /// Those of all processes.
    pub samples_per_epoch: u64,
    /// Samples of a full batch, of all processes.
    pub batch: u64,
}

/// The best validation so far, if its checkpoint is still there: else the best of the following epochs
/// takes its place. The first process looks for it.
///
/// # Errors
/// Another process is lost.
fn best_at_hand(
    origin: &Origin,
    run_dir: Option<&Path>,
    peers: Option<&Peers>,
) -> Result<Option<Best>> {
    let found = serde_json::to_string(&find_best(origin, run_dir))?;
    let Some(peers) = peers else {
        return Ok(serde_json::from_str(&found)?);
    };
    Ok(serde_json::from_str(&peers.broadcast("best", || found)?)?)
}

fn find_best(origin: &Origin, run_dir: Option<&Path>) -> Option<Best> {
    let (best, checkpoint) = (origin.saved.best?, origin.file?);
    let folder = run_dir.unwrap_or(Path::new("")).join(CHECKPOINTS);
    let found = checkpoint.find_best(&folder);
    if found.is_none() {
        tracing::warn!(
            "the best checkpoint so far, of epoch {}, is neither in {} nor beside {}: {BEST} will be the \
             best of the following epochs",
            best.epoch + 1,
            folder.shown(),
            origin.place
        );
    }
    found.map(|_| best)
}

/// Puts the run where the checkpoint left it.
pub(super) fn resume(
    origin: &Origin,
    run_dir: Option<&Path>,
    peers: Option<&Peers>,
    at: &mut Metadata,
    net: &SwitchableNetwork,
    optimizer: &mut RunningOptimizer,
    lengths: Lengths,
) -> Result<ClassMap> {
    let Lengths {
        epochs,
        steps_per_epoch,
        samples_per_epoch,
        batch,
    } = lengths;
    let Origin { place, saved, file } = origin;
    ensure!(
        at.network.is_compatible_with(&saved.network),
        "{}{}",
        origin.other_network(at),
        if at.network.can_start_from(&saved.network) {
            ANEW
        } else {
            ""
        }
    );
    ensure!(
        !saved.packed,
        "{place} is packed, so training cannot be resumed from it; resume from the checkpoint that \
         it was exported from, or start a new run with `start_from` in the recipe's trainer"
    );
    ensure!(
        !saved.averaged,
        "{place} has the average of the weights alone, so training cannot be resumed from it; resume from a \
         checkpoint of the run, or start a new run with `start_from` in the recipe's trainer"
    );
    ensure!(
        saved.resolutions == at.resolutions,
        "{place} was trained at {:?}, the recipe says {:?}{ANEW}",
        saved.resolutions,
        at.resolutions
    );
    ensure!(
        saved.batch_norms == at.batch_norms,
        "{place} has {:?} batch norms, the recipe says {:?}{ANEW}",
        saved.batch_norms,
        at.batch_norms
    );
    ensure!(
        saved.norms.affine == at.norms.affine,
        "{place} has {:?} scales and shifts of batch norms (`affine`), the recipe says {:?}{ANEW}",
        saved.norms.affine,
        at.norms.affine
    );
    let classes = all_classes(&saved.classes, &at.classes)
        .with_context(|| format!("cannot resume from {place}"))?;
    // Of a finished run, what was left to do when it ended is done: its files, its last line. A changed
    // recipe would have no effect.
    let finished = saved.epoch == epochs && saved.validation.is_some() && saved.recipe == at.recipe;
    ensure!(
        saved.epoch < epochs || finished,
        "{place} has completed {} epochs, and the recipe has `epochs: {epochs}`; to train longer, give \
         `--set trainer.epochs=...` and `--accept-changes`",
        saved.epoch
    );
    // Within an epoch, what is left of it is known by the number of samples done alone.
    let sample_in_epoch = saved.samples_done(batch).min(samples_per_epoch);
    let within = saved.samples_done(batch) > 0;
    let hint = "revert the change, or resume from the checkpoint of a whole epoch \
                   (epoch-NNN.safetensors)";
    ensure!(
        !within || saved.seed == at.seed,
        "{place} was saved within an epoch whose order is that of seed {}, the recipe has seed {}; {hint}",
        saved.seed,
        at.seed
    );
    let saved_steps = saved.steps_per_epoch.unwrap_or(steps_per_epoch);
    let saved_samples = saved.samples_per_epoch.unwrap_or(samples_per_epoch);
    ensure!(
        !within || (saved_steps, saved_samples) == (steps_per_epoch, samples_per_epoch),
        "{place} was saved within an epoch of {saved_steps} steps ({saved_samples} images), this recipe \
         has {steps_per_epoch} steps ({samples_per_epoch} images) per epoch; {hint}"
    );
    if differ(&saved.training_names, &at.training_names) {
        ensure!(
            !within,
            "{place} was saved within an epoch, and the training images or their classes were renamed, \
             replaced or moved since then (there are {samples_per_epoch}, as before); {hint}"
        );
        let before = match saved_samples == samples_per_epoch {
            true => "as before, but not with the same names".to_owned(),
            false => format!("and were {saved_samples}"),
        };
        tracing::warn!(
            "the training images are not those that {place} was trained on: they are {samples_per_epoch}, \
             {before}"
        );
    }
    if differ(&saved.validation_names, &at.validation_names) {
        tracing::warn!(
            "the validation images are not those that {place} was validated on: its accuracies, and which \
             checkpoint is the best, do not compare with what follows"
        );
    }
    if let Some(file) = file {
        file.load(net)?;
        let used = optimizer
            .load(file.optimizer()?)
            .with_context(|| format!("cannot load the optimizer from the checkpoint {place}"))?;
        if !used {
            tracing::warn!(
                "{place} holds the state of another kind of optimizer, which is not used: this one starts fresh"
            );
        }
    }
    if let Some(loss_scale) = saved.loss_scale {
        optimizer.load_loss_scale(loss_scale)?;
    }
    if let Some(peers) = peers {
        share(peers, net, optimizer)?;
    }
    optimizer.load_missed(
        &saved.optimizer_missed,
        saved.optimizer_updates.unwrap_or(0),
    );
    *at = Metadata {
        recipe: std::mem::take(&mut at.recipe),
        classes: match classes.is_identity() {
            true => std::mem::take(&mut at.classes),
            false => saved.classes.clone(),
        },
        training_names: at.training_names.take(),
        validation_names: at.validation_names.take(),
        format: FORMAT,
        network: at.network.clone(),
        preprocess: at.preprocess,
        norms: at.norms,
        normalize: at.normalize,
        channels: at.channels,
        trained_in_float32: at.trained_in_float32,
        // Their statistics are those of weights that now change.
        calibrated: vec![],
        seed: at.seed,
        steps_per_epoch: at.steps_per_epoch,
        samples_per_epoch: at.samples_per_epoch,
        sample_in_epoch,
        old_step_in_epoch: None,
        best: best_at_hand(origin, run_dir, peers)?,
        // Its own number, unless epochs had another length: the schedule continues from its epoch.
        step: saved.epoch * steps_per_epoch + sample_in_epoch.div_ceil(batch.max(1)),
        ..saved.clone()
    };
    tracing::info!(checkpoint = %place, epoch = at.epoch + 1, step = at.step, "resumed");
    if finished {
        tracing::info!(
            target: PROGRESS,
            "all {epochs} epochs are done: nothing is left to train; to train longer, give \
             `--set trainer.epochs=...` and `--accept-changes`"
        );
    }
    Ok(classes)
}

/// Puts the average of the weights where the checkpoint left it. One that has none leaves it at the weights.
pub(super) fn resume_average(
    origin: &Origin,
    average: &mut RunningAverage,
    peers: Option<&Peers>,
) -> Result<()> {
    if let Some(file) = origin.file
        && !average.load(file)?
    {
        tracing::warn!(
            "{} has no average of the weights: it starts with the weights themselves",
            origin.place
        );
    }
    match peers {
        Some(peers) => peers.share(&average.tensors().collect::<Vec<_>>()),
        None => Ok(()),
    }
}

/// Whether two hashes of names are known and differ.
fn differ(saved: &Option<String>, now: &Option<String>) -> bool {
    saved.is_some() && now.is_some() && saved != now
}
