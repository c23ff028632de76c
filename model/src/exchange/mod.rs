//! Import from other programs' files, and export to them.

pub mod pth;
