//! `rsflow serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::evaluation::{Computing, Opening};
use super::values::*;

/// `rsflow serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// The checkpoint, or a run directory for its best one
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub checkpoint: PathBuf,
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
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
