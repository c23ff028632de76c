//! Import from other programs' files, and export to them.

pub mod onnx;
pub mod pth;
pub mod single;
pub mod torchscript;
