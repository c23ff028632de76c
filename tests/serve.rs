//! `rsflow serve` with a network that was really trained.

#[path = "../serve/tests/common/client.rs"]
mod client;
#[path = "../serve/tests/common/grpc.rs"]
mod grpc_client;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Reply, begin, get, post, send};
use grpc_client::Client;
use rsflow_serve::server::grpc::messages::{
    InferInputTensor, InputContents, ModelInferRequest, ModelInferResponse, Parameter,
};
use serde_json::{Value, json};

use crate::evaluate::{LAST, trained};
use crate::workplace::{program, rsflow};

const IMAGES: [&str; 3] = [
    "shapes/val/bands_hatched/00000.jpg",
    "shapes/val/discs_plain/00000.jpg",
    "shapes/val/rings_hatched/00001.jpg",
];
const INFER: &str = "/v2/models/rs-net/infer";
const GRPC_INFER: &str = "inference.GRPCInferenceService/ModelInfer";
const LOAD: &str = "/v2/repository/models/rs-net/load";

/// A server in a process of its own, which ends with the test.
struct Served {
    process: Child,
    address: SocketAddr,
    grpc: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    /// One that is ready. Its deadline is so long that no slow machine misses it.
    fn start(folder: &Path, checkpoint: &str) -> Served {
        let arguments = [
            "serve",
            "--checkpoint",
            checkpoint,
            "--listen",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
        ];
        let more = ["--deadline-ms", "60000", "--max-batch", "4"];
        let mut process = program(folder, &[&arguments[..], &more].concat())
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://");
        let Some(address) = address else {
            let mut stderr = String::new();
            let _ = process.stderr.take().unwrap().read_to_string(&mut stderr);
            panic!("not started: {line} {stderr}");
        };
        let address = address.parse().unwrap();
        line.clear();
        stdout.read_line(&mut line).unwrap();
        let grpc = line.trim_end().strip_prefix("listening on grpc://");
        Served {
            address,
            grpc: grpc.unwrap().parse().unwrap(),
            process,
        }
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.unwrap().success());
    }

    fn end(&mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let mut stderr = String::new();
        let mut from = self.process.stderr.take().unwrap();
        from.read_to_string(&mut stderr).unwrap();
        (status, stderr)
    }
}

