//! A server with a network that only sleeps, whose device tests can stop or break.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rsflow_pipeline::preprocess::{PreprocessError, pixels_at};
use rsflow_serve::server::device::{At, Network};
use rsflow_serve::server::{Config, Control, Server};
use rsflow_serve::{Images, Prediction};

use crate::client::{begin, get};

/// What tests do to the device.
#[derive(Default)]
pub struct Switches {
    /// While it is closed, batches do not end.
    pub is_closed: Mutex<bool>,
    opened: Condvar,
    pub fails: AtomicBool,
    /// Images computed after the warm-up, and batches begun.
    pub images: AtomicUsize,
    pub batches: AtomicUsize,
}

impl Switches {
    pub fn close(&self, closed: bool) {
        *self.is_closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }

    pub fn reset(&self) {
        self.images.store(0, SeqCst);
        self.batches.store(0, SeqCst);
    }
}

/// Its logits are an image's first byte and its size. A byte of 13 has no logits.
struct Sleeper {
    classes: Vec<String>,
    image: Duration,
    switches: Arc<Switches>,
}

impl Network for Sleeper {
    fn sizes(&self) -> Vec<u32> {
        vec![64, 32]
    }

    fn ensemble(&self) -> Vec<u32> {
        Vec::new()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn source(&self) -> String {
        "sleeper\u{1b}[31m".to_owned()
    }

    fn pixels(&self, file: &[u8], sizes: &[u32]) -> Result<Vec<Vec<u8>>, PreprocessError> {
        match file {
            [b'#', first] => {
                let pixels = sizes
                    .iter()
                    .map(|&size| vec![*first; 3 * (size * size) as usize]);
                Ok(pixels.collect())
            }
            file => pixels_at(&rsflow_graph::Preprocess::default(), file, sizes),
        }
    }

    fn top(&self, logits: &[f32], top: usize) -> Vec<Prediction> {
        let all = logits.iter().enumerate().take(top);
        all.map(|(index, logit)| Prediction {
            class: self.classes[index].clone(),
            index,
            probability: f64::from(*logit),
        })
        .collect()
    }

    fn logits(&self, at: At, images: &[Images<'_>]) -> Result<Vec<f32>> {
        let At::Size(size) = at else {
            bail!("there is no ensemble")
        };
        let count = images[0].count(size)?;
        self.switches.batches.fetch_add(1, SeqCst);
        let closed = self.switches.is_closed.lock().unwrap();
        drop(
            self.switches
                .opened
                .wait_while(closed, |closed| *closed)
                .unwrap(),
        );
        if self.switches.fails.load(SeqCst) {
            bail!("CUDA error: an illegal memory access was encountered");
        }
        thread::sleep(self.image * count as u32 * size / 64);
        self.switches.images.fetch_add(count, SeqCst);
        let firsts: Vec<f32> = match images[0] {
            Images::Bytes(bytes) => bytes
                .chunks(bytes.len() / count)
                .map(|image| image[0].into())
                .collect(),
            Images::Normalized(values) => values
                .chunks(values.len() / count)
                .map(|image| image[0])
                .collect(),
        };
        if firsts.contains(&13.0) {
            bail!("the outputs are not finite");
        }
        Ok(firsts
            .into_iter()
            .flat_map(|first| [first, size as f32])
            .collect())
    }
}

pub struct Running {
    pub address: SocketAddr,
    #[cfg(feature = "grpc")]
    pub grpc: SocketAddr,
    pub control: Control,
    pub switches: Arc<Switches>,
    pub said: Arc<Mutex<Vec<String>>>,
    pub server: JoinHandle<Result<()>>,
}

pub fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        name: "sleeper".to_owned(),
        deadline: Duration::from_secs(60),
        switching: true,
        floor: None,
        max_batch: 4,
        queue: 8,
    }
}

/// A server, and what its network obeys.
fn bind(config: Config, image: Duration) -> (Server, Arc<Switches>, Arc<Mutex<Vec<String>>>) {
    let switches = Arc::new(Switches::default());
    let of_load = Arc::clone(&switches);
    let load = move || {
        Ok(Box::new(Sleeper {
            classes: vec!["byte".to_owned(), "size".to_owned()],
            image,
            switches: Arc::clone(&of_load),
        }) as Box<dyn Network>)
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let of_tell = Arc::clone(&said);
    let tell = Arc::new(move |line: &str| of_tell.lock().unwrap().push(line.to_owned()));
    let server = Server::bind(config, Arc::new(load), tell).unwrap();
    (server, switches, said)
}

/// Why it does not start; it is stopped if it does.
pub fn attempt(config: Config, image: Duration) -> Result<()> {
    let (server, ..) = bind(config, image);
    let control = server.control();
    server.run(|_| control.stop())
}

/// A server that is ready.
pub fn start(config: Config, image: Duration) -> Running {
    #[allow(unused_mut, reason = "gRPC has an address of its own")]
    let (mut server, switches, said) = bind(config, image);
    let (address, control) = (server.address(), server.control());
    #[cfg(feature = "grpc")]
    let grpc = server.bind_grpc("127.0.0.1:0".parse().unwrap()).unwrap();
    let (ready, wait) = mpsc::channel();
    let server = thread::spawn(move || server.run(|_| ready.send(()).unwrap()));
    wait.recv().unwrap();
    switches.reset();
    Running {
        address,
        #[cfg(feature = "grpc")]
        grpc,
        control,
        switches,
        said,
        server,
    }
}

impl Running {
    pub fn stop(self) {
        self.control.stop();
        self.server.join().unwrap().unwrap();
    }

    /// An image whose first byte is `first`.
    pub fn image(&self, query: &str, first: u8) -> TcpStream {
        begin(
            self.address,
            "POST",
            &format!("/v1/classify?{query}"),
            &[],
            &[b'#', first],
        )
    }

    /// The device is closed, and has begun a batch.
    pub fn close_with_one(&self) -> TcpStream {
        self.switches.close(true);
        let first = self.image("", 1);
        until(|| self.switches.batches.load(SeqCst) == 1);
        first
    }

    pub fn waiting(&self) -> u64 {
        get(self.address, "/v1/status").json()["waiting"]
            .as_u64()
            .unwrap()
    }
}

/// Waits for something that will happen.
pub fn until(so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it does not happen"
        );
        thread::sleep(Duration::from_millis(2));
    }
}
