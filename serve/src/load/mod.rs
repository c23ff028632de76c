//! Load for a server: requests at times that do not depend on its answers, and what became of them.
//!
//! A client that waits for an answer before it sends the next request hides how long requests wait while a
//! server is slow. Here each has its time beforehand, and its latency counts from that time (Schroeder et al.,
//! "Open Versus Closed: A Cautionary Tale", NSDI 2006).

mod arrivals;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use arrivals::{arrivals, read_trace};
pub use report::Report;

/// How long after its deadline an answer is waited for.
const GRACE: Duration = Duration::from_secs(10);

/// The longest that a load may last.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// An image that is sent, and the name of its class where that is known.
#[derive(Clone, Debug)]
pub struct Sample {
    pub file: Bytes,
    pub class: Option<String>,
}

/// Where requests go, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://127.0.0.1:8080`.
    pub url: String,
    /// The deadline that requests name.
    pub deadline: Duration,
    /// The size that requests name: `auto`, `ensemble` or pixels.
    pub size: String,
    /// The most connections at a time. Where none is free, a request waits, which its latency counts.
    pub connections: usize,
}

/// What a server says of itself at `/v1/status`. Servers of other programs do not.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub deadline_ms: f64,
    pub sizes: Vec<SizeStatus>,
}

/// A size that it can compute at, the largest first.
#[derive(Clone, Debug, Deserialize)]
pub struct SizeStatus {
    pub size: String,
    pub images_per_second: f64,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answered {
        size: String,
        /// Whether the most probable class is the image's; `None` if that is not known.
        correct: Option<bool>,
    },
    /// 503, at once.
    Refused,
    /// 504: its deadline passed before it was computed.
    Expired,
    /// Anything else, and what.
    Failed(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sent {
    /// From the time at which it was to be sent to the last byte of the answer.
    pub latency: Duration,
    pub outcome: Outcome,
}

type Connections = Client<HttpConnector, Full<Bytes>>;

fn connections() -> Connections {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

/// The address as a user may write it, with its scheme and without a path.
///
/// # Errors
/// No address; another scheme than http.
pub fn url(text: &str) -> Result<String> {
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri: Uri = whole
        .parse()
        .with_context(|| format!("{text:?} is no address"))?;
    ensure!(
        uri.scheme_str() == Some("http"),
        "{text:?} must begin with http://: other schemes are not spoken here"
    );
    let authority = uri
        .authority()
        .with_context(|| format!("{text:?} names no host"))?;
    Ok(format!("http://{authority}"))
}

/// What the server says of itself.
///
/// # Errors
/// It cannot be reached, or is none of rsflow's.
pub fn status(url: &str) -> Result<Status> {
    runtime()?.block_on(async {
        let asked = connections().get(format!("{url}/v1/status").parse()?);
        let answer = tokio::time::timeout(GRACE, asked).await;
        let answer = answer
            .map_err(|_| anyhow::anyhow!("{url} does not answer"))?
            .with_context(|| format!("cannot reach {url}; is `rsflow serve` running there?"))?;
        let body = answer.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&body)
            .with_context(|| format!("{url}/v1/status is not that of `rsflow serve`"))
    })
}

/// Sends a request at each of these times after the start, with one sample after the other, and waits for all
/// answers. `progress` gets the number of those that ended, several times a second.
///
/// # Errors
/// No samples; the system has no threads left. What becomes of a request is no error here.
pub fn run(
    target: &Target,
    samples: &[Sample],
    times: &[Duration],
    mut progress: impl FnMut(u64),
) -> Result<Vec<Sent>> {
    ensure!(!samples.is_empty(), "there are no images to send");
    let query = format!(
        "{}/v1/classify?top=1&size={}&deadline_ms={}",
        target.url,
        target.size,
        target.deadline.as_secs_f64() * 1e3
    );
    let longest = times.iter().max().copied().unwrap_or_default();
    ensure!(
        longest < LONGEST,
        "a request {longest:?} after the first is too late"
    );
    let uri: Uri = query.parse().context("the size is no part of an address")?;
    let ended = Arc::new(AtomicU64::new(0));
    runtime()?.block_on(async {
        let client = connections();
        let free = Arc::new(Semaphore::new(target.connections));
        let longest = target.deadline + GRACE;
        let start = Instant::now() + Duration::from_millis(50);
        let mut requests = JoinSet::new();
        let mut shown = Instant::now();
        for (&time, sample) in times.iter().zip(samples.iter().cycle()) {
            let due = start + time;
            tokio::time::sleep_until(due).await;
            if shown.elapsed() > Duration::from_millis(200) {
                progress(ended.load(Ordering::Relaxed));
                shown = Instant::now();
            }
            let (client, free, ended) = (client.clone(), free.clone(), ended.clone());
            let (uri, sample) = (uri.clone(), sample.clone());
            requests.spawn(async move {
                let _connection = free.acquire().await;
                let asked = tokio::time::timeout(longest, ask(&client, uri, sample));
                let outcome = match asked.await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
                    Err(_) => Outcome::Failed("no answer".to_owned()),
                };
                ended.fetch_add(1, Ordering::Relaxed);
                let latency = due.elapsed();
                Sent { latency, outcome }
            });
        }
        let mut all = Vec::with_capacity(times.len());
        while let Some(sent) = requests.join_next().await {
            all.push(sent.context("a request panicked")?);
        }
        Ok(all)
    })
}

async fn ask(client: &Connections, uri: Uri, sample: Sample) -> Result<Outcome> {
    let request = Request::post(uri).body(Full::new(sample.file))?;
    let answer = client.request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(match status {
        200 => {
            #[derive(Deserialize)]
            struct Answer {
                size: serde_json::Value,
                predictions: Vec<Prediction>,
            }
            #[derive(Deserialize)]
            struct Prediction {
                class: String,
            }
            let answer: Answer = serde_json::from_slice(&body)?;
            let best = answer.predictions.first();
            let size = answer.size.to_string();
            Outcome::Answered {
                size: size.trim_matches('"').to_owned(),
                // A network without names says nothing of them.
                correct: sample.class.and_then(|class| {
                    let best = best.filter(|best| !best.class.is_empty())?;
                    Some(best.class == class)
                }),
            }
        }
        503 => Outcome::Refused,
        504 => Outcome::Expired,
        _ => {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            bail!("{status}: {text}")
        }
    })
}
