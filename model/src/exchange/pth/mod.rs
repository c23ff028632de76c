//! Import from and export to PyTorch: checkpoints of the reference implementation, and weights of
//! torchvision's and timm's networks.
//!
//! - `pickle`: parses a pickle without executing it; `machine` is its stack machine.
//! - `container`: the file formats: pickles and the data of tensors, safetensors.
//! - `state_dict`: the weights among what else a file holds.
//! - [`names`]: the names of our tensors in other programs.
//! - `fit`: what a network expects of a file; `misfit`: what to do with one that does not fit.
//! - `images`: how images are made for a network, as timm's configuration says it.
//! - `import`, `momentum`, `export`: a file to a checkpoint; a checkpoint to tensors for PyTorch.
//!
//! A file takes at most 64 times its size of memory, and 64 MB: the objects of a pickle are counted,
//! and tensors are read only if they fit the network.

mod container;
mod export;
mod fit;
mod images;
mod import;
mod misfit;
mod momentum;
pub mod names;
mod pickle;
mod state_dict;

pub use self::container::Pth;
pub use self::export::{Names, export};
pub use self::images::ImageConfig;
pub use self::import::{ImagesFrom, Import, Imported, Layout, Momentum, import};
