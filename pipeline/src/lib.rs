//! Data nodes: list, read, decode, crop, resize, batch. Never links libtorch.
//!
//! - [`nodes`]: one kind, one file.
//! - [`images`]: what travels between them.
//! - [`pixels`]: headers, decoding, crop geometry, resizing, as functions that know no graph.
//! - `listing`: what a folder or an archive holds, and where.
//! - [`imagenet`]: ImageNet's validation images into class folders.
//! - [`shapes`]: the generated image set of the quickstart.

mod files;
pub mod imagenet;
pub mod images;
mod listing;
pub mod nodes;
pub mod pixels;
pub mod shapes;
