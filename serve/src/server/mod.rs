//! The server: requests over HTTP and gRPC, batches for the device, and for each batch the largest size with which
//! all that waits is answered in time.
//!
//! - `listener`, `http`, `v2`: connections; the routes; the Open Inference Protocol.
//! - [`grpc`]: the Open Inference Protocol over gRPC (feature `grpc`).
//! - `infer`: a request from its images to its answers, whatever protocol it came by.
//! - [`queue`], [`policy`], [`profile`]: what waits, at which size it is computed, how long that takes. Without
//!   threads, and time is an argument.
//! - [`device`]: the thread that computes.

pub mod device;
#[cfg(all(fuzzing, feature = "grpc"))]
pub mod fuzzing;
#[cfg(feature = "grpc")]
pub mod grpc;
mod http;
mod infer;
mod listener;
pub mod metrics;
pub mod policy;
mod problem;
pub mod profile;
pub mod queue;
mod v2;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::StatusCode;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use device::{Device, Network};
use infer::Decoding;
use listener::Budget;
use metrics::Metrics;
use problem::Problem;

/// How long requests are still answered after the server was asked to stop.
const DRAIN: Duration = Duration::from_secs(30);
/// And after the device failed: requests only get their error.
const FAREWELL: Duration = Duration::from_secs(2);
/// Threads that read requests and write answers; what takes time is done elsewhere.
const HTTP_THREADS: usize = 4;

/// How the server works.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it listens; with port 0 the system chooses one.
    pub listen: SocketAddr,
    /// The name of the model in requests.
    pub name: String,
    /// The deadline of requests that name none, from their last byte to their answer.
    pub deadline: Duration,
    /// Whether requests that name no size get the one that the load allows; otherwise the largest.
    pub switching: bool,
    /// The smallest size that they get, in pixels.
    pub floor: Option<u32>,
    /// Images in a batch.
    pub max_batch: usize,
    /// Images that wait.
    pub queue: usize,
}

/// Loads the network: at the start, and for every reload.
pub type Load = Arc<dyn Fn() -> Result<Box<dyn Network>> + Send + Sync>;

/// Gets a line for the operator.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// What a server is asked from outside.
enum Event {
    Stop,
    Reload,
    Failed(anyhow::Error),
}

/// Stops a server, or has it reload its network; any thread may.
#[derive(Clone, Debug)]
pub struct Control(mpsc::UnboundedSender<Event>);

impl Control {
    /// Answers what is in flight, for at most 30 s, and ends [`Server::run`].
    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }

    /// Loads the network anew, and swaps it in once it is warm.
    pub fn reload(&self) {
        let _ = self.0.send(Event::Reload);
    }
}

/// What all requests share.
struct App {
    config: Config,
    load: Load,
    tell: Tell,
    metrics: Arc<Metrics>,
    /// `None` until the network is warm.
    device: RwLock<Option<Arc<Device>>>,
    is_stopping: AtomicBool,
    decoding: Decoding,
    bodies: Budget,
    reloading: Mutex<()>,
    control: Control,
}

impl App {
    /// The network that answers now. A request keeps the one that it began with.
    fn device(&self) -> Option<Arc<Device>> {
        let device = self.device.read().unwrap_or_else(PoisonError::into_inner);
        device.clone()
    }

    fn is_ready(&self) -> bool {
        let is_live = self.device().is_some_and(|device| device.is_live());
        is_live && !self.is_stopping.load(Relaxed)
    }

    fn is_live(&self) -> bool {
        self.device().is_none_or(|device| device.is_live())
    }

    /// Loads the network and swaps it in. What waits for the one before is still answered by it.
    async fn open(self: &Arc<Self>) -> Result<()> {
        let app = Arc::clone(self);
        let start = move || {
            let load = Arc::clone(&app.load);
            let control = app.control.clone();
            let failed = move |error| {
                let _ = control.0.send(Event::Failed(error));
            };
            Device::start(
                move || load(),
                &app.config,
                Arc::clone(&app.metrics),
                failed,
            )
        };
        let device = tokio::task::spawn_blocking(start).await??;
        let mut current = self.device.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.replace(Arc::new(device));
        drop(current);
        drop(before);
        Ok(())
    }

    /// Loads the network anew; the one that is there stays if that fails.
    async fn reload(self: Arc<Self>) -> Result<(), Problem> {
        let Ok(_alone) = self.reloading.try_lock() else {
            return Err(Problem::conflict("a reload is under way already"));
        };
        self.reload_alone().await
    }

    /// The same after a reload that is under way: the file may have changed since that began.
    async fn reload_after_others(self: Arc<Self>) {
        let _alone = self.reloading.lock().await;
        // It reports to the operator itself.
        let _ = self.reload_alone().await;
    }

