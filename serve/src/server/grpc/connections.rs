//! Connections of HTTP/2 and calls: how many, how slow, how long.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::wire::Failed;
use crate::server::listener::{CONNECTIONS, HEAD_TIMEOUT, Listener, WRITE_TIMEOUT};
use crate::server::problem::Problem;

/// Calls of a connection at a time; a client keeps more to itself.
const CALLS: u32 = 256;
/// Calls of all connections at a time; one above that is refused at once. A call takes about as much as a connection
/// of HTTP/1.
const ALL_CALLS: usize = CONNECTIONS;
/// A peer that is silent for so long is asked whether it is there,
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// and closed if it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that was asked to leave, and has no call, is closed after this.
const CLOSING: Duration = Duration::from_secs(5);

/// Bytes of an answer that are sent as one: the largest frame that every peer takes.
const PIECE: usize = 16 << 10;

tokio::task_local! {
    /// Of a call: a piece of its answer is there to be sent, so the client took those before.
    static PROGRESS: Arc<Notify>;
}

fn progress() {
    let _ = PROGRESS.try_with(|progress| progress.notify_one());
}

/// Takes connections until it is stopped, and returns when the last one is closed.
pub async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let listener = Listener::new(listener);
    let places = Places::new(ALL_CALLS);
    while let Some((stream, slot)) = listener.next(&mut stop).await {
        let (router, places, mut stop) = (router.clone(), places.clone(), stop.clone());
        tokio::spawn(async move {
            // Nothing has been sent, so nobody waits for a goodbye.
            let mut first = [0];
            let speaks = tokio::select! {
                peeked = stream.get_ref().peek(&mut first) => peeked.is_ok(),
                () = sleep(HEAD_TIMEOUT) => false,
                _ = stop.wait_for(|stop| *stop) => false,
            };
            if speaks {
                converse(stream, router, places, stop).await;
            }
            drop(slot);
        });
    }
    listener.closed().await;
}

/// The places for the calls of all connections.
#[derive(Clone)]
struct Places {
    infer: Arc<Semaphore>,
    /// Of their own, so that probes are answered while inference has no place left.
    others: Arc<Semaphore>,
}

impl Places {
    fn new(count: usize) -> Self {
        let places = || Arc::new(Semaphore::new(count));
        Places {
            infer: places(),
            others: places(),
        }
    }

    /// A place for a call, which it holds until its answer is sent.
    fn take(&self, path: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let places = match path.ends_with("/ModelInfer") {
            true => &self.infer,
            false => &self.others,
        };
        let place = Arc::clone(places).try_acquire_owned();
        place.map_err(|_| Problem::unavailable("the server is busy: too many calls are open", 1.0))
    }
}

/// Answers the calls of a connection until either side ends it.
async fn converse<S>(stream: S, router: Router, places: Places, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (open, calls) = watch::channel(0);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let place = places.take(request.uri().path());
        // It does nothing until it is polled.
        let answer = service.call(request);
        async move {
            let (answer, place): (Response, _) = match place {
                Ok(place) => (answer.await?, Some(place)),
                Err(full) => (Failed(full).into_response(), None),
            };
            progress();
            Ok::<_, Infallible>(answer.map(|body| Pieces::new(body, place)))
        }
    });
    let mut http = http2::Builder::new(Calls(Arc::new(open)));
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(CALLS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // Whatever ends it (the client is gone, or wrote nonsense), it is the client's affair.
    tokio::select! {
        _ = &mut connection => return,
        () = idle(calls.clone(), HEAD_TIMEOUT) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // The client is asked to begin nothing more here. What it has begun is answered.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = idle(calls, CLOSING) => {}
    }
}

