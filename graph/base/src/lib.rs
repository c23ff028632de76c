//! What all crates share and would otherwise write several times.
//!
//! - [`disk`]: the system calls by which a run changes its files.
//! - [`whole_file`]: files that are complete or absent.
//! - [`run_files`]: the names of what a run directory holds.
//! - [`shown`]: text from outside as it is printed.
//! - [`keyed`]: random generators whose numbers follow from a key.

pub mod disk;
pub mod keyed;
pub mod run_files;
pub mod shown;
pub mod whole_file;
