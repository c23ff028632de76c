//! `rsflow man`.

use std::path::PathBuf;

use clap::Args;

use super::values::path;

/// `rsflow man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder for the pages rsflow.1, rsflow-run.1 and so on; it is made, and pages there are replaced
    /// [default: the page of rsflow, on stdout]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub out: Option<PathBuf>,
}
