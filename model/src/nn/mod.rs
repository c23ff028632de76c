//! Networks, without training: layers, parameters, device, precision, and moving images to the
//! device.
//!
//! The lowest floor of this crate. It knows no graph, no recipe, no checkpoint file and no
//! training, so that inference depends on nothing else.
//!
//! - [`parameters`]: the named tensors of a network, their roles and initial values.
//! - [`layers`]: layers as data, their parameters and their forward pass, with private batch norm.
//! - [`networks`]: the network families, one file each: a family is a function that lists its layers.
//! - [`quantizers`]: LQ-Nets' learned quantizers.
//! - [`summary`]: parameters, multiply-adds and bytes, counted from the layers.
//! - [`switchable`]: a network that switches its resolution, and the ensemble of its resolutions.
//! - [`compute`]: the device, the precision and the memory format.
//! - [`kernels`]: our kernels for the CPU and for GPUs.
//! - [`replay`]: passes that are recorded as a CUDA graph and replayed.
//! - [`transfer`]: images from host memory to the device.
//! - `native`: functions of libtorch that tch does not bind.
//! - [`field_error`]: errors in the fields of a recipe's value.

pub mod compute;
pub mod field_error;
pub mod kernels;
pub mod layers;
#[allow(unsafe_code)]
pub(crate) mod native;
pub mod networks;
pub mod parameters;
pub mod quantizers;
pub mod replay;
pub mod summary;
pub mod switchable;
pub mod transfer;
