//! What all crates share and would otherwise write several times.
//!
//! - [`disk`]: the system calls by which a run changes its files.
//! - [`whole_file`]: files that are complete or absent.
//! - [`run_files`]: the names of what a run directory holds.
//! - [`shown`]: text from outside as it is printed.
//! - [`keyed`]: random generators whose numbers follow from a key.
//! - [`input_file`]: files that a user names, read up to a limit.
//! - [`home`]: `~` in paths.
//! - [`nfc`]: names that look the same.

pub mod disk;
pub mod home;
pub mod input_file;
pub mod keyed;
pub mod nfc;
pub mod run_files;
pub mod shown;
pub mod whole_file;
