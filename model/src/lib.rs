//! Networks and their training: everything that touches libtorch.
//!
//! Three floors; what is on one uses those below it, never those above (a test holds this):
//!
//! 1. [`nn`]: the network at rest, its device and its numbers.
//! 2. [`checkpoint`]: all of it in a file, and back. On it [`exchange`], other programs' files, and
//!    [`runtime`], a loaded network that answers. Beside it [`dist`], the processes of a run.
//! 3. [`train`]: the nodes that train and measure; [`sinks`]: the nodes that write what they report.
//!
//! Nothing here panics on what a user gives: tch's plain operators do, so only its `f_` functions,
//! which return a `Result`, are used.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod dist;
pub mod exchange;
pub mod nn;
pub mod runtime;
pub mod sinks;
pub mod train;
