//! The server over HTTP, with a network that only sleeps: refusals, deadlines, cancelling, draining, failures.

#[path = "common/client.rs"]
mod client;
#[cfg(feature = "grpc")]
#[path = "server/grpc.rs"]
mod grpc;
#[cfg(feature = "grpc")]
#[path = "common/grpc.rs"]
mod grpc_client;
#[path = "common/sleeper.rs"]
mod sleeper;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use client::{Reply, get, post, send};
use rsflow_serve::server::device::Network;
use rsflow_serve::server::{Config, Server};
use sleeper::{attempt, config, start, until};

#[test]
fn it_is_ready_once_the_network_is_warm() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let load = move || -> Result<Box<dyn Network>> {
        wait.lock().unwrap().recv().unwrap();
        bail!("the file is damaged")
    };
    let server = Server::bind(config(), Arc::new(load), Arc::new(|_: &str| {})).unwrap();
    let address = server.address();
    let running = thread::spawn(move || server.run(|_| {}));
    assert_eq!(get(address, "/v2/health/live").status, 200);
    assert_eq!(get(address, "/v2/health/ready").status, 503);
    let refused = post(address, "/v1/classify", b"#1");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(get(address, "/v1/status").json()["state"], "loading");
    go.send(()).unwrap();
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the file is damaged");
    let hopeless = Config {
        deadline: Duration::from_millis(5),
        ..config()
    };
    let error = attempt(hopeless, Duration::from_millis(40)).unwrap_err();
    assert!(error.to_string().contains("help: --deadline-ms"), "{error}");
    let server = start(config(), Duration::ZERO);
    assert_eq!(get(server.address, "/v2/health/ready").status, 200);
    assert_eq!(get(server.address, "/v2/models/sleeper/ready").status, 200);
    let reply = Reply::read(server.image("", 7));
    assert_eq!(
        (reply.status, reply.header("x-rsflow-resolution")),
        (200, Some("64"))
    );
    assert_eq!(reply.json()["predictions"][0]["probability"], 7.0);
    server.stop();
}

#[test]
fn what_cannot_be_in_time_is_refused_at_once_and_what_waits_too_long_expires() {
    let server = start(config(), Duration::from_millis(20));
    for query in ["deadline_ms=1", "size=64&deadline_ms=3"] {
        let refused = Reply::read(server.image(query, 1));
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (503, Some("1")),
            "{query}"
        );
    }
    assert_eq!(
        server.switches.images.load(SeqCst),
        0,
        "nothing was computed for them"
    );
    let first = server.close_with_one();
    // The answer comes at the deadline, although the device does not move.
    let expired = Reply::read(server.image("deadline_ms=300", 2));
    assert_eq!(expired.status, 504, "{}", expired.text());
    // The queue has 8 places.
    let waiting: Vec<TcpStream> = (0..8).map(|n| server.image("", n)).collect();
    until(|| server.waiting() == 8);
    let refused = Reply::read(server.image("", 1));
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("the queue is full"),
        "{}",
        refused.text()
    );
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    for (n, waiting) in waiting.into_iter().enumerate() {
        assert_eq!(
            Reply::read(waiting).json()["predictions"][0]["probability"],
            n as f64
        );
    }
    assert_eq!(
        server.switches.images.load(SeqCst),
        9,
        "what expired was not computed"
    );
    // After that it is at the smallest size for a second.
    let metrics = get(server.address, "/metrics").text();
    for line in [
        "rsflow_requests_total{outcome=\"refused\",size=\"\"} 3",
        "rsflow_requests_total{outcome=\"expired\",size=\"\"} 1",
        "rsflow_waiting 0",
    ] {
        assert!(metrics.lines().any(|of| of == line), "{line}: {metrics}");
    }
    server.stop();
}

