//! Data nodes: list, read, decode, crop, resize, batch. Does not depend on libtorch.
//!
//! - [`nodes`]: the node kinds, one per file.
//! - [`images`]: the item types between nodes.
//! - [`preprocess`]: applies a description of preprocessing to images.
//! - [`pixels`]: headers, decoding, crop geometry and resizing, independent of the graph.
//! - `listing`: the images of a folder or an archive.
//! - [`imagenet`]: sorts ImageNet's validation images into class folders.
//! - [`shapes`]: the generated image set of the quickstart.
//! - [`survey`]: what a data set holds, before anything is trained on it.

mod files;
pub mod imagenet;
pub mod images;
mod listing;
pub mod nodes;
pub mod pixels;
pub mod preprocess;
pub mod shapes;
pub mod survey;

pub use files::{MAX_IMAGE_BYTES, is_hidden, is_image};
pub use listing::{Part, PassedOver, images_in};
