//! Checkpoints: the state for a resume or an inference, in one safetensors file.
//!
//! The tensors are those of the network, under their parameter names, and `momentum/NAME`, the
//! momentum buffer of the parameter `NAME`. A packed checkpoint (see [`packed`]) has codes in place
//! of quantized weights. The header's `__metadata__` has one key, `rsflow`, whose value is
//! [`Metadata`] as JSON.
//!
//! Writing has two halves: [`Snapshot::take`] copies everything to host memory on the training
//! thread, [`write_atomically`] writes it to disk on another thread. Reading, [`Checkpoint::open`]
//! reads the header alone; [`Checkpoint::network`] and [`Checkpoint::load`] read the tensors of a
//! network.

mod classes;
mod file;
mod load;
mod metadata;
pub mod packed;
mod snapshot;

use safetensors::Dtype;
use tch::Kind;

pub use classes::{ClassMap, ClassOrder, match_classes};
pub use file::Checkpoint;
pub use metadata::{Best, FORMAT, ImageInput, LossScaleState, Metadata, Row, Validated};
pub(crate) use snapshot::is_finite;
pub use snapshot::{Snapshot, write_atomically};

const METADATA_KEY: &str = "rsflow";
/// Prefix of the name of a parameter's momentum buffer.
pub(crate) const MOMENTUM_PREFIX: &str = "momentum/";
/// The file begins with the length of the header, u64 little-endian.
const LENGTH_BYTES: usize = 8;

/// The dtypes of tensors in a checkpoint, in the order of the file: the widest first, so that all
/// tensors are aligned.
const DTYPES: [(Kind, Dtype); 6] = [
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Uint8, Dtype::U8),
];
