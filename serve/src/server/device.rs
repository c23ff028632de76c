//! The device: one thread that loads a network, measures it, and then computes what the queue gives it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rsflow_model::nn::compute::{failure_kind, is_out_of_memory};
use rsflow_model::runtime::{Images, Prediction};
use rsflow_pipeline::preprocess::{PreprocessError, pixels_at};
use tokio::sync::oneshot;

use super::Config;
use super::metrics::Metrics;
use super::policy::Rules;
use super::profile::{Curve, Profile};
use super::queue::{Asked, Batch, Entry, Queue, Refused, Watched};
use crate::RsNet;

/// A device counts as stuck if a batch takes so many times what was predicted,
const STUCK: f64 = 10.0;
/// and at least this long.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What a request is computed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// A size in pixels.
    Size(u32),
    /// The ensemble of all sizes that were trained.
    Ensemble,
}

/// A network as the server needs it; tests have one that only sleeps.
pub trait Network: Send + Sync + 'static {
    /// In pixels, from the largest to the smallest.
    fn sizes(&self) -> Vec<u32>;

    /// The sizes of the ensemble in its order; empty if there is none.
    fn ensemble(&self) -> Vec<u32>;

    /// The names of the classes; empty ones are not known.
    fn classes(&self) -> &[String];

    /// The file that it was loaded from.
    fn source(&self) -> String;

    /// The pixels of an image file at several sizes, uint8 `[size, size, 3]` each.
    ///
    /// # Errors
    /// Damage; a format that is not supported; too many pixels.
    fn pixels(&self, file: &[u8], sizes: &[u32]) -> Result<Vec<Vec<u8>>, PreprocessError>;

    /// The `top` most probable classes of one image, the most probable first.
    fn top(&self, logits: &[f32], top: usize) -> Vec<Prediction>;

    /// The logits of images, `[batch, classes]`. Of the ensemble: the same images at each of its sizes.
    ///
    /// # Errors
    /// The device fails ([`failure_kind`] knows it then); anything else is the fault of these images.
    fn logits(&self, at: At, images: &[Images<'_>]) -> Result<Vec<f32>>;
}

impl Network for RsNet {
    fn sizes(&self) -> Vec<u32> {
        RsNet::sizes(self).to_vec()
    }

    fn ensemble(&self) -> Vec<u32> {
        self.runtime().ensemble_sizes()
    }

    fn classes(&self) -> &[String] {
        self.runtime().classes()
    }

    fn source(&self) -> String {
        self.runtime().checkpoint().display().to_string()
    }

    fn pixels(&self, file: &[u8], sizes: &[u32]) -> Result<Vec<Vec<u8>>, PreprocessError> {
        pixels_at(self.preprocess(), file, sizes)
    }

    fn top(&self, logits: &[f32], top: usize) -> Vec<Prediction> {
        self.runtime().top(logits, top)
    }

    fn logits(&self, at: At, images: &[Images<'_>]) -> Result<Vec<f32>> {
        match (at, images) {
            (At::Size(size), [images]) => self.runtime().logits(*images, size),
            (At::Ensemble, images) => self.runtime().ensemble(images),
            _ => Err(anyhow!("a size takes one batch of images")),
        }
    }
}

/// An image whose answer is waited for.
#[derive(Debug)]
pub struct Job {
    pub input: Input,
    /// Set when its batch begins.
    pub begun: Arc<AtomicBool>,
    pub answer: oneshot::Sender<Outcome>,
}

/// An image.
#[derive(Debug)]
pub enum Input {
    /// uint8 `[size, size, 3]` at each size at which it may be computed, whichever is chosen.
    Pixels(Vec<(u32, Vec<u8>)>),
    /// Normalized, float32 `[3, size, size]`, of the size that was named.
    Normalized(Vec<f32>),
}

/// What became of an image. A sender that is dropped without one belongs to a device that failed.
#[derive(Debug)]
pub enum Outcome {
    Answer(Answer),
    /// It waited for so long that it could not be in time any more.
    Expired,
    /// The network has no answer for it.
    Fault(String),
}

/// The answer for one image.
#[derive(Clone, Debug)]
pub struct Answer {
    pub at: At,
    pub logits: Vec<f32>,
    pub queued: Duration,
    /// The time of the whole batch.
    pub computed: Duration,
    /// Whether it came after its deadline.
    pub late: bool,
}

/// A loaded network, its queue and its thread. The thread ends when this is dropped and all that waits has been
/// answered.
pub struct Device {
    pub network: Arc<dyn Network>,
    /// What each row of the profile is.
    pub rows: Vec<At>,
    pub rules: Rules,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue<Job>,
    is_closed: bool,
    /// Why the device cannot be used any more.
    failure: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete when a panic could occur.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.wake.notify_all();
    }
}

impl Device {
    /// Loads a network on a thread of its own, and measures it there, which warms it up. `failed` is called if
    /// the device fails later.
    ///
    /// # Errors
    /// It cannot be loaded; it cannot answer within the deadline.
    pub fn start(
        load: impl FnOnce() -> Result<Box<dyn Network>> + Send + 'static,
        config: &Config,
        metrics: Arc<Metrics>,
        failed: impl FnOnce(anyhow::Error) + Send + 'static,
    ) -> Result<Device> {
        let (loaded, wait) = std::sync::mpsc::sync_channel(1);
        let config = config.clone();
        let work = move || {
            let start = || {
                let network: Arc<dyn Network> = load()?.into();
                open(network, &config)
            };
            let device = match quietly(start) {
                Ok(device) => device,
                Err(error) => return drop(loaded.send(Err(error))),
            };
            let (network, shared) = (Arc::clone(&device.network), Arc::clone(&device.shared));
            let rows = device.rows.clone();
            if loaded.send(Ok(device)).is_err() {
                return;
            }
            let served = quietly(|| serve(&*network, &rows, &shared, &metrics));
            let mut state = shared.state();
            if let Err(error) = served {
                state.failure = Some(format!("{error:#}"));
                // Whoever waits sees that its sender is gone.
                state.queue.clear();
                drop(state);
                failed(error);
            }
        };
        let thread = thread::Builder::new().name("device".to_owned());
        thread
            .spawn(work)
            .context("cannot start the device's thread")?;
        wait.recv().context("the device's thread ended")?
    }

    /// The row of what was named.
    pub fn row(&self, at: At) -> Option<usize> {
        self.rows.iter().position(|row| *row == at)
    }

    /// The sizes that a request gets that named none, from the largest.
    pub fn automatic(&self) -> &[At] {
        &self.rows[..self.rules.automatic]
    }

    /// Queues the images of a request.
    ///
    /// # Errors
    /// They cannot be in time; the queue is full.
    pub fn submit(&self, entries: Vec<Entry<Job>>) -> Result<(), Refused> {
        let mut state = self.shared.state();
        if state.failure.is_some() {
            // Dropped, which says it.
            return Ok(());
        }
        state.queue.submit(entries, Instant::now())?;
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Whether a request whose files are to be decoded could be in time.
    ///
    /// # Errors
    /// It could not.
    pub fn admits(&self, asked: Asked) -> Result<(), Refused> {
        let mut state = self.shared.state();
        state.queue.admits_files(asked, Instant::now())
    }

    /// A request waited in vain until its deadline.
    pub fn expired(&self, row: Option<usize>, after: Duration) {
        let mut state = self.shared.state();
        state.queue.expired(row, after, Instant::now());
    }

    pub fn watch(&self) -> Watched {
        self.shared.state().queue.watch(Instant::now())
    }

    pub fn profile(&self) -> Profile {
        self.shared.state().queue.profile().clone()
    }

    /// Whether it computes: no failure, and no batch that takes ten times its prediction.
    pub fn is_live(&self) -> bool {
        let state = self.shared.state();
        let running = state.queue.watch(Instant::now()).running;
        let is_stuck = running.is_some_and(|running| {
            let most = STUCK_AFTER.max(Duration::from_secs_f64(STUCK * running.predicted));
            running.since.elapsed() > most
        });
        state.failure.is_none() && !is_stuck
    }
}

/// A panic is an error: the thread has to say that it is gone.
fn quietly<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!(
            "the device's thread panicked: {}",
            text.unwrap_or("")
        ))
    })
}

