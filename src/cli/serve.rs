//! `rsflow serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::evaluation::{Computing, Opening, Trained};
use super::values::*;

/// `rsflow serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trained: Trained,
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Where to answer gRPC, too: the Open Inference Protocol (v2), without TLS; port 0 takes a free one, which is
    /// printed
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub grpc: Option<SocketAddr>,
    /// Sizes that requests can be computed at, in pixels [default: those that it was trained at]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "S")]
    pub sizes: Vec<u32>,
    /// The deadline of requests that name none, in milliseconds from a request's last byte
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub deadline_ms: u64,
    /// How requests get a size that name none
    #[arg(long, value_enum, value_name = "RULE", default_value_t = Switch::Auto)]
    pub switch: Switch,
    /// The smallest size that they get [default: the smallest of all]
    #[arg(long, value_name = "S")]
    pub floor: Option<u32>,
    /// The most images in a batch. A size gets smaller ones if such a batch takes more than half of the
    /// deadline
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_batch: u32,
    /// The most images that wait; more are refused. Each takes the memory of its pixels at all sizes (0.4 MB
    /// for those from 224 to 96)
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue: u32,
    /// The name of the model in requests
    #[arg(long, default_value = "rs-net", value_parser = model_name)]
    pub name: String,
    /// Runs a size with the batch norms of another resolution, of the nearest one (nearest), or with
    /// batch norms interpolated between those of the next resolutions below and above (lerp)
    /// [default: the size's own, or lerp]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "SIZE=RESOLUTION", value_parser = size_and_norm)]
    pub batch_norm: Vec<(u32, NormChoice)>,
    /// The share of an image's short side that is kept [default: as in the training's validation]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    /// Threads that libtorch computes with on the CPU [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Device and precision.
    #[command(flatten)]
    pub compute: Computing,
}

/// How requests get a size that name none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// The largest with which all that waits is answered by its deadline
    Auto,
    /// Always the largest
    Off,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().into_iter().flatten();
    found
        .next()
        .ok_or_else(|| "expected ADDRESS:PORT, such as 127.0.0.1:8080 or 0.0.0.0:80".to_owned())
}

fn model_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !text.is_empty() && text.len() <= 200 && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits, `-`, `_` and `.`".to_owned()),
    }
}

/// `rsflow bench --serve`.
#[derive(Debug, Args)]
pub struct Load {
    /// Measures a server in place of a recipe: sends images at a rate that does not depend on the answers
    #[arg(long, value_name = "URL", requires = "images")]
    pub serve: Option<String>,
    /// The images that are sent, in class folders if top-1 is to be counted
    #[arg(long, value_name = "DIR", requires = "serve", value_parser = path())]
    pub images: Option<PathBuf>,
    /// Requests a second, one row of the table for each
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "R", requires = "serve", value_parser = positive)]
    pub rate: Vec<f64>,
    /// The same as multiples of what the server can compute at its largest size
    /// [default: 0.5,1,2,3,4]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "X", requires = "serve", conflicts_with = "rate", value_parser = positive)]
    pub times_capacity: Vec<f64>,
    /// Times at which requests are sent, in seconds, one a line
    #[arg(long, value_name = "FILE", requires = "serve", conflicts_with_all = ["rate", "times_capacity"], value_parser = path())]
    pub trace: Option<PathBuf>,
    /// The rate is that share higher in every other second, and lower in between: 0 to 1
    #[arg(long, value_name = "F", default_value_t = 0.0, requires = "serve", value_parser = share)]
    pub bursts: f64,
    /// The deadline of the requests, in milliseconds [default: the server's]
    #[arg(long, value_name = "MS", requires = "serve", value_parser = positive)]
    pub deadline_ms: Option<f64>,
    /// The size of the requests: auto, ensemble or pixels
    #[arg(long, value_name = "S", default_value = "auto", requires = "serve")]
    pub size: String,
    /// The most connections at a time
    #[arg(long, value_name = "N", default_value_t = 256, requires = "serve", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Seed of the times and of the order of the images
    #[arg(long, value_name = "N", default_value_t = 0, requires = "serve")]
    pub seed: u64,
    /// Draws goodput, latency and top-1 against the rate, as SVG
    #[arg(long, value_name = "FILE.svg", requires = "serve", value_parser = path())]
    pub plot: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value: &f64| *value > 0.0 && value.is_finite());
    value.ok_or_else(|| "must be a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}
