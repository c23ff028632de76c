//! Networks from other programs' files, and files for other programs.

pub mod pth;
