//! The same over gRPC.

use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use prost::bytes::Bytes;
use rsflow_serve::server::device::Network;
use rsflow_serve::server::grpc::messages::*;
use rsflow_serve::server::{Config, Server};
use tonic::{Code, Request, Response, Status};

use super::client::{Reply, get};
use super::grpc_client::{Client, Pending};
use super::sleeper::{Running, config, start, until};

#[path = "grpc_wrong.rs"]
mod wrong;

const INFER: &str = "inference.GRPCInferenceService/ModelInfer";
const CHECK: &str = "grpc.health.v1.Health/Check";

fn service(call: &str) -> String {
    format!("inference.GRPCInferenceService/{call}")
}

/// A request with one input.
fn request(
    name: &str,
    datatype: &str,
    shape: &[i64],
    contents: InputContents,
) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "sleeper".to_owned(),
        id: "7".to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            contents: Some(contents),
        }],
        ..Default::default()
    }
}

fn files(files: &[&'static [u8]]) -> InputContents {
    InputContents {
        bytes_contents: files.iter().map(|file| Bytes::from_static(file)).collect(),
        ..Default::default()
    }
}

/// Image files whose first byte is 1.
fn images(count: usize) -> ModelInferRequest {
    request(
        "images",
        "BYTES",
        &[count as i64],
        files(&vec![&b"#\x01"[..]; count]),
    )
}

fn with(mut request: ModelInferRequest, name: &str, value: Parameter) -> ModelInferRequest {
    request.parameters.insert(name.to_owned(), value.into());
    request
}

/// The same with its data beside its input.
fn raw(mut request: ModelInferRequest, data: &[u8]) -> ModelInferRequest {
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![Bytes::copy_from_slice(data)];
    request
}

fn infer(client: &Client, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    client.call(INFER, request)
}

fn begin(client: &Client) -> Pending<ModelInferResponse> {
    client.begin(INFER, Request::new(images(1)))
}

/// The values of a typed output.
fn floats(response: &ModelInferResponse, name: &str) -> Vec<f32> {
    let mut outputs = response.outputs.iter();
    let output = outputs.find(|output| output.name == name).unwrap();
    output.contents.as_ref().unwrap().fp32_contents.clone()
}

fn client(server: &Running) -> Client {
    Client::connect(server.grpc)
}

#[test]
fn grpc_is_answered_before_the_network_is_there() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let load = move || -> Result<Box<dyn Network>> {
        wait.lock().unwrap().recv().unwrap();
        bail!("the file is damaged")
    };
    let mut server = Server::bind(config(), Arc::new(load), Arc::new(|_: &str| {})).unwrap();
    let grpc = server.bind_grpc("127.0.0.1:0".parse().unwrap()).unwrap();
    let taken = server.bind_grpc(grpc).unwrap_err().to_string();
    assert!(taken.contains("--grpc names another address"), "{taken}");
    let running = thread::spawn(move || server.run(|_| {}));
    let client = Client::connect(grpc);
    let live: ServerLiveResponse = client.call(&service("ServerLive"), Empty {}).unwrap();
    let ready: ReadyResponse = client.call(&service("ServerReady"), Empty {}).unwrap();
    assert!(live.live && !ready.ready);
    let health: HealthCheckResponse = client.call(CHECK, HealthCheckRequest::default()).unwrap();
    assert_eq!(health.status, NOT_SERVING);
    let refused = infer(&client, images(1)).unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "the network is being loaded")
    );
    go.send(()).unwrap();
    assert!(running.join().unwrap().is_err());
}

