//! Connections: how many, how slow, how large. Those of HTTP/1; for gRPC they are in `grpc::connections`.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
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
/// When the server stops, connections that wait to be accepted still are, until none came for so long.
const QUEUED: Duration = Duration::from_millis(20);
/// The same if they come without a pause: no more are accepted after this.
const ALL_QUEUED: Duration = Duration::from_secs(1);
/// For the head of a request of someone who had connected when the server was stopped.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// A connection that makes progress, or is closed.
pub(super) type Stream = std::pin::Pin<Box<TimeoutStream<TcpStream>>>;

/// A listener that is not asked for more connections than may be open.
pub(super) struct Listener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    /// When the queue is no longer waited for, once this is to stop.
    end: OnceLock<Instant>,
}

impl Listener {
    pub fn new(listener: TcpListener) -> Self {
        Listener {
            listener,
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            end: OnceLock::new(),
        }
    }

    /// The next connection, and its place, which it holds while it is open.
    async fn accept(&self) -> (Stream, OwnedSemaphorePermit) {
        loop {
            // Never closed.
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            let (Ok(slot), Ok((stream, _))) = (slot, self.listener.accept().await) else {
                sleep(PAUSE).await;
                continue;
            };
            // An answer is one small packet.
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            return (Box::pin(stream), slot);
        }
    }

    /// The next connection. `None` once this is to stop, and those that wait to be accepted have been: the system
    /// would reset them, with the requests that they have sent.
    pub async fn next(
        &self,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<(Stream, OwnedSemaphorePermit)> {
        if !*stop.borrow() {
            tokio::select! {
                connection = self.accept() => return Some(connection),
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        let now = Instant::now();
        let end = *self.end.get_or_init(|| now + ALL_QUEUED);
        if now >= end {
            return None;
        }
        timeout_at(end.min(now + QUEUED), self.accept()).await.ok()
    }

    /// Lets no more in, and waits until the last connection is closed.
    pub async fn closed(self) {
        drop(self.listener);
        let _ = self.slots.acquire_many(CONNECTIONS as u32).await;
    }
}

/// Takes connections until it is stopped, and returns when the last one is closed.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let listener = Listener::new(listener);
    while let Some((stream, slot)) = listener.next(&mut stop).await {
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            answer(stream, router, stop).await;
            drop(slot);
        });
    }
    listener.closed().await;
}

/// Answers the requests of a connection until either side ends it.
async fn answer(stream: Stream, router: Router, mut stop: watch::Receiver<bool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // A client that closes its side is gone: nothing more is computed for it.
        .half_close(false)
        .max_buf_size(64 << 10);
    // Whoever has connected, but said nothing yet when the server stops, has a moment for one request.
    let mut first = [0];
    let is_late = tokio::select! {
        biased;
        _ = stream.get_ref().peek(&mut first) => false,
        () = sleep(HEAD_TIMEOUT) => return,
        _ = stop.wait_for(|stop| *stop) => true,
    };
    if is_late {
        http.keep_alive(false).header_read_timeout(LAST_HEAD);
    }
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // Whatever ends it (the client is gone, or wrote nonsense), it is the client's affair.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop), if !is_late => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
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
    let body = timeout(BODY_TIMEOUT, collect(budget, body, most)).await;
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use axum::routing::get;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";

    fn answered(mut stream: TcpStream) -> bool {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.ends_with("answer")
    }

    #[test]
    fn nobody_who_had_connected_is_reset_by_a_stop() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let connect = || TcpStream::connect(address).unwrap();
        // All are in the system's queue when the server is stopped.
        let mut spoke: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        for stream in &mut spoke {
            stream.write_all(REQUEST).unwrap();
        }
        let (mut speaks_later, silent) = (connect(), connect());
        let (stop, stopped) = watch::channel(false);
        stop.send(true).unwrap();
        let router = Router::new().route("/", get(|| async { "answer" }));
        let served = runtime.spawn(async move {
            serve(TcpListener::from_std(listener).unwrap(), router, stopped).await;
        });
        for stream in spoke {
            assert!(answered(stream));
        }
        thread::sleep(LAST_HEAD / 4);
        speaks_later.write_all(REQUEST).unwrap();
        assert!(answered(speaks_later));
        // It does not wait for long.
        runtime.block_on(async { timeout(8 * LAST_HEAD, served).await.unwrap().unwrap() });
        assert!(!answered(silent));
        assert!(TcpStream::connect(address).is_err());
    }
}
