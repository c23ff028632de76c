//! A trained RS-Net at run time: one loaded network that answers at any of its resolutions.
//!
//! - [`RsNet`]: the library. Image files in, classes out, at a size or within a budget.
//! - [`latency`]: how long passes take on this machine.
//! - [`load`]: requests at given times, and what became of them (feature `http`).
//! - [`server`]: the same over HTTP, where the load decides about the size (feature `http`, on by default), and over
//!   gRPC (feature `grpc`).
//!
//! ```no_run
//! use rsflow_serve::{Budget, Options, RsNet};
//!
//! # fn main() -> anyhow::Result<()> {
//! let net = RsNet::open("runs/mine/checkpoints/best.safetensors", &Options::default())?;
//! let photo = std::fs::read("photo.jpg")?;
//! let best = net.classify(&photo, Budget::Milliseconds(20.0), 5)?;
//! let (class, size) = (&best.predictions[0].class, best.size);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod latency;
#[cfg(feature = "http")]
pub mod load;
mod rs_net;
#[cfg(feature = "http")]
pub mod server;

pub use rs_net::{Answer, Budget, Options, RsNet};
pub use rsflow_model::runtime::{Folding, Images, Prediction, Runtime};
