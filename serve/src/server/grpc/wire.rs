//! gRPC's way to carry messages and errors over HTTP/2, as far as calls with one message in and one out need it:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, Full};
use prost::Message;

use crate::server::listener::{Budget, Whole, read_small};
use crate::server::problem::Problem;

const CONTENT_TYPE: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ENCODINGS: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// When a client that retries by itself may do so, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Before each message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;
/// Bytes of an error's text; clients take 8 KB of headers by default.
const MOST_TEXT: usize = 4000;

/// Whether a content type is gRPC's with messages of protobuf; it may have parameters.
pub fn is_grpc(kind: &[u8]) -> bool {
    let end = kind.iter().position(|byte| *byte == b';');
    let kind = kind[..end.unwrap_or(kind.len())].trim_ascii_end();
    [CONTENT_TYPE, "application/grpc+proto"]
        .iter()
        .any(|grpc| kind.eq_ignore_ascii_case(grpc.as_bytes()))
}

/// Reads the only message of a call, of at most so many bytes. The second value is its share of the memory for
/// bodies.
pub async fn read(
    budget: &Budget,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<(Bytes, Whole), Problem> {
    let body = budget.read(headers, body, most + PREFIX).await?;
    let message = unframed(&body.bytes)?;
    Ok((message, body))
}

/// Reads the only message of a call that is no inference request. It takes no share of that memory: a probe is
/// answered, too, while images fill it.
pub async fn small(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Problem> {
    let body = read_small(headers, body, most + PREFIX).await?;
    unframed(&body)
}

/// The only message of a body.
pub fn unframed(body: &Bytes) -> Result<Bytes, Problem> {
    let Some([compressed, length @ ..]) = body.first_chunk::<PREFIX>() else {
        return Err(Problem::bad("the call has no message"));
    };
    if *compressed != 0 {
        let text = "the message must not be compressed";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, text));
    }
    let message = body.slice(PREFIX..);
    let length = u32::from_be_bytes(*length) as usize;
    match length == message.len() {
        true => Ok(message),
        false => Err(Problem::bad(format!(
            "the message says that it has {length} bytes, and {} came: a call has one message",
            message.len()
        ))),
    }
}

/// A message from its bytes.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Problem> {
    M::decode(bytes).map_err(|error| Problem::bad(format!("the message: {error}")))
}

/// How long the client waits; `None` if it does not say.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|value| {
        let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
        let is_number =
            (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|_| is_number)?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    });
    match parsed {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Problem::bad(
            "grpc-timeout must be at most 8 digits and a unit: H, M, S, m, u or n",
        )),
    }
}

/// An answer with one message.
pub struct Reply<M>(pub M);

impl<M: Message> IntoResponse for Reply<M> {
    fn into_response(self) -> Response {
        let length = self.0.encoded_len();
        let Ok(prefix) = u32::try_from(length) else {
            let text = "the answer is too large for gRPC";
            return Failed(Problem::too_large(text)).into_response();
        };
        let mut body = Vec::with_capacity(PREFIX + length);
        body.push(0);
        body.extend(prefix.to_be_bytes());
        self.0.encode_raw(&mut body);
        let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
        let body = Full::new(Bytes::from(body));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::new(body)).into_response()
    }
}

/// An error as gRPC has it: headers alone, and HTTP's status is 200.
pub struct Failed(pub Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Failed(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let problem = self.0;
        let mut response = StatusCode::OK.into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static(CONTENT_TYPE);
        headers.insert(header::CONTENT_TYPE, kind);
        let code = code(problem.status());
        headers.insert(STATUS, HeaderValue::from(code));
        if let Ok(text) = HeaderValue::try_from(percent_encoded(&problem.text())) {
            headers.insert(MESSAGE, text);
        }
        if code == UNIMPLEMENTED {
            headers.insert(ENCODINGS, HeaderValue::from_static("identity"));
        }
        if let Some(seconds) = problem.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(PUSHBACK, HeaderValue::from(seconds * 1000));
        }
        response
    }
}

const INVALID_ARGUMENT: u16 = 3;
const DEADLINE_EXCEEDED: u16 = 4;
const NOT_FOUND: u16 = 5;
const RESOURCE_EXHAUSTED: u16 = 8;
const ABORTED: u16 = 10;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// gRPC's code for an error.
fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::NOT_FOUND => NOT_FOUND,
        StatusCode::CONFLICT => ABORTED,
        // As gRPC's own libraries say of a message above their limit.
        StatusCode::PAYLOAD_TOO_LARGE => RESOURCE_EXHAUSTED,
        StatusCode::NOT_IMPLEMENTED => UNIMPLEMENTED,
        StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => DEADLINE_EXCEEDED,
        status if status.is_client_error() => INVALID_ARGUMENT,
        _ => INTERNAL,
    }
}

/// A text as a header has it. What is very long loses its end.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        let mut bytes = [0; 4];
        let bytes = character.encode_utf8(&mut bytes).as_bytes();
        if encoded.len() + 3 * bytes.len() > MOST_TEXT {
            encoded.push_str("...");
            break;
        }
        match character {
            ' '..='~' if character != '%' => encoded.push(character),
            _ => encoded.extend(bytes.iter().map(|byte| format!("%{byte:02X}"))),
        }
    }
    encoded
}
