//! The way in from PyTorch and back: checkpoints of the reference implementation, and weights of
//! networks with one resolution.
//!
//! - `pickle`: what a pickle says, without executing any of it; its stack machine in `machine`.
//! - `container`: the two formats of `torch.save` around it, and the tensors' bytes.
//! - [`names`]: what the reference implementation calls our tensors.
//! - `import`, `export`: a file of theirs to a checkpoint of ours, and back.

mod container;
mod export;
mod import;
pub mod names;
mod pickle;

pub use self::container::Pth;
pub use self::export::export;
pub use self::import::{Imported, Layout, Momentum, import};
