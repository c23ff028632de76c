//! The Open Inference Protocol over gRPC: the same requests as over HTTP, in the same queue.
//!
//! Calls have one message in and one out. That takes little of gRPC, so it is done here over hyper's HTTP/2: the
//! bytes of all messages count against the same memory as those of HTTP, as they come.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prost::Message;
use rsflow_base::shown::{Shown as _, quoted};

use super::App;
use super::device::Answer;
use super::http::{Shared, ready_device, tell_in_headers};
use super::infer::{self, Counted, infer};
use super::problem::Problem;
use super::v2::inputs::INPUTS;
use super::v2::outputs::{self, Output};
use super::v2::{VERSION, check_name, most_request};
use messages::*;
use wire::{Failed, Reply};

mod connections;
pub mod messages;
pub(super) mod request;
mod wire;

pub(super) use connections::serve;
#[cfg(fuzzing)]
pub(super) use wire::unframed;

/// The service, as clients name it.
const SERVICE: &str = "inference.GRPCInferenceService";
/// The largest message that is no inference request.
const MOST_SMALL: usize = 4 << 10;

pub(super) fn router(app: Arc<App>) -> Router {
    let of_service = |call: &str| format!("/{SERVICE}/{call}");
    Router::new()
        .route("/grpc.health.v1.Health/Check", post(check))
        .route(&of_service("ServerLive"), post(server_live))
        .route(&of_service("ServerReady"), post(server_ready))
        .route(&of_service("ModelReady"), post(model_ready))
        .route(&of_service("ServerMetadata"), post(server_metadata))
        .route(&of_service("ModelMetadata"), post(model_metadata))
        .route(&of_service("ModelInfer"), post(model_infer))
        .route(&of_service("RepositoryModelLoad"), post(load))
        .fallback(unknown)
        .layer(from_fn(only_grpc))
        .with_state(app)
}

/// A client that sends anything but gRPC with protobuf cannot read gRPC's errors: it gets HTTP's.
async fn only_grpc(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    match kind.is_some_and(|kind| wire::is_grpc(kind.as_bytes())) {
        true => next.run(request).await,
        false => Problem::unsupported("this address answers gRPC only").into_response(),
    }
}

async fn unknown(uri: Uri) -> Failed {
    let text = format!("there is no call {}", uri.path().shown());
    Failed(Problem::new(StatusCode::NOT_IMPLEMENTED, text))
}

/// The message of a call.
struct Call<M>(M);

impl<S: Sync, M: Message + Default> FromRequest<S> for Call<M> {
    type Rejection = Failed;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failed> {
        let (head, body) = request.into_parts();
        let message = wire::small(&head.headers, body, MOST_SMALL).await?;
        Ok(Call(wire::decode(message)?))
    }
}

async fn check(
    State(app): Shared,
    Call(request): Call<HealthCheckRequest>,
) -> Result<Reply<HealthCheckResponse>, Failed> {
    if !["", SERVICE].contains(&request.service.as_str()) {
        let text = format!("there is no service {}", quoted(&request.service));
        return Err(Problem::new(StatusCode::NOT_FOUND, text).into());
    }
    let status = if app.is_ready() { SERVING } else { NOT_SERVING };
    Ok(Reply(HealthCheckResponse { status }))
}

async fn server_live(State(app): Shared, Call(Empty {}): Call<Empty>) -> Reply<ServerLiveResponse> {
    let live = app.is_live();
    Reply(ServerLiveResponse { live })
}

async fn server_ready(State(app): Shared, Call(Empty {}): Call<Empty>) -> Reply<ReadyResponse> {
    let ready = app.is_ready();
    Reply(ReadyResponse { ready })
}

/// There is one model; a version may be named.
fn check_model(app: &App, name: &str, version: &str) -> Result<(), Problem> {
    let named = [("model", name), ("version", version)];
    let count = if version.is_empty() { 1 } else { 2 };
    check_name(app, &named[..count])
}

async fn model_ready(
    State(app): Shared,
    Call(request): Call<ModelRequest>,
) -> Result<Reply<ReadyResponse>, Failed> {
    check_model(&app, &request.name, &request.version)?;
    let ready = app.is_ready();
    Ok(Reply(ReadyResponse { ready }))
}

async fn server_metadata(Call(Empty {}): Call<Empty>) -> Reply<ServerMetadataResponse> {
    Reply(ServerMetadataResponse {
        name: "rsflow".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: vec!["model_repository(load)".to_owned()],
    })
}

async fn model_metadata(
    State(app): Shared,
    Call(request): Call<ModelRequest>,
) -> Result<Reply<ModelMetadataResponse>, Failed> {
    check_model(&app, &request.name, &request.version)?;
    let device = ready_device(&app)?;
    let classes = device.network.classes().len();
    let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
    };
    let outputs = Output::ALL.map(|output| {
        let shape = output.shape(-1, classes);
        tensor(output.name(), output.datatype(), &shape)
    });
    Ok(Reply(ModelMetadataResponse {
        name: app.config.name.clone(),
        versions: vec![VERSION.to_owned()],
        platform: "rsflow".to_owned(),
        inputs: INPUTS
            .map(|(name, datatype, shape)| tensor(name, datatype, shape))
            .to_vec(),
        outputs: outputs.to_vec(),
    }))
}