    async fn reload_alone(self: &Arc<Self>) -> Result<(), Problem> {
        let opened = self.open().await;
        self.metrics.reload(opened.is_ok());
        match opened {
            Ok(()) => {
                let source = self.device().map(|device| device.network.source());
                (self.tell)(&format!("reloaded {}", source.unwrap_or_default()));
                Ok(())
            }
            Err(error) => {
                let text = format!("cannot reload, the network stays as it was: {error:#}");
                (self.tell)(&text);
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        }
    }
}

/// Listens at an address; with port 0, at the one that is returned. `option` names another one.
fn listen(at: SocketAddr, option: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(at).with_context(|| {
        format!("cannot listen on {at}; {option} names another address or port")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    #[cfg(feature = "grpc")]
    grpc: Option<TcpListener>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Server {
    /// Listens, so that an address that is taken is found before anything is loaded.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn bind(config: Config, load: Load, tell: Tell) -> Result<Server> {
        let (listener, address) = listen(config.listen, "--listen")?;
        let (send, events) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Server {
            app: Arc::new(App {
                decoding: Decoding::new(cores, config.queue),
                bodies: Budget::default(),
                config,
                load,
                tell,
                metrics: Arc::default(),
                device: RwLock::default(),
                is_stopping: AtomicBool::new(false),
                reloading: Mutex::default(),
                control: Control(send),
            }),
            listener,
            address,
            #[cfg(feature = "grpc")]
            grpc: None,
            events,
        })
    }

    /// Answers gRPC, too, at an address of its own, which is returned: with port 0 the system chooses the port.
    ///
    /// # Errors
    /// The address cannot be used.
    #[cfg(feature = "grpc")]
    pub fn bind_grpc(&mut self, at: SocketAddr) -> Result<SocketAddr> {
        let (listener, address) = listen(at, "--grpc")?;
        self.grpc = Some(listener);
        Ok(address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn control(&self) -> Control {
        self.app.control.clone()
    }

    /// Loads the network, then answers requests until it is stopped. `ready` is called in between. Threads may
    /// still compute when it returns.
    ///
    /// # Errors
    /// The network cannot be loaded; the device fails.
    pub fn run(self, ready: impl FnOnce(&Device)) -> Result<()> {
        let Server {
            app,
            listener,
            mut events,
            #[cfg(feature = "grpc")]
            grpc,
            ..
        } = self;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(app.decoding.workers().min(HTTP_THREADS))
            // Decoding, and loading networks.
            .max_blocking_threads(app.decoding.workers() + 4)
            .thread_name("http")
            .enable_all()
            .build()
            .context("cannot start the threads of the server")?;
        let ended = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (stop, stopped) = watch::channel(false);
            let router = http::router(Arc::clone(&app));
            let mut serving = JoinSet::new();
            #[cfg(feature = "grpc")]
            if let Some(listener) = grpc {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let router = grpc::router(Arc::clone(&app));
                serving.spawn(grpc::serve(listener, router, stopped.clone()));
            }
            serving.spawn(listener::serve(listener, router, stopped));
            let ended = answer(&app, &mut events, ready).await;
            app.is_stopping.store(true, Relaxed);
            let _ = stop.send(true);
            let most = if ended.is_ok() { DRAIN } else { FAREWELL };
            let served = async { while serving.join_next().await.is_some() {} };
            if tokio::time::timeout(most, served).await.is_err() && ended.is_ok() {
                (app.tell)("some requests were not answered in time to stop");
            }
            ended
        });
        runtime.shutdown_background();
        ended
    }
}

/// Loads the network, and does what events say until one ends the server.
async fn answer(
    app: &Arc<App>,
    events: &mut mpsc::UnboundedReceiver<Event>,
    ready: impl FnOnce(&Device),
) -> Result<()> {
    let opened = async {
        let _alone = app.reloading.lock().await;
        app.open().await
    };
    tokio::pin!(opened);
    // The file changed while it was loaded.
    let mut again = false;
    loop {
        tokio::select! {
            opened = &mut opened => break opened?,
            event = events.recv() => match event {
                Some(Event::Stop) | None => return Ok(()),
                Some(Event::Failed(error)) => return Err(error),
                Some(Event::Reload) => again = true,
            },
        }
    }
    if let Some(device) = app.device() {
        ready(&device);
    }
    if again {
        app.control.reload();
    }
    while let Some(event) = events.recv().await {
        match event {
            Event::Stop => break,
            Event::Failed(error) => return Err(error.context("the device failed")),
            Event::Reload => drop(tokio::spawn(Arc::clone(app).reload_after_others())),
        }
    }
    Ok(())
}
