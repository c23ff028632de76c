//! Checkpoints: everything that a resume or an evaluation needs, in one safetensors file.
//!
//! The tensors are the network's, under its own names, and `momentum/NAME` for the momentum of
//! the parameter `NAME`; of a packed one (see [`packed`]) codes are in the place of quantized
//! weights. The header's `__metadata__` has one key, `rsflow`, whose value is [`Metadata`] as JSON.
//!
//! Writing has two halves. [`Snapshot::take`] copies everything to plain memory, on the thread
//! that trains; [`write_atomically`] takes its time with the disk, on any other thread. Reading
//! takes the header first ([`Checkpoint::open`]), then only the tensors that are asked for;
//! [`Checkpoint::network`] and [`Checkpoint::load`] ask for those of a network.

mod file;
mod load;
mod metadata;
pub mod packed;
mod snapshot;

use safetensors::Dtype;
use tch::Kind;

pub use file::Checkpoint;
pub use metadata::{Best, FORMAT, LossScaleState, Metadata};
pub(crate) use snapshot::is_finite;
pub use snapshot::{Snapshot, write_atomically};

const METADATA_KEY: &str = "rsflow";
/// What stands before the name of a parameter in the name of its momentum.
pub(crate) const MOMENTUM: &str = "momentum/";
/// The bytes before the header: its length, little-endian.
const PREFIX: usize = 8;

/// The kinds of tensors that are written, in the order in which they lie in the file: the widest
/// first, which keeps all of them aligned.
const KINDS: [(Kind, Dtype); 6] = [
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Uint8, Dtype::U8),
];
