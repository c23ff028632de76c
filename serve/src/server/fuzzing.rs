//! The readers of requests, for `tests/fuzz`.

use axum::body::Bytes;

use super::Config;
use super::grpc::{request, unframed};
use super::infer::Images;
use super::v2;

/// Reads bytes as the body of a request over HTTP; `length` is its header about the length of the JSON.
pub fn http(config: &Config, length: Option<&[u8]>, body: &Bytes) {
    let parsed = v2::split(length, body)
        .and_then(|(json, binary)| v2::request::parse(config, &json, &binary));
    if let Ok(parsed) = parsed {
        check(config, &parsed.request(std::time::Instant::now()).images);
    }
}

/// Reads bytes as the body of a call over gRPC, and as the message in it.
pub fn grpc(config: &Config, body: &Bytes) {
    for message in [unframed(body), Ok(body.clone())] {
        let parsed = message
            .and_then(|message| request::decode(message, config))
            .and_then(|request| request::parse(config, request));
        if let Ok(parsed) = parsed {
            check(config, &parsed.images);
        }
    }
}

fn check(config: &Config, images: &Images) {
    assert!(images.count() <= config.queue);
}
