//! The commands that write a recipe for some data.

use std::path::PathBuf;

use clap::Args;
use rsflow_model::nn::networks::Network;

use super::Overrides;
use super::values::*;

/// The data, and what the user chooses of its recipe.
#[derive(Clone, Debug, Args)]
pub struct Drafting {
    /// A folder of class folders (DATA/CLASS/IMAGE.jpg), or one with train/ and val/ in it; a tar of such a
    /// folder, or the folder of ImageNet's archives. Two of them: the images to train on, and those to
    /// validate on
    #[arg(required = true, num_args = 1..=2, value_name = "DATA", value_parser = path())]
    pub data: Vec<PathBuf>,
    /// Sizes to train at, in pixels, joined by commas: 64,48 [default: up to five, from the images' shorter side
    /// down]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "S", value_parser = size)]
    pub sizes: Vec<u32>,
    /// The network: resnet18, resnet50, mobilenet_v2 and so on, or as a recipe has it:
    /// 'ResNet(depth: 18, width: 32)' [default: by the number of images and the device]
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub network: Option<String>,
    /// How often all images are trained on [default: by their number and the device]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Where there are no images for validation, this share of each class is held out [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub validation_percent: Option<f64>,
}

/// `rsflow new`.
#[derive(Debug, Args)]
pub struct New {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub drafting: Drafting,
    /// The recipe to write; `-` is stdout [default: NAME.ron for data with this name]
    #[arg(long, value_name = "RECIPE", value_parser = path())]
    pub out: Option<PathBuf>,
    /// Replaces the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// `rsflow train`.
#[derive(Debug, Args)]
#[command(mut_arg("data", |data| data.required(false).required_unless_present("resume")))]
pub struct Train {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub drafting: Drafting,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Where to keep the run's files, with its recipe [default: runs/NAME/START_TIME, where NAME is that of DATA]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub run_dir: Option<PathBuf>,
    /// Trains with N processes on this machine, which share every batch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub processes: Option<u32>,
    /// Resumes a run from its last checkpoint, by its own recipe; DATA may be left out, or is where its images were
    /// moved to [default: the run in --run-dir, else of the runs of DATA (runs/NAME, runs/NAME/... or runs/NAME-...)
    /// the one that saved a checkpoint last]
    #[arg(long, value_name = "RUN_DIR", num_args = 0..=1, value_parser = path())]
    pub resume: Option<Option<PathBuf>>,
    /// With --resume: also where --set changes the recipe
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
}

/// A network as a recipe has it, by another program's name or as it is.
fn network(text: &str) -> Result<String, String> {
    match Network::by_name(text.trim()) {
        Some(network) => Ok(network.to_string()),
        // What is in it, the check of the recipe finds out.
        None if text.contains('(') => Ok(text.trim().to_owned()),
        None => Err(format!(
            "expected one of {}, or as a recipe has it: 'ResNet(depth: 18, width: 32)'",
            Network::NAMES
        )),
    }
}
