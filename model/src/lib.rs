//! Networks and their training: everything that touches libtorch.
//!
//! The map, from the inside out:
//!
//! - [`parameters`]: the named tensors of a network, their roles and first values.
//! - [`layers`]: what networks are made of, private batch norm among it, and the pass through it.
//! - [`networks`]: the families, one file each: a family is a function that lists its layers.
//! - [`summary`]: what a network costs, counted from its layers.
//! - [`rs_net`]: a network that switches its resolution, and the ensemble of its resolutions.
//! - [`distillation`]: the loss, with the ensemble and the larger resolutions as teachers.
//! - [`optimizer`], [`schedule`]: how a gradient moves the weights, and how far.
//! - [`loss_scale`]: what float16 needs besides.
//! - `native`: the kernels of libtorch that tch does not bind, and how memory is kept.
//! - [`compute`]: the device, the precision, and how numbers lie in memory.
//! - [`fault`]: what can be wrong with their values in a recipe.
//! - [`checkpoint`]: all of it in a file, and back; [`pth`]: from PyTorch's files and back;
//!   [`whole_file`]: how files are written that are complete or absent.
//! - [`step`]: one training step, from images to moved weights.
//! - [`feed`]: images onto the device; [`validation`]: how good a network is; [`predictor`]: what it
//!   takes single images for.
//! - [`trainer`]: the node that trains; [`evaluator`]: the one that only measures; [`metrics`]: what
//!   they say; [`sinks`]: the nodes that keep it.
//!
//! Nothing here panics on what a user gives: tch's plain operators do, so only its `f_` functions,
//! which return a `Result`, are used.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod compute;
pub mod distillation;
pub mod evaluator;
pub mod fault;
pub mod feed;
pub mod layers;
pub mod loss_scale;
pub mod metrics;
#[allow(unsafe_code)]
mod native;
pub mod networks;
pub mod optimizer;
pub mod parameters;
pub mod predictor;
pub mod pth;
pub mod quantizers;
pub mod rs_net;
pub mod schedule;
pub mod sinks;
pub mod step;
pub mod summary;
pub mod trainer;
pub mod validation;
pub mod whole_file;
