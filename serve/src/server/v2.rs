//! The Open Inference Protocol (v2) with its extension for binary tensors, as Triton, KServe and their clients
//! speak it.

use std::collections::BTreeMap;
use std::sync::Arc;

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
use super::device::{Answer, Device};
use super::http::{Shared, json_response, most_body, ready_device, tell_in_headers};
use super::infer::{Counted, infer};
use super::problem::Problem;
use inputs::INPUTS;
use outputs::{Data, Output, times};

pub(super) mod inputs;
pub(super) mod outputs;
pub(super) mod request;

/// The only version of a model.
pub(super) const VERSION: &str = "1";
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
pub(super) fn check_name<S: AsRef<str>>(app: &App, named: &[(S, S)]) -> Result<(), Problem> {
    for (what, name) in named {
        let (what, name) = (what.as_ref(), name.as_ref());
        let known = match what {
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
    let inputs = INPUTS.map(|(name, datatype, shape)| tensor(name, datatype, shape));
    let outputs = Output::ALL.map(|output| {
        let shape = output.shape(-1, classes.len());
        tensor(output.name(), output.datatype(), &shape)
    });
    Ok(json_response(&json!({
        "name": app.config.name,
        "versions": [VERSION],
        "platform": "rsflow",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {
            "sizes": device.network.sizes(),
            "classes": classes,
            "checkpoint": device.network.source(),
        },
    })))
}

/// The largest message of an inference request, whatever protocol brings it. In JSON, a byte takes up to 4, and a
/// float about 12.
pub(super) fn most_request(app: &App, device: &Device) -> usize {
    most_body(device, app.config.max_batch).saturating_mul(2)
}

async fn load(
    State(app): Shared,
    Path(named): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // The server's own page does not ask for it, and any other that someone on this machine opens could.
    if headers.contains_key(header::ORIGIN) {
        let text = "a page in a browser may not load a network: ask without the header Origin";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    check_name(&app, &named)?;
    // It continues if the client does not wait for it.
    let loaded = tokio::spawn(app.reload()).await;
    loaded.map_err(|_| Problem::unavailable("the reload was interrupted", 1.0))??;
    Ok(json_response(&json!({})))
}

async fn post_infer(
    State(app): Shared,
    Path(named): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut counted = Counted::new(&app.metrics);
    let result = inferred(&app, &mut counted, &named, &headers, body).await;
    counted.result(result)
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
    let most = most_request(app, &device);
    let body = app.bodies.read(headers, body, most).await?;
    let arrived = counted.arrived();
    let length = headers.get(HEADER_LENGTH);
    let (json, binary) = split(length.map(HeaderValue::as_bytes), &body.bytes)?;
    let parsed = request::parse(&app.config, &json, &binary)?;
    let (id, outputs) = (parsed.id.clone(), parsed.outputs.clone());
    let answers = infer(app, &device, parsed.request(arrived)).await?;
    let mut tensors = Vec::with_capacity(outputs.len());
    let mut tail = Vec::new();
    for (output, is_binary) in outputs {
        let data = output.data(&device, &answers);
        let bytes = is_binary.then(|| data.bytes());
        let parameters = bytes.as_ref().map(|bytes| BinaryData {
            binary_data_size: bytes.len(),
        });
        tail.extend(bytes.into_iter().flatten());
        let classes = device.network.classes().len();
        tensors.push(Tensor {
            name: output.name(),
            datatype: output.datatype(),
            shape: output.shape(answers.len() as i64, classes),
            data: parameters.is_none().then_some(data),
            parameters,
        });
    }
    let response = InferResponse {
        model_name: &app.config.name,
        model_version: VERSION,
        id,
        parameters: times(&answers).into_iter().collect(),
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
pub(super) fn split(length: Option<&[u8]>, body: &Bytes) -> Result<(Bytes, Bytes), Problem> {
    let Some(length) = length else {
        return Ok((body.clone(), Bytes::new()));
    };
    let length = str::from_utf8(length).ok();
    let length = length.and_then(|length| length.parse::<usize>().ok());
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
    parameters: BTreeMap<&'static str, f64>,
    outputs: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

#[derive(Serialize)]
struct BinaryData {
    binary_data_size: usize,
}