/// Measures a network.
fn open(network: Arc<dyn Network>, config: &Config) -> Result<Device> {
    let sizes = network.sizes();
    let ensemble = network.ensemble();
    let deadline = config.deadline.as_secs_f64();
    // A batch takes at most half of the deadline: who comes when it has begun waits for it, and for its own.
    let longest = deadline / 2.0;
    let curve = |at: At| {
        let sizes = match at {
            At::Size(size) => vec![size],
            At::Ensemble => ensemble.clone(),
        };
        measure(&*network, at, &sizes, config.max_batch, longest)
    };
    let of_sizes = sizes.iter().map(|&size| At::Size(size));
    let others = (!ensemble.is_empty()).then_some(At::Ensemble);
    let rows: Vec<At> = of_sizes.clone().chain(others).collect();
    let curves = of_sizes.map(curve).collect::<Result<Vec<Curve>>>()?;
    let others = others.into_iter().map(curve).collect::<Result<_>>()?;
    let profile = Profile::new(curves, others);
    let automatic = match (config.switching, config.floor) {
        (false, _) => 1,
        (true, floor) => {
            let above = |size: &&u32| floor.is_none_or(|floor| **size >= floor);
            sizes.iter().filter(above).count()
        }
    };
    ensure!(automatic > 0, "no size is as large as the floor");
    let rules = Rules {
        automatic,
        deadline,
    };
    let least = profile.predict(rules.smallest(), 1);
    ensure!(
        least < deadline,
        "an image takes {:.1} ms at {} pixels, and the deadline is {:.1} ms: every request would be refused\n\
         help: --deadline-ms {:.0}",
        least * 1e3,
        sizes[rules.smallest()],
        deadline * 1e3,
        (least * 4e3).ceil()
    );
    let is_cancelled = |job: &Job| job.answer.is_closed();
    let queue = Queue::new(rules, profile, config.queue, is_cancelled, Instant::now());
    Ok(Device {
        network,
        rows,
        rules,
        shared: Arc::new(Shared {
            state: Mutex::new(State {
                queue,
                is_closed: false,
                failure: None,
            }),
            wake: Condvar::new(),
        }),
    })
}

