//! What the server counts: for Prometheus, and the last second for the page.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use super::device::At;

/// How a request ended, by the name that it has in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Answered in time.
    Ok,
    /// Answered after its deadline.
    Late,
    /// Refused on arrival, or the device failed.
    Refused,
    /// It waited until it could not be in time any more.
    Expired,
    /// It was wrong.
    Bad,
    /// Its sender did not wait for the answer.
    Cancelled,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Ended::Ok => "ok",
            Ended::Late => "late",
            Ended::Refused => "refused",
            Ended::Expired => "expired",
            Ended::Bad => "bad",
            Ended::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRequest {
    outcome: &'static str,
    size: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSize {
    size: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReload {
    outcome: &'static str,
}

type Histograms = Family<OfSize, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<OfRequest, Counter>,
    latency: Histograms,
    queued: Histograms,
    computed: Histograms,
    decoded: Histogram,
    batches: Histograms,
    ratio: Histogram,
    resolution: Gauge,
    waiting: Gauge,
    rate: Seconds,
    ready: Gauge,
    reloads: Family<OfReload, Counter>,
    recent: Mutex<VecDeque<Remembered>>,
}

/// What happened lately.
#[derive(Debug, Default, Serialize)]
pub struct Recent {
    /// Requests answered within the last second.
    pub answered: usize,
    pub refused: usize,
    /// Of the answered ones, in milliseconds.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// How many were answered at each size, the largest first.
    pub sizes: Vec<(String, usize)>,
}

/// A request that ended: when, how, at which size, and how long it took.
type Remembered = (Instant, Ended, At, Duration);

fn forget_old(recent: &mut VecDeque<Remembered>) {
    while recent.front().is_some_and(|(at, ..)| at.elapsed() > RECENT) {
        recent.pop_front();
    }
}

/// How much of the past [`Recent`] covers.
const RECENT: Duration = Duration::from_secs(1);
/// The most requests that are remembered for it.
const REMEMBERED: usize = 65_536;

impl At {
    /// As in labels and headers: `160` or `ensemble`.
    pub fn name(self) -> String {
        match self {
            At::Size(size) => size.to_string(),
            At::Ensemble => "ensemble".to_owned(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        // 100 us to 26 s.
        let times: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 19));
        let images: fn() -> Histogram = || Histogram::new(exponential_buckets(1.0, 2.0, 11));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("rsflow"),
            requests: Family::default(),
            latency: Family::new_with_constructor(times),
            queued: Family::new_with_constructor(times),
            computed: Family::new_with_constructor(times),
            decoded: times(),
            batches: Family::new_with_constructor(images),
            ratio: Histogram::new([0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0]),
            resolution: Gauge::default(),
            waiting: Gauge::default(),
            rate: Gauge::default(),
            ready: Gauge::default(),
            reloads: Family::default(),
            recent: Mutex::default(),
        };
        let of = &mut metrics.registry;
        let seconds = || Unit::Seconds;
        of.register(
            "requests",
            "Requests, by how they ended",
            metrics.requests.clone(),
        );
        of.register_with_unit(
            "request",
            "From the last byte of a request to its answer",
            seconds(),
            metrics.latency.clone(),
        );
        of.register_with_unit(
            "queue",
            "From decoded to computed",
            seconds(),
            metrics.queued.clone(),
        );
        of.register_with_unit("compute", "Of a batch", seconds(), metrics.computed.clone());
        of.register_with_unit(
            "decode",
            "Decoding an image file and resizing it to all sizes",
            seconds(),
            metrics.decoded.clone(),
        );
        of.register("batch_images", "Images in a batch", metrics.batches.clone());
        of.register(
            "prediction_ratio",
            "Time of a batch over its prediction",
            metrics.ratio.clone(),
        );
        of.register(
            "resolution",
            "The size of the last batch in pixels; 0 for the ensemble",
            metrics.resolution.clone(),
        );
        of.register("waiting", "Images in the queue", metrics.waiting.clone());
        of.register(
            "arrivals_per_second",
            "Images that came within the last second",
            metrics.rate.clone(),
        );
        of.register(
            "ready",
            "Whether requests are answered",
            metrics.ready.clone(),
        );
        of.register(
            "reloads",
            "Reloads of the checkpoint",
            metrics.reloads.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// A request ended, `took` after its last byte.
    pub fn request(&self, ended: Ended, at: Option<At>, took: Duration) {
        let size = at.map_or_else(String::new, At::name);
        let labels = OfRequest {
            outcome: ended.name(),
            size: size.clone(),
        };
        self.requests.get_or_create(&labels).inc();
        if at.is_some() {
            let of_size = self.latency.get_or_create(&OfSize { size });
            of_size.observe(took.as_secs_f64());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut recent);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        // A request that got no answer has no size.
        recent.push_back((Instant::now(), ended, at.unwrap_or(At::Size(0)), took));
    }

    pub(super) fn batch(&self, at: At, images: usize, took: Duration, predicted: f64) {
        let labels = OfSize { size: at.name() };
        self.computed
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.batches.get_or_create(&labels).observe(images as f64);
        if predicted > 0.0 {
            self.ratio.observe(took.as_secs_f64() / predicted);
        }
        self.resolution.set(match at {
            At::Size(size) => size.into(),
            At::Ensemble => 0,
        });
    }

    pub fn queued(&self, at: At, queued: Duration) {
        let labels = OfSize { size: at.name() };
        self.queued
            .get_or_create(&labels)
            .observe(queued.as_secs_f64());
    }

    pub fn decoded(&self, took: Duration) {
        self.decoded.observe(took.as_secs_f64());
    }

    pub fn reload(&self, worked: bool) {
        let outcome = if worked { "ok" } else { "failed" };
        self.reloads.get_or_create(&OfReload { outcome }).inc();
    }

    /// All of them in OpenMetrics' text format.
    pub fn text(&self, waiting: usize, rate: f64, ready: bool) -> String {
        self.waiting.set(waiting as i64);
        self.rate.set(rate);
        self.ready.set(ready.into());
        let mut text = String::new();
        // A string takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The last second.
    pub fn recent(&self) -> Recent {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut recent);
        let is_answered = |ended: Ended| matches!(ended, Ended::Ok | Ended::Late);
        let answered = recent.iter().filter(|(_, ended, ..)| is_answered(*ended));
        let mut times: Vec<f64> = Vec::new();
        let mut sizes: Vec<(At, usize)> = Vec::new();
        for (_, _, at, took) in answered {
            times.push(took.as_secs_f64() * 1e3);
            match sizes.iter_mut().find(|(of, _)| of == at) {
                Some((_, count)) => *count += 1,
                None => sizes.push((*at, 1)),
            }
        }
        let refused = |ended: &Ended| matches!(ended, Ended::Refused | Ended::Expired);
        let refused = recent
            .iter()
            .filter(|(_, ended, ..)| refused(ended))
            .count();
        drop(recent);
        times.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let rank = (times.len() as f64 * share).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied()
        };
        sizes.sort_by_key(|(at, _)| match at {
            At::Ensemble => 0,
            At::Size(size) => u32::MAX - size,
        });
        Recent {
            answered: times.len(),
            refused,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            sizes: sizes
                .into_iter()
                .map(|(at, count)| (at.name(), count))
                .collect(),
        }
    }
}
