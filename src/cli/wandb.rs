//! `rsflow wandb`.

use std::path::PathBuf;

use clap::Args;

use super::values::path;

/// `rsflow wandb`.
#[derive(Debug, Args)]
pub struct Wandb {
    /// Run directories, or folders of them; a run may be running
    #[arg(required = true, value_name = "RUN_DIR", value_parser = path())]
    pub runs: Vec<PathBuf>,
    /// The folder for the folders offline-run-DATE_TIME-ID; it is made
    #[arg(long, value_name = "DIR", default_value = "wandb", value_parser = path())]
    pub out: PathBuf,
}
