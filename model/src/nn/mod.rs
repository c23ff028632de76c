//! The network at rest: what it is made of, where it computes, and how tensors get there.
//!
//! The lowest floor of this crate. It knows no graph, no recipe, no checkpoint file and no training,
//! so that whatever runs a network stands on it alone.
//!
//! - [`parameters`]: the named tensors of a network, their roles and first values.
//! - [`layers`]: what networks are made of, private batch norm among it, and the pass through it.
//! - [`networks`]: the families, one file each: a family is a function that lists its layers.
//! - [`quantizers`]: LQ-Nets' learned quantizers.
//! - [`summary`]: what a network costs, counted from its layers.
//! - [`rs_net`]: a network that switches its resolution, and the ensemble of its resolutions.
//! - [`compute`]: the device, the precision and the memory format.
//! - [`transfer`]: images onto the device.
//! - `native`: the kernels of libtorch that tch does not bind.
//! - [`fault`]: what is wrong with a value of a network's description.

pub mod compute;
pub mod fault;
pub mod layers;
#[allow(unsafe_code)]
pub(crate) mod native;
pub mod networks;
pub mod parameters;
pub mod quantizers;
pub mod rs_net;
pub mod summary;
pub mod transfer;
