//! The Open Inference Protocol (v2) with its extension for binary tensors, as Triton, KServe and their clients
//! speak it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rsflow_base::shown::quoted;
use serde::Serialize;
use serde_json::json;

use super::App;
use super::device::Answer;
use super::http::{Shared, ended, json_response, most_body, ready_device, tell_in_headers};
use super::infer::{Counted, infer};
use super::metrics::Ended;
use super::problem::Problem;

mod request;

/// The only version of a model.
const VERSION: &str = "1";
/// The length of the JSON before binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) fn routes() -> Router<Arc<App>> {
    let routes = Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/repository/models/{model}/load", post(load));
    [
        "/v2/models/{model}",
        "/v2/models/{model}/versions/{version}",
    ]
    .into_iter()
    .fold(routes, |routes, model| {
        routes
            .route(model, get(metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/infer"), post(post_infer))
    })
}

async fn server() -> Response {
    json_response(&json!({
        "name": "rsflow",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_repository(load)"],
    }))
}

/// 200, or 503.
fn health(name: &str, is_so: bool) -> Response {
    match is_so {
        true => json_response(&json!({ name: true })),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            json_response(&json!({ name: false })),
        )
            .into_response(),
    }
}

async fn live(State(app): Shared) -> Response {
    health("live", app.is_live())
}

async fn ready(State(app): Shared) -> Response {
    health("ready", app.is_ready())
}

/// The parts of a path that name a model.
type Named = Path<Vec<(String, String)>>;

/// There is one model, with one version.
fn check_name(app: &App, named: &[(String, String)]) -> Result<(), Problem> {
    for (what, name) in named {
        let known = match what.as_str() {
            "model" => app.config.name.as_str(),
            _ => VERSION,
        };
        if name != known {
            let text = format!(
                "there is no {what} {}; there is {}",
                quoted(name),
                quoted(known)
            );
            return Err(Problem::new(StatusCode::NOT_FOUND, text));
        }
    }
    Ok(())
}

async fn model_ready(State(app): Shared, Path(named): Named) -> Result<Response, Problem> {
    check_name(&app, &named)?;
    Ok(health("ready", app.is_ready()))
}

async fn metadata(State(app): Shared, Path(named): Named) -> Result<Response, Problem> {
    check_name(&app, &named)?;
    let device = ready_device(&app)?;
    let classes = device.network.classes();
    let tensor = |name: &str, datatype: &str, shape: &[i64]| json!({ "name": name, "datatype": datatype, "shape": shape });
    let of_classes = [-1, classes.len() as i64];
    Ok(json_response(&json!({
        "name": app.config.name,
        "versions": [VERSION],
        "platform": "rsflow",
        // A request has one of them.
        "inputs": [
            tensor(request::FILES, "BYTES", &[-1]),
            tensor(request::PIXELS, "UINT8", &[-1, -1, -1, 3]),
            tensor(request::NORMALIZED, "FP32", &[-1, 3, -1, -1]),
        ],
        "outputs": [
            tensor(LOGITS, "FP32", &of_classes),
            tensor(PROBABILITIES, "FP32", &of_classes),
            tensor(RESOLUTION, "INT32", &[-1]),
        ],
        "parameters": {
            "sizes": device.network.sizes(),
            "classes": classes,
            "checkpoint": device.network.source(),
        },
    })))
}

async fn load(State(app): Shared, Path(named): Named) -> Result<Response, Problem> {
    check_name(&app, &named)?;
    // It continues if the client does not wait for it.
    let loaded = tokio::spawn(app.reload()).await;
    loaded.map_err(|_| Problem::unavailable("the reload was interrupted", 1.0))??;
    Ok(json_response(&json!({})))
}

const LOGITS: &str = "logits";
const PROBABILITIES: &str = "probabilities";
/// The size at which each image was computed, in pixels; 0 for the ensemble.
const RESOLUTION: &str = "resolution";
const OUTPUTS: [&str; 3] = [LOGITS, PROBABILITIES, RESOLUTION];

async fn post_infer(
    State(app): Shared,
    Path(named): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut counted = Counted::new(&app.metrics);
    match inferred(&app, &mut counted, &named, &headers, body).await {
        Ok((response, answers)) => {
            let late = answers.iter().find(|answer| answer.late);
            let ended = late.map_or(Ended::Ok, ended);
            counted.end(ended, answers.first().map(|answer| answer.at));
            Ok(response)
        }
        Err(problem) => {
            counted.end(problem.ended(), None);
            Err(problem)
        }
    }
}

