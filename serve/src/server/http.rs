//! The routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use rsflow_base::shown::Shown as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::{Answer, At, Device};
use super::infer::{Counted, Images, Request, infer, values};
use super::metrics::Recent;
use super::problem::Problem;
use super::{App, Config};
use super::{profile::Profile, v2};

/// The longest deadline that a request may name, in milliseconds.
const LONGEST_DEADLINE_MS: f64 = 600_000.0;
/// A body of an image file, or of a few tensors.
const LEAST_BODY: usize = 32 << 20;
/// No batch needs more.
const MOST_BODY: usize = 256 << 20;

const RESOLUTION: HeaderName = HeaderName::from_static("x-rsflow-resolution");
const QUEUE_MS: HeaderName = HeaderName::from_static("x-rsflow-queue-ms");
const COMPUTE_MS: HeaderName = HeaderName::from_static("x-rsflow-compute-ms");

pub(super) type Shared = State<Arc<App>>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/classify", post(classify))
        .merge(v2::routes())
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        // `Budget::read` has the limits.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn missing(uri: Uri) -> Problem {
    let text = format!("there is nothing at {}", uri.path().shown());
    Problem::new(StatusCode::NOT_FOUND, text)
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let text = format!("{} does not take {method}", uri.path().shown());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn metrics(State(app): Shared) -> Response {
    let watched = app.device().map(|device| device.watch());
    let (waiting, rate) = watched.map_or((0, 0.0), |watched| (watched.waiting, watched.rate));
    let text = app.metrics.text(waiting, rate, app.is_ready());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What the page shows.
#[derive(Serialize)]
struct Status {
    name: String,
    checkpoint: Option<String>,
    state: &'static str,
    deadline_ms: f64,
    switching: bool,
    sizes: Vec<SizeStatus>,
    waiting: usize,
    arrivals_per_second: f64,
    overloaded: bool,
    recent: Recent,
}

#[derive(Serialize)]
struct SizeStatus {
    size: String,
    /// Whether requests may get it that name none.
    automatic: bool,
    one_ms: f64,
    largest_batch: usize,
    batch_ms: f64,
    images_per_second: f64,
}

async fn status(State(app): Shared) -> Response {
    let device = app.device();
    let watched = device.as_ref().map(|device| device.watch());
    let state = match (&device, app.is_ready()) {
        (_, true) => "ready",
        (None, _) => "loading",
        (Some(device), _) if !device.is_live() => "failed",
        _ => "stopping",
    };
    let status = Status {
        name: app.config.name.clone(),
        checkpoint: device.as_ref().map(|device| device.network.source()),
        state,
        deadline_ms: app.config.deadline.as_secs_f64() * 1e3,
        switching: app.config.switching,
        sizes: device.as_deref().map_or_else(Vec::new, sizes),
        waiting: watched.as_ref().map_or(0, |watched| watched.waiting),
        arrivals_per_second: watched.as_ref().map_or(0.0, |watched| watched.rate),
        overloaded: watched.is_some_and(|watched| watched.troubled),
        recent: app.metrics.recent(),
    };
    json_response(&status)
}

fn sizes(device: &Device) -> Vec<SizeStatus> {
    let profile: Profile = device.profile();
    let rows = device.rows.iter().enumerate();
    rows.map(|(row, at)| {
        let largest_batch = profile.largest(row);
        SizeStatus {
            size: at.name(),
            automatic: row < device.rules.automatic,
            one_ms: profile.predict(row, 1) * 1e3,
            largest_batch,
            batch_ms: profile.predict(row, largest_batch) * 1e3,
            images_per_second: profile.capacity(row),
        }
    })
    .collect()
}

/// A value as JSON.
pub(super) fn json_response(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

/// The query of `/v1/classify`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Classify {
    top: Option<usize>,
    size: Option<String>,
    deadline_ms: Option<f64>,
}

async fn classify(
    State(app): Shared,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut counted = Counted::new(&app.metrics);
    let result = classified(&app, &mut counted, &uri, &headers, body).await;
    counted.result(result)
}

async fn classified(
    app: &Arc<App>,
    counted: &mut Counted<'_>,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Response, Vec<Answer>), Problem> {
    let device = ready_device(app)?;
    let query = Query::<Classify>::try_from_uri(uri);
    let Query(query) = query.map_err(|error| {
        Problem::bad(format!(
            "{}; the query may have top=5, size=auto|ensemble|PIXELS and deadline_ms=50",
            error.body_text()
        ))
    })?;
    let at = at(query.size.as_deref())?;
    let deadline = deadline(&app.config, query.deadline_ms)?;
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/") || kind.starts_with("application/json") {
        return Err(Problem::unsupported(format!(
            "the body must be an image file, not {}; with curl: --data-binary @photo.jpg",
            kind.shown()
        )));
    }
    let body = app
        .bodies
        .read(headers, body, most_body(&device, app.config.max_batch))
        .await?;
    let request = Request {
        at,
        arrived: counted.arrived(),
        deadline,
        images: Images::Files(vec![body.bytes.clone()]),
    };
    let answers = infer(app, &device, request).await?;
    let answer = answers.first();
    let answer = answer.ok_or_else(|| Problem::unavailable("the device failed", 10.0))?;
    let top = query.top.unwrap_or(5);
    let mut response = json_response(&json!({
        "model": app.config.name,
        "size": size(answer.at),
        "predictions": device.network.top(&answer.logits, top),
    }));
    tell_in_headers(response.headers_mut(), answer);
    Ok((response, answers))
}

