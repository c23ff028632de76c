//! `rsflow top`.

use std::path::PathBuf;

use clap::Args;

use super::values::path;

/// `rsflow top`.
#[derive(Debug, Args)]
pub struct Top {
    /// The run directory, which may be on a disk that another machine writes to
    #[arg(value_name = "RUN_DIR", value_parser = path())]
    pub run: PathBuf,
    /// Prints one picture as text and ends; so it is where stdout is no terminal
    #[arg(long)]
    pub once: bool,
}