async fn inferred(
    app: &Arc<App>,
    counted: &mut Counted<'_>,
    named: &[(String, String)],
    headers: &HeaderMap,
    body: Body,
) -> Result<(Response, Vec<Answer>), Problem> {
    check_name(app, named)?;
    let device = ready_device(app)?;
    // In JSON, a byte takes up to 4, and a float about 12.
    let most = most_body(&device, app.config.max_batch).saturating_mul(2);
    let body = app.bodies.read(headers, body, most).await?;
    let arrived = counted.arrived();
    let (json, binary) = split(headers, &body.bytes)?;
    let parsed = request::parse(app, &json, &binary)?;
    let outputs = parsed.outputs.clone();
    let unknown = outputs
        .iter()
        .find(|(name, _)| !OUTPUTS.contains(&name.as_str()));
    if let Some((name, _)) = unknown {
        return Err(Problem::bad(format!(
            "there is no output {}; there are {}",
            quoted(name),
            OUTPUTS.join(", ")
        )));
    }
    let id = parsed.id.clone();
    let request = parsed.request(arrived);
    let answers = infer(app, &device, request).await?;
    let mut tensors = Vec::with_capacity(outputs.len());
    let mut tail = Vec::new();
    for (name, is_binary) in outputs {
        let classes = device.network.classes().len();
        let (datatype, shape, data) =
            output(&name, &device, &answers, classes).ok_or_else(|| {
                let text = format!(
                    "there is no output {}; there are {}",
                    quoted(&name),
                    OUTPUTS.join(", ")
                );
                Problem::bad(text)
            })?;
        let bytes = is_binary.then(|| data.bytes());
        let parameters = bytes.as_ref().map(|bytes| BinaryData {
            binary_data_size: bytes.len(),
        });
        tail.extend(bytes.into_iter().flatten());
        tensors.push(Tensor {
            name,
            datatype,
            shape,
            data: parameters.is_none().then_some(data),
            parameters,
        });
    }
    let milliseconds = |time: fn(&Answer) -> Duration| {
        let longest = answers.iter().map(time).max().unwrap_or_default();
        longest.as_secs_f64() * 1e3
    };
    let response = InferResponse {
        model_name: &app.config.name,
        model_version: VERSION,
        id,
        parameters: json!({
            "queue_ms": milliseconds(|answer| answer.queued),
            "compute_ms": milliseconds(|answer| answer.computed),
        }),
        outputs: tensors,
    };
    let mut response = match tail.is_empty() {
        true => json_response(&response),
        false => with_tail(&response, tail),
    };
    if let Some(first) = answers.first() {
        tell_in_headers(response.headers_mut(), first);
    }
    Ok((response, answers))
}

/// The JSON of a body, and the binary tensors that follow it.
fn split(headers: &HeaderMap, body: &Bytes) -> Result<(Bytes, Bytes), Problem> {
    let Some(length) = headers.get(HEADER_LENGTH) else {
        return Ok((body.clone(), Bytes::new()));
    };
    let length = length
        .to_str()
        .ok()
        .and_then(|length| length.parse::<usize>().ok());
    match length {
        Some(length) if length <= body.len() => Ok((body.slice(..length), body.slice(length..))),
        _ => Err(Problem::bad(format!(
            "{HEADER_LENGTH} must be the length of the JSON, at most that of the body ({})",
            body.len()
        ))),
    }
}

fn with_tail(json: &InferResponse<'_>, tail: Vec<u8>) -> Response {
    let mut body = match serde_json::to_vec(json) {
        Ok(body) => body,
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Problem::new(status, error.to_string()).into_response();
        }
    };
    let length = HeaderValue::from(body.len());
    body.extend(tail);
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = [(header::CONTENT_TYPE, kind), (HEADER_LENGTH, length)];
    (headers, body).into_response()
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    parameters: serde_json::Value,
    outputs: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

#[derive(Serialize)]
struct BinaryData {
    binary_data_size: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

impl Data {
    /// As the protocol has them: little endian.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Data::Floats(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Data::Integers(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }
}

/// An output by its name.
fn output(
    name: &str,
    device: &super::device::Device,
    answers: &[Answer],
    classes: usize,
) -> Option<(&'static str, Vec<usize>, Data)> {
    let images = answers.len();
    match name {
        LOGITS => {
            let logits = answers
                .iter()
                .flat_map(|answer| answer.logits.iter().copied());
            Some((
                "FP32",
                vec![images, classes],
                Data::Floats(logits.collect()),
            ))
        }
        PROBABILITIES => {
            let mut all = vec![0.0; images * classes];
            for (answer, of_image) in answers.iter().zip(all.chunks_exact_mut(classes)) {
                for prediction in device.network.top(&answer.logits, classes) {
                    of_image[prediction.index] = prediction.probability as f32;
                }
            }
            Some(("FP32", vec![images, classes], Data::Floats(all)))
        }
        RESOLUTION => {
            let sizes = answers.iter().map(|answer| match answer.at {
                super::device::At::Size(size) => size as i32,
                super::device::At::Ensemble => 0,
            });
            Some(("INT32", vec![images], Data::Integers(sizes.collect())))
        }
        _ => None,
    }
}
