//! Connections: how many, how slow, how large. Those of HTTP/1; for gRPC they are in `grpc::connections`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::problem::Problem;

/// Open connections; who comes then waits in the system's queue.
pub(super) const CONNECTIONS: usize = 4096;
/// For the head of a request, and for the pause between two of them.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For all of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Without any progress of an answer that its client does not read.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// All bodies together, in KiB.
const BODIES: usize = 1 << 20;
/// When no connection can be taken (too many open files), the next attempt comes after this.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that makes progress, or is closed.
pub(super) type Stream = std::pin::Pin<Box<TimeoutStream<TcpStream>>>;

/// A listener that is not asked for more connections than may be open.
pub(super) struct Listener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

impl Listener {
    pub fn new(listener: TcpListener) -> Self {
        Listener {
            listener,
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// The next connection, and its place, which it holds while it is open. `None` once this is to stop.
    pub async fn next(
        &self,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<(Stream, OwnedSemaphorePermit)> {
        loop {
            let accept = async {
                // Never closed.
                let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
                Some((slot, self.listener.accept().await))
            };
            let (slot, accepted) = tokio::select! {
                accepted = accept => accepted?,
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // An answer is one small packet.
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            return Some((Box::pin(stream), slot));
        }
    }

    /// Lets no more in, and waits until the last connection is closed.
    #[cfg(feature = "grpc")]
    pub async fn closed(self) {
        drop(self.listener);
        let _ = self.slots.acquire_many(CONNECTIONS as u32).await;
    }
}

/// Takes connections until it is stopped, and returns when the last one is closed.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let listener = Listener::new(listener);
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // A client that closes its side is gone: nothing more is computed for it.
        .half_close(false)
        .max_buf_size(64 << 10);
    while let Some((stream, slot)) = listener.next(&mut stop).await {
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // Whatever ends it (the client is gone, or wrote nonsense), it is the client's affair.
            let _ = connection.await;
            drop(slot);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// The memory that the bodies of all requests may take.
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Budget(Arc::new(Semaphore::new(BODIES)))
    }
}

/// A body, and its share of the memory for bodies.
pub(super) struct Whole {
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// Reads a body of at most so many bytes.
    pub async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        most: usize,
    ) -> Result<Whole, Problem> {
        read(Some(self), headers, body, most).await
    }

    /// None is left until the value is dropped.
    #[cfg(all(test, feature = "grpc"))]
    pub fn take_all(&self) -> OwnedSemaphorePermit {
        let all = Arc::clone(&self.0).try_acquire_many_owned(BODIES as u32);
        all.unwrap()
    }
}

/// Reads a body of so few bytes that it needs no share of the memory for bodies.
#[cfg(feature = "grpc")]
pub(super) async fn read_small(
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Bytes, Problem> {
    let body = read(None, headers, body, most).await?;
    Ok(body.bytes)
}

async fn read(
    budget: Option<&Budget>,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Whole, Problem> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::unsupported("the body must not be compressed"));
    }
    let too_large = || Problem::too_large(format!("the body has more than {most} bytes"));
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > most) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, collect(budget, body, most)).await;
    let body = body.map_err(|_| {
        let text = format!("the body took more than {} s", BODY_TIMEOUT.as_secs());
        Problem::new(axum::http::StatusCode::REQUEST_TIMEOUT, text)
    })?;
    body?.ok_or_else(too_large)
}

/// Takes memory as it comes, not as it is announced: who announces much and sends nothing keeps nobody out.
/// `None` if there is too much of it.
async fn collect(
    budget: Option<&Budget>,
    mut body: Body,
    most: usize,
) -> Result<Option<Whole>, Problem> {
    let mut bytes = Vec::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::bad("the body ended early"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
        let Some(Budget(budget)) = budget else {
            continue;
        };
        let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.len().div_ceil(1024).saturating_sub(held);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let more = Arc::clone(budget).try_acquire_many_owned(more);
        let more = more.map_err(|_| {
            Problem::unavailable("the server is busy: too many bodies are being read", 1.0)
        })?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
    }
    Ok(Some(Whole {
        bytes: bytes.into(),
        _share: share,
    }))
}