/// Returns when there was no call for so long, or the connection is gone.
async fn idle(mut calls: watch::Receiver<usize>, time: Duration) {
    while calls.wait_for(|calls| *calls == 0).await.is_ok() {
        match timeout(time, calls.changed()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// The body of an answer in pieces: the next one is asked for when the client has room for it.
struct Pieces {
    body: Body,
    /// What is left of the body's last frame.
    rest: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Pieces {
    fn new(body: Body, place: Option<OwnedSemaphorePermit>) -> Self {
        Pieces {
            body,
            rest: Bytes::new(),
            _place: place,
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        progress();
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// It is asked for before the first piece.
    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

/// Runs the calls of a connection and counts them. An answer that its client stops taking is dropped: unlike the
/// connection's, its writes may wait for the client alone.
#[derive(Clone)]
struct Calls(Arc<watch::Sender<usize>>);

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let open = Open::new(&self.0);
        let progress = Arc::new(Notify::new());
        let taken = Arc::clone(&progress);
        let stuck = async move {
            // Before its answer is there, it may take as long as it does.
            taken.notified().await;
            while timeout(WRITE_TIMEOUT, taken.notified()).await.is_ok() {}
        };
        tokio::spawn(PROGRESS.scope(progress, async move {
            let _open = open;
            tokio::select! {
                () = call => {}
                () = stuck => {}
            }
        }));
    }
}

/// A call that is counted while it is open.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(calls: &Arc<watch::Sender<usize>>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Open(Arc::clone(calls))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::post;
    use http_body_util::BodyExt as _;
    use hyper::client::conn::http2 as client;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    const LARGE: usize = 1 << 20;

    /// A connection to a server that answers `/` with 100 bytes, `/large` with `LARGE`, `/never` not at all.
    fn connect() -> (DuplexStream, JoinHandle<()>, watch::Sender<bool>) {
        connect_with(Places::new(ALL_CALLS))
    }

    fn connect_with(places: Places) -> (DuplexStream, JoinHandle<()>, watch::Sender<bool>) {
        let router = Router::new()
            .route("/", post(|| async { vec![7; 100] }))
            .route("/large", post(|| async { vec![7; LARGE] }))
            .route("/never", post(std::future::pending::<()>));
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(converse(theirs, router, places, stopped));
        (ours, served, stop)
    }

    fn post_to(path: &str) -> Request<Body> {
        let uri = format!("http://test{path}");
        Request::post(uri).body(Body::empty()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_kept() {
        let start = Instant::now();
        let (silent, served, _stop) = connect();
        served.await.unwrap();
        let closed = HEAD_TIMEOUT + CLOSING;
        assert_eq!(start.elapsed().as_secs(), closed.as_secs());
        drop(silent);
        // Nor who lives, and asks nothing more.
        let start = Instant::now();
        let (ours, served, _stop) = connect();
        let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(ours)).await;
        let (mut sender, connection) = handshake.unwrap();
        let connection = tokio::spawn(connection);
        sleep(HEAD_TIMEOUT / 2).await;
        let answer = sender.send_request(post_to("/")).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 100);
        connection.await.unwrap().unwrap();
        served.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs() * 3 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_dead_is_not_kept_though_it_called() {
        let start = Instant::now();
        let (mut ours, served, _stop) = connect();
        // Settings, and HEADERS of a call that never ends: POST http /never by the static table.
        let head = b"\x83\x86\x04\x06/never\x01\x04test";
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        sent.extend([0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1]);
        sent.extend(head);
        ours.write_all(&sent).await.unwrap();
        timeout(10 * HEAD_TIMEOUT, served).await.unwrap().unwrap();
        let closed = (PING_INTERVAL + PING_TIMEOUT).as_secs();
        assert_eq!(start.elapsed().as_secs(), closed);
        let mut received = Vec::new();
        ours.read_to_end(&mut received).await.unwrap();
        // No stream was refused: the call was open until then.
        assert!(!received.windows(4).any(|frame| frame == [4, 3, 0, 0]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_dropped() {
        let (ours, served, _stop) = connect();
        let handshake = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Takes no byte of a body.
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(ours))
            .await;
        let (mut sender, connection) = handshake.unwrap();
        let connection = tokio::spawn(connection);
        let start = Instant::now();
        let answer = sender.send_request(post_to("/")).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err();
        assert_eq!(
            start.elapsed().as_secs(),
            WRITE_TIMEOUT.as_secs(),
            "{error}"
        );
        connection.await.unwrap().unwrap();
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_slowly_is_not_cut() {
        let (ours, served, _stop) = connect();
        let handshake = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(32 << 10)
            .handshake(TokioIo::new(ours))
            .await;
        let (mut sender, connection) = handshake.unwrap();
        let connection = tokio::spawn(connection);
        let start = Instant::now();
        let answer = sender.send_request(post_to("/large")).await.unwrap();
        let (mut body, mut read) = (answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap_or_else(|error| panic!("{error} after {read} bytes"));
            read += frame.into_data().unwrap().len();
            sleep(WRITE_TIMEOUT / 3).await;
        }
        assert_eq!(read, LARGE);
        assert!(start.elapsed() > 10 * WRITE_TIMEOUT);
        drop(sender);
        connection.await.unwrap().unwrap();
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_refused_while_too_many_are_open_on_all_connections() {
        let places = Places::new(1);
        let (ours, _served, _stop) = connect_with(places.clone());
        let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(ours)).await;
        let (mut first, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let (ours, _served, _stop) = connect_with(places);
        let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(ours)).await;
        let (mut second, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let call = tokio::spawn(first.send_request(post_to("/never")));
        sleep(Duration::from_secs(1)).await;
        let refused = second.send_request(post_to("/")).await.unwrap();
        assert_eq!(refused.headers()["grpc-status"], "14");
        // Inference has places of its own (here is no such route).
        let other = second.send_request(post_to("/a/ModelInfer")).await.unwrap();
        assert_eq!(other.status(), 404);
        call.abort();
        sleep(Duration::from_secs(1)).await;
        for _ in 0..2 {
            let answer = second.send_request(post_to("/")).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"));
            answer.into_body().collect().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_keeps_its_connection_until_it_is_answered() {
        let (ours, served, stop) = connect();
        let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(ours)).await;
        let (mut sender, connection) = handshake.unwrap();
        let connection = tokio::spawn(connection);
        let call = tokio::spawn(sender.send_request(post_to("/never")));
        sleep(10 * HEAD_TIMEOUT).await;
        stop.send(true).unwrap();
        sleep(10 * WRITE_TIMEOUT).await;
        assert!(!call.is_finished() && !served.is_finished() && !connection.is_finished());
        call.abort();
        drop(sender);
        served.await.unwrap();
    }
}