/// How long batches of 1, 2, 4 and so on take, up to `largest` and to those that take `longest` seconds.
fn measure(
    network: &dyn Network,
    at: At,
    sizes: &[u32],
    largest: usize,
    longest: f64,
) -> Result<Curve> {
    /// The first pass of a shape chooses kernels, the second may be recorded.
    const WARM_UP: usize = 2;
    const PASSES: usize = 5;
    const ENOUGH: Duration = Duration::from_millis(300);
    let mut measured = Vec::new();
    let doubled = std::iter::successors(Some(1), |count| Some(count * 2));
    let counts = doubled
        .take_while(|count| *count < largest)
        .chain([largest.max(1)]);
    for count in counts {
        let pixels = sizes
            .iter()
            .map(|&size| vec![128; count * 3 * (size as usize).pow(2)]);
        let pixels: Vec<Vec<u8>> = pixels.collect();
        let images: Vec<Images<'_>> = pixels.iter().map(|pixels| Images::Bytes(pixels)).collect();
        let mut passes = Vec::new();
        let start = Instant::now();
        for pass in 0..WARM_UP + PASSES {
            let since = Instant::now();
            match network.logits(at, &images) {
                Err(error) if is_out_of_memory(&error) && count > 1 => {
                    return Ok(Curve { measured });
                }
                computed => computed.context("cannot warm the network up")?,
            };
            let took = since.elapsed().as_secs_f64();
            if pass >= WARM_UP || start.elapsed() > ENOUGH {
                passes.push(took);
            }
            if !passes.is_empty() && start.elapsed() > ENOUGH {
                break;
            }
        }
        passes.sort_by(f64::total_cmp);
        let seconds = passes[passes.len() / 2];
        if count > 1 && seconds > longest {
            break;
        }
        measured.push((count, seconds));
        if seconds > longest {
            break;
        }
    }
    Ok(Curve { measured })
}