#[test]
fn grpc_says_what_it_is_and_reloads() {
    let server = start(config(), Duration::ZERO);
    let client = client(&server);
    let model = |version: &str| ModelRequest {
        name: "sleeper".to_owned(),
        version: version.to_owned(),
    };
    for version in ["", "1"] {
        let ready: ReadyResponse = client.call(&service("ModelReady"), model(version)).unwrap();
        assert!(ready.ready);
    }
    let metadata: ModelMetadataResponse =
        client.call(&service("ModelMetadata"), model("")).unwrap();
    let over_http = get(server.address, "/v2/models/sleeper").json();
    for (tensors, of) in [(&metadata.inputs, "inputs"), (&metadata.outputs, "outputs")] {
        let tensors = tensors.iter().map(|tensor| {
            serde_json::json!({
                "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape
            })
        });
        let tensors: Vec<serde_json::Value> = tensors.collect();
        assert_eq!(tensors.len(), 3);
        assert_eq!(serde_json::Value::from(tensors), over_http[of]);
    }
    let metadata: ServerMetadataResponse =
        client.call(&service("ServerMetadata"), Empty {}).unwrap();
    assert_eq!(metadata.name, "rsflow");
    for service in ["", "inference.GRPCInferenceService"] {
        let service = service.to_owned();
        let health: HealthCheckResponse =
            client.call(CHECK, HealthCheckRequest { service }).unwrap();
        assert_eq!(health.status, SERVING);
    }
    let load = |model_name: &str| {
        let model_name = model_name.to_owned();
        let request = RepositoryModelLoadRequest { model_name };
        client.call::<_, Empty>(&service("RepositoryModelLoad"), request)
    };
    load("sleeper").unwrap();
    assert_eq!(server.said.lock().unwrap().len(), 1);
    let service_name = "other".to_owned();
    for (error, code) in [
        (load("other").unwrap_err(), Code::NotFound),
        (
            client
                .call::<_, ReadyResponse>(&service("ModelReady"), model("2"))
                .unwrap_err(),
            Code::NotFound,
        ),
        (
            client
                .call::<_, HealthCheckResponse>(
                    CHECK,
                    HealthCheckRequest {
                        service: service_name,
                    },
                )
                .unwrap_err(),
            Code::NotFound,
        ),
        (
            client
                .call::<_, Empty>(&service("ModelStatistics"), Empty {})
                .unwrap_err(),
            Code::Unimplemented,
        ),
    ] {
        assert_eq!(error.code(), code, "{error}");
    }
    server.stop();
}

#[test]
fn grpc_answers_are_as_their_requests_were() {
    let server = start(config(), Duration::ZERO);
    let client = client(&server);
    let two = request("images", "BYTES", &[1, 2], files(&[b"#\x05", b"#\x06"]));
    let named = with(two.clone(), "size", Parameter::Int64(32));
    let typed: Response<ModelInferResponse> = client
        .end(client.begin(INFER, Request::new(named)))
        .unwrap();
    let resolution = typed.metadata().get("x-rsflow-resolution").unwrap();
    assert_eq!(resolution, "32");
    let typed = typed.into_inner();
    assert_eq!(
        (&*typed.model_name, &*typed.model_version, &*typed.id),
        ("sleeper", "1", "7")
    );
    assert_eq!(typed.outputs[0].shape, [2, 2]);
    assert_eq!(floats(&typed, "logits"), [5.0, 32.0, 6.0, 32.0]);
    assert_eq!(floats(&typed, "probabilities"), [5.0, 32.0, 6.0, 32.0]);
    let resolution = typed.outputs[2].contents.as_ref().unwrap();
    assert_eq!(resolution.int_contents, [32, 32]);
    assert!(typed.raw_output_contents.is_empty());
    for name in ["queue_ms", "compute_ms"] {
        let value = typed.parameters[name].value.clone();
        assert!(
            matches!(value, Some(Parameter::Double(time)) if time >= 0.0),
            "{value:?}"
        );
    }

    let name = "logits".to_owned();
    let mut two = raw(two, b"\x02\0\0\0#\x05\x02\0\0\0#\x06");
    two.outputs = vec![InferRequestedOutputTensor { name }];
    two = with(two, "size", Parameter::Text("auto".to_owned()));
    let answer = infer(&client, two).unwrap();
    assert_eq!(answer.outputs.len(), 1);
    assert_eq!(answer.outputs[0].contents, None);
    let bytes: Vec<u8> = [5.0_f32, 64.0, 6.0, 64.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(answer.raw_output_contents, [bytes]);

    // Tensors; 200 takes two bytes as a varint.
    let size = 3 * 32 * 32;
    let pixels = InputContents {
        uint_contents: b"\xc8\x01".repeat(size).into(),
        ..Default::default()
    };
    let pixels = request("pixels", "UINT8", &[1, 32, 32, 3], pixels);
    assert_eq!(
        floats(&infer(&client, pixels.clone()).unwrap(), "logits"),
        [200.0, 32.0]
    );
    let raw_pixels = raw(pixels, &vec![200; size]);
    let answer = infer(&client, raw_pixels).unwrap();
    assert_eq!(answer.raw_output_contents[0][..4], 200.0_f32.to_le_bytes());
    let normalized = InputContents {
        fp32_contents: 0.25_f32.to_le_bytes().repeat(2 * size).into(),
        ..Default::default()
    };
    let normalized = request("normalized", "FP32", &[2, 3, 32, 32], normalized);
    let answer = infer(&client, normalized).unwrap();
    assert_eq!(floats(&answer, "logits"), [0.25, 32.0, 0.25, 32.0]);
    server.stop();
}

#[test]
fn grpc_refuses_at_once_or_at_the_deadline() {
    let server = start(config(), Duration::from_millis(100));
    let client = client(&server);
    let soon = with(images(1), "deadline_ms", Parameter::Int64(1));
    let refused = infer(&client, soon).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
    assert_eq!(
        refused.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    // The client's own deadline counts as well, and nothing is computed for either.
    let timed = |milliseconds: u64| {
        let mut request = Request::new(images(1));
        request.set_timeout(Duration::from_millis(milliseconds));
        request
    };
    let refused = client.end(client.begin::<_, ModelInferResponse>(INFER, timed(30)));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(server.switches.images.load(SeqCst), 0);

    let first = server.close_with_one();
    let expired = client.end(client.begin::<_, ModelInferResponse>(INFER, timed(600)));
    let expired = expired.unwrap_err();
    assert_eq!(expired.code(), Code::DeadlineExceeded, "{expired}");
    // The queue has 8 places; what expired makes room for these.
    let waiting = client.begin::<_, ModelInferResponse>(INFER, Request::new(images(8)));
    until(|| server.waiting() == 8);
    let refused = infer(&client, images(1)).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("the queue is full"), "{refused}");
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    client.end(waiting).unwrap();
    assert_eq!(
        server.switches.images.load(SeqCst),
        9,
        "what expired was not computed"
    );
    let metrics = get(server.address, "/metrics").text();
    for line in [
        "rsflow_requests_total{outcome=\"refused\",size=\"\"} 3",
        "rsflow_requests_total{outcome=\"expired\",size=\"\"} 1",
    ] {
        assert!(metrics.lines().any(|of| of == line), "{line}: {metrics}");
    }
    server.stop();
}

#[test]
fn grpc_computes_nothing_for_a_call_that_was_cancelled() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let cancelled = client(&server);
    let waiting: Vec<_> = (0..3).map(|_| begin(&cancelled)).collect();
    let lost = client(&server);
    let lost_calls: Vec<_> = (0..3).map(|_| begin(&lost)).collect();
    until(|| server.waiting() == 6);
    // Some are cancelled, others lose their connection.
    waiting.iter().for_each(|call| call.abort());
    drop((lost_calls, lost));
    until(|| {
        get(server.address, "/metrics")
            .text()
            .contains("{outcome=\"cancelled\",size=\"\"} 6")
    });
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    infer(&cancelled, images(1)).unwrap();
    assert_eq!(server.switches.images.load(SeqCst), 2);
    server.stop();
}

