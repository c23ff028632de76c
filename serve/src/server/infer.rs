//! A request from its images to its answers, whatever protocol it came by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::App;
use super::device::{Answer, At, Device, Input, Job, Outcome};
use super::metrics::{Ended, Metrics};
use super::problem::Problem;
use super::queue::{Asked, Entry};

/// How long after its deadline an image is waited for whose batch is being computed.
const LATEST: Duration = Duration::from_secs(30);

/// A request whose last byte has come.
#[derive(Debug)]
pub(super) struct Request {
    /// What was named.
    pub at: Option<At>,
    pub arrived: Instant,
    pub deadline: Duration,
    pub images: Images,
}

/// Images of one kind.
#[derive(Debug)]
pub(super) enum Images {
    Files(Vec<Bytes>),
    /// uint8 `[n, size, size, 3]`.
    Pixels(u32, Bytes),
    /// Normalized, float32 `[n, 3, size, size]`.
    Normalized(u32, Vec<f32>),
}

impl Images {
    /// The size that tensors have.
    fn size(&self) -> Option<u32> {
        match self {
            Images::Files(_) => None,
            Images::Pixels(size, _) | Images::Normalized(size, _) => Some(*size),
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Images::Files(files) => files.len(),
            Images::Pixels(size, bytes) => bytes.len() / values(*size),
            Images::Normalized(size, pixels) => pixels.len() / values(*size),
        }
    }
}

/// The values of an image.
pub(super) fn values(size: u32) -> usize {
    3 * (size as usize).pow(2)
}

/// Counts a request as cancelled unless it ended in another way.
pub(super) struct Counted<'a> {
    metrics: &'a Metrics,
    arrived: Instant,
    is_open: bool,
}

impl<'a> Counted<'a> {
    pub fn new(metrics: &'a Metrics) -> Self {
        Counted {
            metrics,
            arrived: Instant::now(),
            is_open: true,
        }
    }

    /// Its last byte has come.
    pub fn arrived(&mut self) -> Instant {
        self.arrived = Instant::now();
        self.arrived
    }

    /// It was answered, late if one of its images was, or it was not.
    pub fn result<T>(self, result: Result<(T, Vec<Answer>), Problem>) -> Result<T, Problem> {
        match result {
            Ok((response, answers)) => {
                let ended = match answers.iter().any(|answer| answer.late) {
                    true => Ended::Late,
                    false => Ended::Ok,
                };
                self.end(ended, answers.first().map(|answer| answer.at));
                Ok(response)
            }
            Err(problem) => {
                self.end(problem.ended(), None);
                Err(problem)
            }
        }
    }

    fn end(mut self, ended: Ended, at: Option<At>) {
        self.is_open = false;
        self.metrics.request(ended, at, self.arrived.elapsed());
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.metrics
                .request(Ended::Cancelled, None, self.arrived.elapsed());
        }
    }
}

/// The threads that decode images, apart from the device's.
pub(super) struct Decoding {
    workers: usize,
    slots: Arc<Semaphore>,
    /// Files that are decoded or wait for it, and the most.
    files: Arc<AtomicUsize>,
    most: usize,
    /// The moving average of a file's time in nanoseconds.
    mean: AtomicU64,
}