#[test]
fn nothing_is_computed_for_a_client_that_is_gone() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let waiting: Vec<TcpStream> = (0..6).map(|n| server.image("", n)).collect();
    until(|| server.waiting() == 6);
    drop(waiting);
    until(|| {
        get(server.address, "/metrics")
            .text()
            .contains("{outcome=\"cancelled\",size=\"\"} 6")
    });
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    assert_eq!(Reply::read(server.image("", 9)).status, 200);
    assert_eq!(server.switches.images.load(SeqCst), 2);
    server.stop();
}

#[test]
fn what_is_in_flight_is_answered_before_it_stops() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let waiting: Vec<TcpStream> = (0..5).map(|n| server.image("", n)).collect();
    until(|| server.waiting() == 5);
    server.control.stop();
    until(|| TcpStream::connect(server.address).is_err());
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    for waiting in waiting {
        assert_eq!(Reply::read(waiting).status, 200);
    }
    server.server.join().unwrap().unwrap();
}

#[test]
fn a_device_that_fails_ends_the_server() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let waiting = server.image("", 2);
    until(|| server.waiting() == 1);
    server.switches.fails.store(true, SeqCst);
    server.switches.close(false);
    for lost in [first, waiting] {
        let lost = Reply::read(lost);
        assert_eq!(
            (lost.status, lost.json()["error"].as_str()),
            (503, Some("the device failed"))
        );
    }
    let error = server.server.join().unwrap().unwrap_err();
    assert!(
        format!("{error:#}").contains("illegal memory access"),
        "{error:#}"
    );
}

#[test]
fn a_device_that_is_stuck_is_not_live() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let live = || get(server.address, "/v2/health/live").status;
    assert_eq!(live(), 200);
    until(|| live() == 503);
    assert_eq!(get(server.address, "/v2/health/ready").status, 503);
    assert_eq!(get(server.address, "/v1/status").json()["state"], "failed");
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    assert_eq!(live(), 200);
    server.stop();
}

#[test]
fn an_image_without_an_answer_spoils_no_other() {
    let server = start(config(), Duration::ZERO);
    let first = server.close_with_one();
    let waiting: Vec<TcpStream> = [5, 13, 6].map(|n| server.image("size=32", n)).into();
    until(|| server.waiting() == 3);
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    let replies: Vec<Reply> = waiting.into_iter().map(Reply::read).collect();
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 400, 200]);
    assert_eq!(replies[1].json()["error"], "the outputs are not finite");
    assert_eq!(replies[2].json()["predictions"][0]["probability"], 6.0);
    assert_eq!(get(server.address, "/v2/health/live").status, 200);
    server.stop();
}

#[test]
fn a_queue_is_answered_at_a_smaller_size_than_one_request() {
    let config = Config {
        deadline: Duration::from_secs(6),
        max_batch: 64,
        queue: 300,
        ..config()
    };
    // 250 images at 64 take 7.5 s, at 32 3.8 s.
    let server = start(config, Duration::from_millis(30));
    let idle = Reply::read(server.image("", 1));
    assert_eq!(idle.header("x-rsflow-resolution"), Some("64"));
    server.switches.reset();
    let first = server.close_with_one();
    let many: Vec<TcpStream> = (0..250).map(|n| server.image("", n % 13)).collect();
    until(|| server.waiting() > 240);
    server.switches.close(false);
    assert_eq!(Reply::read(first).status, 200);
    let sizes = many.into_iter().map(Reply::read);
    let sizes: Vec<String> = sizes
        .filter_map(|reply| reply.header("x-rsflow-resolution").map(str::to_owned))
        .collect();
    assert!(sizes.iter().any(|size| size == "32"), "{sizes:?}");
    server.stop();
}

