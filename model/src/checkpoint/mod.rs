//! Checkpoints: the state for a resume or an inference, in one safetensors file.
//!
//! The tensors are those of the network, under their parameter names, `momentum/NAME`, the optimizer's
//! mean of the gradients of the parameter `NAME`, and `variance/NAME`, that of their squares; and
//! `average/NAME`, the moving average of the network's tensor `NAME`, where the run kept one. A packed
//! checkpoint (see [`packed`]) has codes in place of quantized weights. The key `rsflow` of the header's `__metadata__` holds [`Metadata`] as JSON,
//! two further ones hold checksums; see [`tensor_file`].
//!
//! Writing has two halves: [`Snapshot::take`] copies everything to host memory on the training
//! thread, [`write_atomically`] writes it to disk on another thread. Reading, [`Checkpoint::open`]
//! reads the header alone; [`Checkpoint::network`] and [`Checkpoint::load`] read the tensors of a
//! network. A tensor is read only if the header says that it has the shape that the network needs,
//! and nothing is allocated for a network before. What is read is checked: checksums, finite values,
//! variances. [`Checkpoint::verify`] checks all of a file.

mod best;
mod classes;
mod file;
mod load;
mod metadata;
mod norms_from;
pub mod packed;
mod snapshot;
mod tensor_file;
mod values;
mod verify;

use std::fmt;

use safetensors::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

pub use best::{Best, BestBy};
pub use classes::{ClassMap, ClassOrder, match_classes};
pub use file::Checkpoint;
pub use metadata::{FORMAT, ImageInput, LossScaleState, Metadata, Row, TrainingSums, Validated};
pub use norms_from::NormsFrom;
pub use snapshot::{Snapshot, write_atomically};
pub(crate) use tensor_file::{TensorFile, kind_of};
pub(crate) use values::{check as check_values, is_finite};

pub(crate) const METADATA_KEY: &str = "rsflow";
/// Why finite weights may have outputs that are not, and what to do.
pub(crate) const OVERFLOW: &str = "its weights are too large for the precision that it computes \
                                   in; try `--precision float32`, or use another checkpoint";
/// Prefix of the name of a parameter's momentum buffer.
pub(crate) const MOMENTUM_PREFIX: &str = "momentum/";
/// Prefix of the name of the mean of a parameter's squared gradients.
pub(crate) const VARIANCE_PREFIX: &str = "variance/";

/// Prefix of the name of a tensor of the network whose weights are a moving average.
pub(crate) const AVERAGE_PREFIX: &str = "average/";

/// Which of a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Weights {
    /// Those that were trained.
    Trained,
    /// Their moving average.
    Average,
}

impl Weights {
    /// What the names of its tensors begin with in a checkpoint.
    fn prefix(self) -> &'static str {
        match self {
            Weights::Trained => "",
            Weights::Average => AVERAGE_PREFIX,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Weights::Trained => "trained",
            Weights::Average => "average",
        })
    }
}

/// The state of an optimizer.
#[derive(Debug, Default)]
pub struct OptimizerState {
    /// By parameter name; empty if there are none.
    pub momentum: Vec<(String, Tensor)>,
    /// The same of the means of squared gradients.
    pub variance: Vec<(String, Tensor)>,
    /// Updates so far, where the rule depends on it.
    pub updates: u64,
}

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