impl Decoding {
    pub fn new(workers: usize, most: usize) -> Self {
        Decoding {
            workers,
            slots: Arc::new(Semaphore::new(workers)),
            files: Arc::default(),
            most,
            mean: AtomicU64::new(1_000_000),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The seconds until so many more files are decoded.
    fn predict(&self, more: usize) -> f64 {
        // With nothing before it a file is decoded whatever the average says: else one large picture could keep
        // all others out for good.
        let files = match self.files.load(Relaxed) {
            0 => 0,
            files => files + more,
        };
        files.div_ceil(self.workers) as f64 * self.mean.load(Relaxed) as f64 * 1e-9
    }

    fn observe(&self, took: Duration) {
        let mean = self.mean.load(Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let took = took.min(mean.saturating_mul(4));
        // Updates may get lost; an average bears it.
        self.mean.store(mean - mean / 16 + took / 16, Relaxed);
    }
}

/// A number of files that are decoded or wait for it.
struct Share(Arc<AtomicUsize>, usize);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

/// The answers for the images of a request, in their order.
pub(super) async fn infer(
    app: &Arc<App>,
    device: &Arc<Device>,
    request: Request,
) -> Result<Vec<Answer>, Problem> {
    let count = request.images.count();
    let most = app.config.queue;
    if count == 0 || count > most {
        let text = format!("a request has 1 to {most} images, this one has {count}");
        return Err(Problem::bad(text));
    }
    let at = match (request.at, request.images.size()) {
        (Some(at), Some(size)) if at != At::Size(size) => {
            let text = format!(
                "the tensor has the size {size}, and {} was asked for",
                at.name()
            );
            return Err(Problem::bad(text));
        }
        (at, size) => size.map(At::Size).or(at),
    };
    let row = match at {
        None => None,
        Some(at) => Some(device.row(at).ok_or_else(|| not_loaded(device, at))?),
    };
    let deadline = request.arrived + request.deadline;
    let inputs = match request.images {
        Images::Files(files) => {
            // What cannot be in time is not decoded.
            device.admits(Asked {
                row,
                images: count,
                before: app.decoding.predict(count),
                deadline,
            })?;
            match timeout_at(deadline.into(), decode(app, device, at, files)).await {
                Ok(inputs) => inputs?,
                // It says nothing of the device.
                Err(_) => return Err(Problem::expired()),
            }
        }
        Images::Pixels(size, bytes) => {
            let images = bytes.chunks_exact(values(size));
            images
                .map(|image| Input::Pixels(vec![(size, image.to_vec())]))
                .collect()
        }
        Images::Normalized(size, pixels) => {
            if !pixels.iter().all(|value| value.is_finite()) {
                return Err(Problem::bad("a value of the tensor is not finite"));
            }
            let images = pixels.chunks_exact(values(size));
            images
                .map(|image| Input::Normalized(image.to_vec()))
                .collect()
        }
    };
    let mut answers = Vec::with_capacity(count);
    let entries = inputs.into_iter().map(|input| {
        let (answer, wait) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        answers.push((wait, Arc::clone(&begun)));
        Entry {
            row,
            arrived: request.arrived,
            deadline,
            job: Job {
                input,
                begun,
                answer,
            },
        }
    });
    device.submit(entries.collect())?;
    let mut finished = Vec::with_capacity(count);
    for (mut answer, begun) in answers {
        let mut outcome = timeout_at(deadline.into(), &mut answer).await;
        if outcome.is_err() && begun.load(Relaxed) {
            // It is being computed: late is better than never.
            outcome = timeout_at((deadline + LATEST).into(), answer).await;
        }
        match outcome {
            Ok(Ok(Outcome::Answer(answer))) => {
                app.metrics.queued(answer.at, answer.queued);
                finished.push(answer);
            }
            Ok(Ok(Outcome::Expired)) => return Err(Problem::expired()),
            Ok(Ok(Outcome::Fault(fault))) => return Err(Problem::bad(fault)),
            Ok(Err(_)) => return Err(Problem::unavailable("the device failed", 10.0)),
            Err(_) => {
                device.expired(row, request.deadline);
                return Err(Problem::expired());
            }
        }
    }
    Ok(finished)
}

/// The size is not there; these are.
pub(super) fn not_loaded(device: &Device, at: At) -> Problem {
    let rows = device.rows.iter().map(|row| row.name());
    let rows = rows.collect::<Vec<_>>().join(", ");
    let what = match at {
        At::Size(size) => format!("the size {size}"),
        At::Ensemble => "the ensemble".to_owned(),
    };
    Problem::bad(format!("{what} is not loaded; there are {rows}"))
}

/// Decodes files, and makes each size of them at which they may be computed.
async fn decode(
    app: &Arc<App>,
    device: &Arc<Device>,
    at: Option<At>,
    files: Vec<Bytes>,
) -> Result<Vec<Input>, Problem> {
    let decoding = &app.decoding;
    let count = files.len();
    let before = decoding.files.fetch_add(count, Relaxed);
    let _share = Share(Arc::clone(&decoding.files), count);
    if before + count > decoding.most {
        let text = "the server is busy: too many images wait to be decoded";
        return Err(Problem::unavailable(text, decoding.predict(0)));
    }
    let sizes: Arc<[u32]> = match at {
        Some(At::Size(size)) => [size].into(),
        Some(At::Ensemble) => device.network.ensemble().into(),
        None => {
            let sizes = device.automatic().iter();
            sizes.filter_map(|at| match at {
                At::Size(size) => Some(*size),
                At::Ensemble => None,
            })
        }
        .collect(),
    };
    // Dropped with the request, and what was not begun with it.
    let mut decoded = JoinSet::new();
    for (index, file) in files.into_iter().enumerate() {
        let (app, device) = (Arc::clone(app), Arc::clone(device));
        let (slots, sizes) = (Arc::clone(&decoding.slots), Arc::clone(&sizes));
        decoded.spawn(async move {
            // Never closed.
            let slot = slots.acquire_owned().await;
            let work = move || {
                let _slot = slot;
                let since = Instant::now();
                let pixels = device.network.pixels(&file, &sizes);
                let took = since.elapsed();
                app.decoding.observe(took);
                app.metrics.decoded(took);
                pixels.map(|pixels| sizes.iter().copied().zip(pixels).collect())
            };
            (index, tokio::task::spawn_blocking(work).await)
        });
    }
    let mut inputs: Vec<Option<Input>> = (0..count).map(|_| None).collect();
    while let Some(joined) = decoded.join_next().await {
        let lost = || Problem::unavailable("decoding was interrupted", 1.0);
        let (index, pixels) = joined.map_err(|_| lost())?;
        let pixels = pixels.map_err(|_| lost())?;
        let pixels = pixels.map_err(|error| {
            let problem = Problem::from(error);
            match count {
                1 => problem,
                _ => problem.about(&format!("image {index}")),
            }
        })?;
        inputs[index] = Some(Input::Pixels(pixels));
    }
    Ok(inputs.into_iter().flatten().collect())
}