#[test]
fn a_reload_under_load_loses_nothing() {
    let server = start(
        Config {
            queue: 100,
            ..config()
        },
        Duration::from_millis(1),
    );
    let address = server.address;
    let is_done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let is_done = Arc::clone(&is_done);
            thread::spawn(move || {
                let mut count = 0;
                while !is_done.load(SeqCst) {
                    let reply = post(address, "/v1/classify", &[b'#', n]);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..3 {
        let loaded = post(address, "/v2/repository/models/sleeper/load", b"");
        assert_eq!(loaded.status, 200, "{}", loaded.text());
    }
    server.control.reload();
    until(|| server.said.lock().unwrap().len() == 4);
    is_done.store(true, SeqCst);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
    server.stop();
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = start(config(), Duration::ZERO);
    let to = server.address;
    let classify = "/v1/classify";
    let infer = "/v2/models/sleeper/infer";
    let json = |inputs: &str| format!("{{\"inputs\": [{inputs}]}}").into_bytes();
    let tensor = |name: &str, datatype: &str, shape: &str, data: &str| {
        let rest = format!("\"datatype\": \"{datatype}\", \"shape\": {shape}, \"data\": {data}");
        json(&format!("{{\"name\": \"{name}\", {rest}}}"))
    };
    let mut cut = b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec();
    cut.extend([0; 4]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let none: &[(&str, &str)] = &[];
    for (path, headers, body, status, text) in [
        (
            "/v2/repository/models/sleeper/load",
            &[("Origin", "http://elsewhere.example")][..],
            Vec::new(),
            403,
            "a page in a browser may not load a network",
        ),
        (classify, none, cut, 400, "the file ends at byte"),
        (classify, none, b"<html>".to_vec(), 415, "looks like HTML"),
        (classify, none, Vec::new(), 400, "the file is empty"),
        (
            classify,
            &[("Content-Type", "multipart/form-data")],
            b"x".to_vec(),
            415,
            "--data-binary",
        ),
        (
            classify,
            &[("Content-Encoding", "gzip")],
            b"x".to_vec(),
            415,
            "compressed",
        ),
        (
            "/v1/classify?size=48",
            none,
            b"#1".to_vec(),
            400,
            "the size 48 is not loaded; there are 64, 32",
        ),
        (
            "/v1/classify?size=ensemble",
            none,
            b"#1".to_vec(),
            400,
            "the ensemble is not loaded",
        ),
        (
            "/v1/classify?size=%1b[31m",
            none,
            b"#1".to_vec(),
            400,
            "size=\\\\u{1b}[31m must be",
        ),
        (
            "/v1/classify?deadline_ms=-1",
            none,
            b"#1".to_vec(),
            400,
            "deadline_ms must be above 0",
        ),
        (
            "/v1/classify?deadline_ms=NaN",
            none,
            b"#1".to_vec(),
            400,
            "deadline_ms must be above 0",
        ),
        ("/v1/classify?tops=3", none, b"#1".to_vec(), 400, "tops"),
        (
            "/v2/models/other/infer",
            none,
            b"{}".to_vec(),
            404,
            "there is no model",
        ),
        (
            "/v2/models/sleeper/versions/2/infer",
            none,
            b"{}".to_vec(),
            404,
            "there is no version",
        ),
        (infer, none, b"{".to_vec(), 400, "EOF"),
        (infer, none, json(""), 400, "this one has 0"),
        (
            infer,
            none,
            tensor("x", "FP32", "[1]", "[1]"),
            400,
            "there is no such input",
        ),
        (
            infer,
            none,
            tensor("pixels", "FP32", "[1]", "[1]"),
            400,
            "the datatype is UINT8",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[1, 3, 32, 32]", "[1]"),
            400,
            "[n, size, size, 3]",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[1, 2, 2, 3]", "[1]"),
            400,
            "does not fit 1 values",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[99999999999999999, 32, 32, 3]", "[1]"),
            400,
            "1 to 8 images",
        ),
        (
            infer,
            none,
            tensor(
                "images",
                "BYTES",
                &format!("[{}1]", "1, ".repeat(10_000)),
                "[\"IzE=\"]",
            ),
            400,
            "a shape has at most 16 dimensions",
        ),
        (
            infer,
            none,
            // Not decoded: the last is no base64.
            tensor(
                "images",
                "BYTES",
                "[9]",
                &format!("[{} \"!\"]", "\"IzE=\",".repeat(8)),
            ),
            400,
            "more than 8 values",
        ),
        (
            infer,
            none,
            b"{\"parameters\": {\"size\": [0, 0]}}".to_vec(),
            400,
            "\\\"ensemble\\\" or a number of pixels",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[1, 1, 1, 3]", "[1, 256, 0]"),
            400,
            "256 is not a whole number",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[1, 1, 1, 3]", "[1, [2], 0]"),
            400,
            "the size 1 is not loaded",
        ),
        (
            infer,
            none,
            tensor("pixels", "UINT8", "[1, 1, 1, 3]", &deep),
            400,
            "recursion",
        ),
        (
            infer,
            none,
            tensor("normalized", "FP32", "[1, 3, 1, 1]", "[1, 1e39, 0]"),
            400,
            "the size 1 is not loaded",
        ),
        (
            infer,
            none,
            tensor("images", "BYTES", "[2]", "[\"IzE=\"]"),
            400,
            "does not fit",
        ),
        (
            infer,
            none,
            tensor("images", "BYTES", "[9223372036854775808, 4]", "[\"IzE=\"]"),
            400,
            "does not fit",
        ),
        (
            infer,
            none,
            tensor("images", "BYTES", "[1]", "[\"!\"]"),
            400,
            "base64",
        ),
        (
            infer,
            none,
            tensor("images", "BYTES", "[0]", "[]"),
            400,
            "1 to 8 images",
        ),
        (
            infer,
            &[("Inference-Header-Content-Length", "99")],
            b"{}".to_vec(),
            400,
            "the length of the JSON",
        ),
        ("/nothing", none, Vec::new(), 404, "nothing at /nothing"),
    ] {
        let reply = send(to, "POST", path, headers, &body);
        let shown = format!(
            "{path} {:?}: {} {}",
            String::from_utf8_lossy(&body[..body.len().min(200)]),
            reply.status,
            reply.text()
        );
        assert_eq!(reply.status, status, "{shown}");
        assert!(reply.text().contains(text), "{shown}");
        assert!(reply.json()["error"].is_string(), "{shown}");
        assert!(reply.body.iter().all(|byte| *byte >= 0x20), "{shown}");
    }
    assert_eq!(get(to, classify).status, 405);
    // Not finite at a size that is loaded.
    let mut values = vec!["0.5"; 3 * 32 * 32];
    values[7] = "1e39";
    let reply = post(
        to,
        infer,
        &tensor(
            "normalized",
            "FP32",
            "[1, 3, 32, 32]",
            &format!("[{}]", values.join(",")),
        ),
    );
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (400, Some("a value of the tensor is not finite"))
    );
    // More than it says, or never as much: the length is judged before the body.
    let mut stream = TcpStream::connect(to).unwrap();
    let head = format!(
        "POST {classify} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Reply::read(stream).status, 413);
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(b"\x16\x03\x01 TLS?\r\n\r\n").unwrap();
    assert_eq!(Reply::read(stream).status, 400);
    assert_eq!(get(to, "/v2/health/live").status, 200);
    server.stop();
}

#[test]
fn a_thousand_connections_are_answered() {
    let server = start(
        Config {
            queue: 2000,
            max_batch: 64,
            ..config()
        },
        Duration::from_micros(100),
    );
    // Of which some never say anything.
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let open: Vec<TcpStream> = (0..1000).map(|n| server.image("", n as u8 % 13)).collect();
    for (n, open) in open.into_iter().enumerate() {
        let reply = Reply::read(open);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json()["predictions"][0]["probability"],
            (n as u8 % 13) as f64
        );
    }
    drop(silent);
    server.stop();
}