async fn load(
    State(app): Shared,
    Call(request): Call<RepositoryModelLoadRequest>,
) -> Result<Reply<Empty>, Failed> {
    check_model(&app, &request.model_name, "")?;
    // It continues if the client does not wait for it.
    let loaded = tokio::spawn(app.reload()).await;
    loaded.map_err(|_| Problem::unavailable("the reload was interrupted", 1.0))??;
    Ok(Reply(Empty {}))
}

async fn model_infer(
    State(app): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failed> {
    let mut counted = Counted::new(&app.metrics);
    let result = inferred(&app, &mut counted, &headers, body).await;
    Ok(counted.result(result)?)
}

async fn inferred(
    app: &Arc<App>,
    counted: &mut Counted<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Response, Vec<Answer>), Problem> {
    let began = Instant::now();
    let timeout = wire::timeout(headers)?;
    let device = ready_device(app)?;
    let most = most_request(app, &device);
    let (message, _share) = wire::read(&app.bodies, headers, body, most).await?;
    let arrived = counted.arrived();
    let request = request::decode(message, &app.config)?;
    check_model(app, &request.model_name, &request.model_version)?;
    let parsed = request::parse(&app.config, request)?;
    // The client's patience began with its call. It ends the call then, but gives no more time than the deadline.
    let left = timeout.map(|timeout| timeout.saturating_sub(arrived - began));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Problem::expired());
    }
    let request = infer::Request {
        at: parsed.at,
        arrived,
        deadline: left.map_or(parsed.deadline, |left| left.min(parsed.deadline)),
        images: parsed.images,
    };
    let answers = infer(app, &device, request).await?;
    let mut outputs = Vec::with_capacity(parsed.outputs.len());
    let mut raw_output_contents = Vec::new();
    for output in parsed.outputs {
        let data = output.data(&device, &answers);
        let contents = match (parsed.is_raw, data) {
            (true, data) => {
                raw_output_contents.push(data.bytes().into());
                None
            }
            (false, outputs::Data::Floats(fp32_contents)) => Some(OutputContents {
                fp32_contents,
                ..Default::default()
            }),
            (false, outputs::Data::Integers(int_contents)) => Some(OutputContents {
                int_contents,
                ..Default::default()
            }),
        };
        let classes = device.network.classes().len();
        outputs.push(InferOutputTensor {
            name: output.name().to_owned(),
            datatype: output.datatype().to_owned(),
            shape: output.shape(answers.len() as i64, classes),
            contents,
        });
    }
    let times = outputs::times(&answers).into_iter();
    let mut response = Reply(ModelInferResponse {
        model_name: app.config.name.clone(),
        model_version: VERSION.to_owned(),
        id: parsed.id,
        parameters: times
            .map(|(name, time)| (name.to_owned(), Parameter::Double(time).into()))
            .collect(),
        outputs,
        raw_output_contents,
    })
    .into_response();
    if let Some(first) = answers.first() {
        tell_in_headers(response.headers_mut(), first);
    }
    Ok((response, answers))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use tower_service::Service as _;

    use super::wire::PREFIX;
    use super::*;
    use crate::server::{Config, Server};

    #[tokio::test]
    async fn probes_are_answered_while_images_fill_the_memory() {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            name: "a".to_owned(),
            deadline: Duration::from_secs(1),
            switching: true,
            floor: None,
            max_batch: 1,
            queue: 1,
        };
        let load = || anyhow::bail!("it is not started");
        let server = Server::bind(config, Arc::new(load), Arc::new(|_: &str| {})).unwrap();
        let app = server.app;
        let body = || Body::from(b"\0\0\0\0\0".to_vec());
        let all = app.bodies.take_all();
        let image = wire::read(&app.bodies, &HeaderMap::new(), body(), MOST_SMALL).await;
        let refused = image.err().unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut router = router(Arc::clone(&app));
        for (of, size, status) in [
            ("grpc.health.v1.Health/Check", 0, "0"),
            ("inference.GRPCInferenceService/ServerLive", 0, "0"),
            ("inference.GRPCInferenceService/ServerReady", 0, "0"),
            ("inference.GRPCInferenceService/ServerMetadata", 0, "0"),
            // The names are wrong.
            ("inference.GRPCInferenceService/ModelReady", 0, "5"),
            ("inference.GRPCInferenceService/ModelMetadata", 0, "5"),
            // Nor is it a way around that memory.
            ("grpc.health.v1.Health/Check", MOST_SMALL + 1, "8"),
        ] {
            let body = match size {
                0 => body(),
                size => Body::from(vec![0; PREFIX + size]),
            };
            let call = Request::post(format!("/{of}"));
            let call = call.header(header::CONTENT_TYPE, "application/grpc");
            let answer = router.call(call.body(body).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            let told = match head.headers.get("grpc-status") {
                Some(status) => status.clone(),
                None => {
                    let body = body.collect().await.unwrap();
                    body.trailers().unwrap()["grpc-status"].clone()
                }
            };
            assert_eq!(told, status, "{of}");
        }
        drop(all);
        let image = wire::read(&app.bodies, &HeaderMap::new(), body(), MOST_SMALL).await;
        assert!(image.is_ok());
    }
}
