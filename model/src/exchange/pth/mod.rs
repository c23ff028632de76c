//! Import from and export to PyTorch: checkpoints of the reference implementation, and weights of
//! torchvision's networks.
//!
//! - `pickle`: parses a pickle without executing it; `machine` is its stack machine.
//! - `container`: the file formats: pickles and the data of tensors, safetensors.
//! - `state_dict`: the weights among what else a file holds.
//! - [`names`]: the reference implementation's names of our tensors.
//! - `import`, `momentum`, `export`: a file to a checkpoint; a checkpoint to tensors for PyTorch.
//!
//! A file takes at most 64 times its size of memory, and 64 MB: the objects of a pickle are counted,
//! and tensors are read only if they fit the network.

mod container;
mod export;
mod import;
mod momentum;
pub mod names;
mod pickle;
mod state_dict;

pub use self::container::Pth;
pub use self::export::export;
pub use self::import::{Import, Imported, Layout, Momentum, import};
