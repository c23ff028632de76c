//! `rsflow runs`.

use std::path::PathBuf;

use clap::Args;

use super::values::path;

/// `rsflow runs`.
#[derive(Debug, Args)]
pub struct Runs {
    /// The folder that is searched for run directories
    #[arg(default_value = "runs", value_parser = path())]
    pub folder: PathBuf,
    /// Writes the list as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the file of --json if it exists
    #[arg(long)]
    pub force: bool,
}