/// A size as JSON.
fn size(at: At) -> Value {
    match at {
        At::Size(size) => json!(size),
        At::Ensemble => json!("ensemble"),
    }
}

/// Where and how long an answer was computed.
pub(super) fn tell_in_headers(headers: &mut HeaderMap, answer: &Answer) {
    let milliseconds = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
    for (name, value) in [
        (RESOLUTION, answer.at.name()),
        (QUEUE_MS, milliseconds(answer.queued)),
        (COMPUTE_MS, milliseconds(answer.computed)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// The network that answers; a request that comes too early or too late is refused.
pub(super) fn ready_device(app: &App) -> Result<Arc<Device>, Problem> {
    match app.device() {
        Some(device) => Ok(device),
        None => Err(Problem::unavailable("the network is being loaded", 1.0)),
    }
}

/// What a size names: `auto`, `ensemble` or pixels.
pub(super) fn at(size: Option<&str>) -> Result<Option<At>, Problem> {
    match size {
        None | Some("auto") => Ok(None),
        Some("ensemble") => Ok(Some(At::Ensemble)),
        Some(size) => match size.parse() {
            Ok(size) => Ok(Some(At::Size(size))),
            Err(_) => Err(Problem::bad(format!(
                "size={} must be auto, ensemble or a number of pixels",
                size.shown()
            ))),
        },
    }
}

pub(super) fn deadline(config: &Config, milliseconds: Option<f64>) -> Result<Duration, Problem> {
    match milliseconds {
        None => Ok(config.deadline),
        Some(some) if some > 0.0 && some <= LONGEST_DEADLINE_MS => {
            Ok(Duration::from_secs_f64(some / 1e3))
        }
        Some(_) => Err(Problem::bad(format!(
            "deadline_ms must be above 0 and at most {LONGEST_DEADLINE_MS}"
        ))),
    }
}

/// The largest body: a batch of the largest images in float32, or a large photograph.
pub(super) fn most_body(device: &Device, max_batch: usize) -> usize {
    let largest = device.network.sizes().first().copied().unwrap_or(0);
    let batch = max_batch
        .saturating_mul(4 * values(largest))
        .saturating_add(64 << 10);
    batch.clamp(LEAST_BODY, MOST_BODY)
}