/// Sets a flag when it goes.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What `predict` says of an image.
fn predicted(folder: &Path, size: &str, image: &str) -> Value {
    let arguments = [
        "predict",
        "--checkpoint",
        LAST,
        "--size",
        size,
        "--top",
        "8",
    ];
    let output = program(folder, &[&arguments[..], &["--json", "-", image]].concat())
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["images"][0]["predictions"].clone()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

#[test]
fn answers_are_those_of_predict_by_every_protocol() {
    let folder = trained();
    let server = Served::start(folder, LAST);
    let to = server.address;
    let over_grpc = Client::connect(server.grpc);
    for (image, size) in IMAGES
        .iter()
        .flat_map(|image| [(image, "48"), (image, "32")])
    {
        let file = std::fs::read(folder.join(image)).unwrap();
        let reply = post(to, &format!("/v1/classify?size={size}&top=8"), &file);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-rsflow-resolution"), Some(size));
        assert_eq!(
            reply.json()["predictions"],
            predicted(folder, size, image),
            "{image} {size}"
        );

        let parameters =
            json!({ "size": size.parse::<u32>().unwrap(), "binary_data_output": false });
        let input = |rest: Value| {
            let mut input = json!({ "name": "images", "datatype": "BYTES", "shape": [1] });
            input
                .as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            json!({ "id": "7", "parameters": parameters, "inputs": [input] })
        };
        let text = input(json!({ "data": [STANDARD.encode(&file)] })).to_string();
        let as_json = post(to, INFER, text.as_bytes());
        assert_eq!(as_json.status, 200, "{}", as_json.text());
        let as_json = as_json.json();
        assert_eq!(
            (&as_json["id"], &as_json["model_name"]),
            (&json!("7"), &json!("rs-net"))
        );
        let output = |name: &str| -> Vec<f32> {
            let mut outputs = as_json["outputs"].as_array().unwrap().iter();
            let output = outputs.find(|output| output["name"] == name).unwrap();
            serde_json::from_value(output["data"].clone()).unwrap()
        };
        assert_eq!(output("resolution"), [size.parse::<f32>().unwrap()]);
        for prediction in reply.json()["predictions"].as_array().unwrap() {
            let index = prediction["index"].as_u64().unwrap() as usize;
            let probability = prediction["probability"].as_f64().unwrap() as f32;
            assert_eq!(output("probabilities")[index], probability);
        }

        let mut request = input(json!({ "parameters": { "binary_data_size": file.len() + 4 } }));
        request["outputs"] = json!([{ "name": "logits", "parameters": { "binary_data": true } }]);
        let text = request.to_string();
        let length = (file.len() as u32).to_le_bytes();
        let body = [text.as_bytes(), &length, &file].concat();
        let headers = [("Inference-Header-Content-Length", text.len().to_string())];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let binary = send(to, "POST", INFER, &headers, &body);
        assert_eq!(binary.status, 200, "{}", binary.text());
        let at = binary.header("inference-header-content-length").unwrap();
        let logits = floats(&binary.body[at.parse::<usize>().unwrap()..]);
        assert_eq!(logits, output("logits"));

        let mut request = ModelInferRequest {
            model_name: "rs-net".to_owned(),
            inputs: vec![InferInputTensor {
                name: "images".to_owned(),
                datatype: "BYTES".to_owned(),
                shape: vec![1],
                contents: Some(InputContents {
                    bytes_contents: vec![file.clone().into()],
                    ..Default::default()
                }),
            }],
            ..Default::default()
        };
        let pixels = Parameter::Int64(size.parse().unwrap());
        request.parameters.insert("size".to_owned(), pixels.into());
        let typed: ModelInferResponse = over_grpc.call(GRPC_INFER, request.clone()).unwrap();
        for of in &typed.outputs {
            let contents = of.contents.clone().unwrap();
            let integers = contents.int_contents.iter().map(|value| *value as f32);
            let values: Vec<f32> = contents.fp32_contents.into_iter().chain(integers).collect();
            assert_eq!(values, output(&of.name), "{image} {size} {}", of.name);
        }
        request.inputs[0].contents = None;
        request.raw_input_contents = vec![[&length[..], &file].concat().into()];
        let raw: ModelInferResponse = over_grpc.call(GRPC_INFER, request).unwrap();
        assert_eq!(floats(&raw.raw_output_contents[0]), logits);
        let probabilities = floats(&raw.raw_output_contents[1]);
        assert_eq!(probabilities, output("probabilities"));
    }
    // No size is named, and nothing waits: the largest.
    let file = std::fs::read(folder.join(IMAGES[0])).unwrap();
    let reply = post(to, "/v1/classify?top=1", &file);
    assert_eq!(reply.json()["size"], 48);
    let reply = post(to, "/v1/classify?size=ensemble", &file);
    assert_eq!(
        (reply.status, &reply.json()["size"]),
        (200, &json!("ensemble"))
    );
    let damaged = post(to, "/v1/classify", &file[..file.len() / 2]);
    assert_eq!(damaged.status, 400);
    assert!(damaged.text().contains("at byte"), "{}", damaged.text());

    let page = get(to, "/");
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        !page.text().contains("://"),
        "the page needs nothing from elsewhere"
    );
    let status = get(to, "/v1/status").json();
    assert_eq!(
        (&status["state"], &status["sizes"][0]["size"]),
        (&json!("ready"), &json!("48"))
    );
    let metrics = get(to, "/metrics").text();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("rsflow_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let answered = "rsflow_requests_total{outcome=\"ok\",size=\"32\"} 15";
    assert!(metrics.lines().any(|line| line == answered), "{metrics}");
}

#[test]
fn a_reload_loses_nothing_and_sigterm_drains() {
    let folder = trained();
    let sound = std::fs::read(folder.join(LAST)).unwrap();
    let served = folder.join("served.safetensors");
    std::fs::write(&served, &sound).unwrap();
    let mut server = Served::start(folder, "served.safetensors");
    let to = server.address;
    let file = std::fs::read(folder.join(IMAGES[1])).unwrap();
    let classify = "/v1/classify?size=32&top=8";
    let answer = post(to, classify, &file).json();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let ask = || {
            let mut count = 0;
            while !is_done.load(Relaxed) {
                let reply = post(to, classify, &file);
                assert_eq!(reply.status, 200, "{}", reply.text());
                // In a batch of several, sums may be rounded differently.
                assert_eq!(
                    reply.json()["predictions"][0]["index"],
                    answer["predictions"][0]["index"]
                );
                count += 1;
            }
            count
        };
        let clients = [scope.spawn(ask), scope.spawn(ask)];
        // Also if an assertion fails: the clients end, and with them the test.
        let done = Done(&is_done);
        assert_eq!(post(to, LOAD, b"").status, 200);
        // A flipped bit in the weights.
        let mut damaged = sound.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x40;
        std::fs::write(&served, &damaged).unwrap();
        let refused = post(to, LOAD, b"");
        assert_eq!(refused.status, 500, "{}", refused.text());
        let text = refused.text();
        assert!(text.contains("the network stays as it was"), "{text}");
        std::fs::write(&served, &sound).unwrap();
        server.signal("-HUP");
        let reloads = "rsflow_reloads_total{outcome=\"ok\"} 2";
        while !get(to, "/metrics").text().contains(reloads) {
            thread::sleep(Duration::from_millis(20));
        }
        drop(done);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    assert_eq!(
        post(to, classify, &file).json(),
        answer,
        "it is the same network"
    );
    let waiting: Vec<_> = (0..20)
        .map(|_| begin(to, "POST", classify, &[], &file))
        .collect();
    assert_eq!(post(to, classify, &file).status, 200);
    server.signal("-TERM");
    // A request gets its answer, or was not read: then its connection is closed.
    let answered = waiting.into_iter().filter_map(Reply::read_any);
    assert!(answered.into_iter().all(|reply| reply.status == 200));
    let (status, stderr) = server.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    for text in [
        "8 classes",
        "largest batch",
        "reloaded served.safetensors",
        "cannot reload",
    ] {
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
}

#[test]
fn what_cannot_be_served_is_an_error_at_the_start() {
    let folder = trained();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, text) in [
        (
            &["--listen", &taken][..],
            1,
            "--listen names another address",
        ),
        (
            &["--floor", "64"],
            2,
            "--floor 64 is above the largest size, 48",
        ),
        (&["--grpc", &taken], 1, "--grpc names another address"),
        (&["--grpc", "here"], 2, "expected ADDRESS:PORT"),
        (&["--sizes", "4"], 2, "4"),
        (&["--listen", "here"], 2, "expected ADDRESS:PORT"),
        (&["--name", "a/b"], 2, "expected letters"),
    ] {
        let common = ["serve", "--checkpoint", LAST];
        let listen = ["--listen", "127.0.0.1:0"];
        let listen = if arguments[0] == "--listen" {
            &[][..]
        } else {
            &listen
        };
        let output = rsflow(folder, &[&common[..], listen, arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
}

/// What `rsflow bench --serve` measured.
fn loaded(folder: &Path, url: &str, arguments: &[&str]) -> Value {
    let common = ["bench", "--serve", url, "--images", "shapes/val"];
    let output = program(folder, &[&common[..], &["--json", "-"], arguments].concat())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_load_is_sent_as_it_was_planned_and_all_of_it_is_counted() {
    let folder = trained();
    let server = Served::start(folder, LAST);
    let address = server.address.to_string();
    let url = format!("http://{address}/");
    let count = |row: &Value| -> u64 {
        let ends = ["in_time", "late", "refused", "expired", "failed"];
        ends.iter().map(|end| row[end].as_u64().unwrap()).sum()
    };

    let figure = folder.join("load.svg");
    let plot = ["--plot", figure.to_str().unwrap()];
    let rates = ["--rate", "20,60", "--seconds", "2", "--seed", "3"];
    let report = loaded(folder, &url, &[&rates[..], &plot].concat());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, rate) in rows.iter().zip([20.0, 60.0]) {
        let sent = row["sent"].as_u64().unwrap();
        assert_eq!(count(row), sent, "{row}");
        assert!(
            (sent as f64 - 2.0 * rate).abs() < 6.0 * rate.sqrt(),
            "{row}"
        );
        // The deadline is the server's, which nobody misses.
        assert_eq!(row["in_time"], row["sent"], "{row}");
        let sizes = row["sizes"].as_object().unwrap().values();
        assert_eq!(sizes.map(|n| n.as_u64().unwrap()).sum::<u64>(), sent);
        assert!(row["p50_ms"].as_f64() <= row["p99_ms"].as_f64(), "{row}");
        // The folders are its classes.
        assert!(
            (0.0..=100.0).contains(&row["top1"].as_f64().unwrap()),
            "{row}"
        );
    }
    assert!(std::fs::read_to_string(figure).unwrap().contains("<svg"));

    // A trace, at one size, and a deadline that nothing meets: it is expired, refused or late.
    std::fs::write(folder.join("trace"), "5\n5.1\n5.2\n5.3\n").unwrap();
    let trace = ["--trace", "trace", "--size", "32"];
    let report = loaded(folder, &address, &trace);
    let row = &report["rows"][0];
    assert_eq!(
        (&row["sent"], &row["sizes"]),
        (&json!(4), &json!({ "32": 4 }))
    );
    let output = program(
        folder,
        &[
            &["bench", "--serve", &address, "--images", "shapes/val"][..],
            &["--trace", "trace", "--deadline-ms", "0.001", "--json", "-"],
        ]
        .concat(),
    )
    .output()
    .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!((count(row), &row["in_time"]), (4, &json!(0)), "{row}");

    // What cannot be measured.
    drop(server);
    for (arguments, code, expected) in [
        (&["--serve", &address][..], 1, "cannot reach http://"),
        (&["--serve", "https://here"], 2, "must begin with http://"),
        (
            &["--serve", &address, "--rate", "0"],
            2,
            "must be a number above 0",
        ),
        (&["--rate", "5"], 2, "--serve"),
    ] {
        let images = ["bench", "--images", "shapes/val"];
        let output = program(folder, &[&images[..], arguments].concat())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
}
