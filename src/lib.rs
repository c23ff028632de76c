//! The `rsflow` command, as a library so that tests can call its parts.
//!
//! [`cli`] defines the command line, `commands` has one file per subcommand, [`catalogue`] lists the
//! kinds of node that recipes may use. Effects on the process as a whole are `process`'s alone.

#![deny(unsafe_code)]

pub mod catalogue;
pub mod cli;
mod commands;
mod epoch_line;
mod figures;
mod files;
mod gpu;
mod launch;
mod measure;
mod next_commands;
mod now;
mod plot;
mod process;
mod program_log;
mod progress;
mod run_dir;
mod run_log;
mod skipped;
mod table;
mod verdict;

pub use commands::{execute, parse};
