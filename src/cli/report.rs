//! `rsflow report`.

use std::path::PathBuf;

use clap::Args;

use super::values::path;

/// `rsflow report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Run directories, or folders of them. Several are shown beside each other, and their recipes are
    /// compared with the first one's
    #[arg(required = true, value_name = "RUN", value_parser = path())]
    pub runs: Vec<PathBuf>,
    /// The page to write; `-` is stdout [default: report.html in the run directory; of several runs, in the
    /// current folder]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub out: Option<PathBuf>,
    /// What `rsflow eval --predictions` wrote of the run [default: predictions.csv in the run directory, else
    /// the newest of predictions/*.csv, which `rsflow compare` writes there]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub predictions: Option<PathBuf>,
    /// What `rsflow eval --latency --json` wrote of the run [default: latency.json in the run directory]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub latency: Option<PathBuf>,
    /// What `rsflow profile --json` wrote of its recipe [default: profile.json in the run directory, else what
    /// the run measured of itself]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub profile: Option<PathBuf>,
    /// Where the pictures of mistakes are read: the images that the predictions were made of, as `rsflow eval
    /// --data` takes them [default: the images of the run's recipe]
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub data: Option<PathBuf>,
    /// Replaces the file of --out even if it is no report
    #[arg(long)]
    pub force: bool,
}