#[test]
fn grpc_answers_what_is_in_flight_before_it_stops() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let client = client(&server);
    // Which does not keep it from stopping.
    let idle = Client::connect(server.grpc);
    let silent = TcpStream::connect(server.grpc).unwrap();
    let waiting: Vec<_> = (0..5).map(|_| begin(&client)).collect();
    until(|| server.waiting() == 5);
    server.control.stop();
    until(|| TcpStream::connect(server.grpc).is_err());
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    for waiting in waiting {
        client.end(waiting).unwrap();
    }
    let stopping = Instant::now();
    server.server.join().unwrap().unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(4));
    assert!(
        server.said.lock().unwrap().is_empty(),
        "all were answered in time"
    );
    drop((idle, silent));
}

#[test]
fn grpc_answers_many_calls_and_connections() {
    let server = start(
        Config {
            queue: 3000,
            max_batch: 64,
            ..config()
        },
        Duration::from_micros(100),
    );
    // Of which some never say anything.
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(server.grpc).unwrap())
        .collect();
    let clients: Vec<Client> = (0..4).map(|_| client(&server)).collect();
    let calls = clients.iter().flat_map(|client| {
        let calls = (0..400_u32).map(move |n| (client, (n % 13) as u8));
        calls.map(|(client, first)| {
            let file = vec![b'#', first].into();
            let mut request = images(1);
            request.inputs[0].contents = Some(InputContents {
                bytes_contents: vec![file],
                ..Default::default()
            });
            let pending = client.begin::<_, ModelInferResponse>(INFER, Request::new(request));
            (client, first, pending)
        })
    });
    let calls: Vec<_> = calls.collect();
    for (client, first, pending) in calls {
        let answer = client.end(pending).unwrap().into_inner();
        assert_eq!(floats(&answer, "logits")[0], f32::from(first));
    }
    drop(silent);
    server.stop();
}
