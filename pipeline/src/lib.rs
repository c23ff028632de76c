//! Data nodes.

pub mod pixels;
pub mod shapes;
