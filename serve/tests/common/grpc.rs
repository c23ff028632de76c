//! A client of gRPC by another implementation than the server's: tonic's.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// One connection.
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

/// A call that was begun. Dropping it does not cancel it.
pub type Pending<A> = JoinHandle<Result<Response<A>, Status>>;

impl Client {
    pub fn connect(to: SocketAddr) -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(to).await.unwrap();
            // A call is several small packets: the next would wait for the last one's acknowledgement.
            stream.set_nodelay(true).unwrap();
            let stream = TokioIo::new(stream);
            let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Client {
            runtime,
            channel: Channel(sender),
        }
    }

    /// Sends a request; `path` as in `inference.GRPCInferenceService/ServerLive`.
    pub fn begin<Q, A>(&self, path: &str, request: Request<Q>) -> Pending<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let origin = "http://test".parse().unwrap();
        let mut client = Grpc::with_origin(self.channel.clone(), origin);
        let path = format!("/{path}").parse().unwrap();
        self.runtime.spawn(async move {
            let broken = |error: hyper::Error| Status::unknown(format!("{error:?}"));
            client.ready().await.map_err(broken)?;
            client.unary(request, path, ProstCodec::default()).await
        })
    }

    /// A request's answer.
    pub fn end<A>(&self, pending: Pending<A>) -> Result<Response<A>, Status> {
        self.runtime.block_on(pending).unwrap()
    }

    pub fn call<Q, A>(&self, path: &str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let pending = self.begin(path, Request::new(message));
        self.end(pending).map(Response::into_inner)
    }

    /// What is no gRPC, or hardly: the status and headers of its answer.
    #[allow(dead_code, reason = "of the tests with a network that sleeps")]
    pub fn raw(&self, request: hyper::Request<Body>) -> hyper::Response<Incoming> {
        let mut sender = self.channel.0.clone();
        self.runtime.block_on(async {
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap()
        })
    }
}

/// What tonic sends requests by.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl Service<hyper::Request<Body>> for Channel {
    type Response = hyper::Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<hyper::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
