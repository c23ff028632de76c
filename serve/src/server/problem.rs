//! Why a request gets no answer, as its sender reads it.

use std::borrow::Cow;
use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rsflow_base::shown::lines;
use rsflow_pipeline::pixels::ImageError;
use rsflow_pipeline::preprocess::PreprocessError;
use serde_json::json;

use super::metrics::Ended;
use super::queue::Refused;

/// The beginning of an error that may quote all of a request.
pub(super) fn brief(error: &impl fmt::Display) -> String {
    /// In bytes.
    const MOST: usize = 1000;
    struct Beginning(String);
    impl fmt::Write for Beginning {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MOST.saturating_sub(self.0.len());
            let end = (0..=room.min(text.len()))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            self.0.push_str(&text[..end.unwrap_or(0)]);
            match room < text.len() {
                true => Err(fmt::Error),
                false => Ok(()),
            }
        }
    }
    let mut beginning = Beginning(String::new());
    match fmt::write(&mut beginning, format_args!("{error}")) {
        Ok(()) => beginning.0,
        Err(_) => beginning.0 + "...",
    }
}

/// An error of a request.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
    /// In seconds.
    retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Problem {
            status,
            message: message.into(),
            retry_after: None,
        }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// Refused: another attempt may work after so many seconds.
    pub fn unavailable(message: impl Into<String>, retry_after: f64) -> Self {
        Problem {
            // Whole seconds, as HTTP has it.
            retry_after: Some(retry_after.clamp(1.0, 600.0).ceil() as u64),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// It waited until it could not be in time any more.
    pub fn expired() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the request waited until it could not be answered by its deadline any more",
        )
    }

    /// The same, with what it is about before it.
    pub fn about(mut self, what: &str) -> Self {
        self.message.insert_str(0, &format!("{what}: "));
        self
    }

    #[cfg(feature = "grpc")]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What came from outside may be shown on a terminal.
    pub fn text(&self) -> Cow<'_, str> {
        lines(&self.message)
    }

    /// In seconds.
    #[cfg(feature = "grpc")]
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// For the metrics.
    pub fn ended(&self) -> Ended {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => Ended::Refused,
            StatusCode::GATEWAY_TIMEOUT => Ended::Expired,
            _ => Ended::Bad,
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Hopeless { retry_after } => Problem::unavailable(
                "the request cannot be answered by its deadline: the server is busy, or the deadline is too short for so many images",
                retry_after,
            ),
            Refused::Full { retry_after } => {
                Problem::unavailable("the server is busy: the queue is full", retry_after)
            }
        }
    }
}

impl From<PreprocessError> for Problem {
    fn from(error: PreprocessError) -> Self {
        let text = error.to_string();
        match error {
            PreprocessError::Image(error) => match error {
                ImageError::UnknownFormat { .. } | ImageError::Unsupported { .. } => {
                    Problem::unsupported(text)
                }
                ImageError::TooLarge { .. } => Problem::too_large(text),
                ImageError::OutOfMemory(_) => Problem::unavailable(text, 1.0),
                _ => Problem::bad(text),
            },
            PreprocessError::Resize(_) => Problem::bad(text),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.text() }).to_string();
        let json = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (self.status, json, body).into_response();
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