/// Computes until the queue is closed and empty.
fn serve(network: &dyn Network, rows: &[At], shared: &Shared, metrics: &Metrics) -> Result<()> {
    loop {
        let mut late = Vec::new();
        let batch = {
            let mut state = shared.state();
            loop {
                let batch = state.queue.next(&mut late, Instant::now());
                if batch.is_some() || !late.is_empty() {
                    break batch;
                }
                if state.is_closed {
                    return Ok(());
                }
                let woken = shared.wake.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
        };
        for entry in late {
            let _ = entry.job.answer.send(Outcome::Expired);
        }
        if let Some(batch) = batch {
            compute(network, rows[batch.row], batch, shared, metrics)?;
        }
    }
}

/// Computes a batch and answers.
fn compute(
    network: &dyn Network,
    at: At,
    batch: Batch<Job>,
    shared: &Shared,
    metrics: &Metrics,
) -> Result<()> {
    let began = Instant::now();
    for entry in &batch.entries {
        entry.job.begun.store(true, Relaxed);
    }
    let count = batch.entries.len();
    let classes = network.classes().len();
    let sizes = match at {
        At::Size(size) => vec![size],
        At::Ensemble => network.ensemble(),
    };
    let results = logits(network, at, &sizes, &batch.entries, classes)?;
    let computed = began.elapsed();
    let now = Instant::now();
    metrics.batch(at, count, computed, batch.predicted);
    {
        let queue = &mut shared.state().queue;
        let late = batch.entries.iter();
        let late = late.filter(|entry| now > entry.deadline && queue.counts_as_trouble(entry));
        let late = late.count();
        queue.done(batch.row, count, late, now);
    }
    for (entry, result) in batch.entries.into_iter().zip(results) {
        let outcome = match result {
            Ok(logits) => Outcome::Answer(Answer {
                at,
                logits,
                queued: began.saturating_duration_since(entry.arrived),
                computed,
                late: now > entry.deadline,
            }),
            Err(fault) => Outcome::Fault(fault),
        };
        // Nobody may wait any more.
        let _ = entry.job.answer.send(outcome);
    }
    Ok(())
}

/// The logits of each image, or what is wrong with it.
fn logits(
    network: &dyn Network,
    at: At,
    sizes: &[u32],
    entries: &[Entry<Job>],
    classes: usize,
) -> Result<Vec<Result<Vec<f32>, String>>> {
    let mut results: Vec<Result<Vec<f32>, String>> = vec![Err(String::new()); entries.len()];
    let is_normalized = |at: &usize| matches!(entries[*at].job.input, Input::Normalized(_));
    let (normalized, pixels): (Vec<usize>, Vec<usize>) =
        (0..entries.len()).partition(is_normalized);
    for group in [normalized, pixels] {
        if group.is_empty() {
            continue;
        }
        match together(network, at, sizes, entries, &group) {
            Ok(logits) => {
                for (&of, logits) in group.iter().zip(logits.chunks_exact(classes)) {
                    results[of] = Ok(logits.to_vec());
                }
            }
            // One image may have spoilt the batch, or it was too large for the memory: one by one.
            Err(error) if failure_kind(&error).is_none() || is_out_of_memory(&error) => {
                for of in group {
                    results[of] = match together(network, at, sizes, entries, &[of]) {
                        Ok(logits) => Ok(logits),
                        Err(error) if failure_kind(&error).is_none() => Err(format!("{error:#}")),
                        Err(error) => return Err(error),
                    };
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

/// The logits of some of the entries, all of the same kind.
fn together(
    network: &dyn Network,
    at: At,
    sizes: &[u32],
    entries: &[Entry<Job>],
    group: &[usize],
) -> Result<Vec<f32>> {
    let mut bytes = Vec::with_capacity(sizes.len());
    let mut values = Vec::new();
    for size in sizes {
        let mut of_size = Vec::new();
        for &of in group {
            match &entries[of].job.input {
                Input::Pixels(pixels) => {
                    let found = pixels.iter().find(|(of, _)| of == size);
                    let (_, pixels) = found.context("an image was not made at this size")?;
                    if of_size.is_empty() {
                        of_size.reserve_exact(group.len() * pixels.len());
                    }
                    of_size.extend_from_slice(pixels);
                }
                Input::Normalized(pixels) => values.extend_from_slice(pixels),
            }
        }
        bytes.push(of_size);
    }
    if !values.is_empty() {
        return network.logits(at, &[Images::Normalized(&values)]);
    }
    let images: Vec<Images<'_>> = bytes.iter().map(|bytes| Images::Bytes(bytes)).collect();
    network.logits(at, &images)
}
