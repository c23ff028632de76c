//! Import from and export to PyTorch: checkpoints of the reference implementation, and weights of
//! torchvision's networks.
//!
//! - `pickle`: parses a pickle without executing it; `machine` is its stack machine.
//! - `container`: the two file formats of `torch.save`: pickles and the data of tensors.
//! - [`names`]: the reference implementation's names of our tensors.
//! - `import`, `export`: a `.pth` file to a checkpoint; a checkpoint to tensors for PyTorch.

mod container;
mod export;
mod import;
pub mod names;
mod pickle;

pub use self::container::Pth;
pub use self::export::export;
pub use self::import::{Imported, Layout, Momentum, import};
