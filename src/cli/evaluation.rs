//! The commands that measure and use trained networks.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rsflow_graph::Budget;
use rsflow_model::checkpoint::{ClassOrder, Weights};
use rsflow_model::nn::compute::{DeviceChoice, Precision};

use super::values::*;

/// A trained network, named with or without its option.
#[derive(Clone, Debug, Args)]
pub struct Trained {
    /// The checkpoint, or a run directory for its best one
    #[arg(value_name = "CHECKPOINT", required_unless_present = "checkpoint", value_parser = path())]
    named: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "named", value_parser = path())]
    checkpoint: Option<PathBuf>,
}

impl Trained {
    /// A checkpoint, or a run directory.
    pub fn path(&self) -> &Path {
        let either = self.named.as_deref().or(self.checkpoint.as_deref());
        either.unwrap_or(Path::new("")) // One of them is required.
    }
}

/// `rsflow eval`.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trained: Trained,
    /// A folder with val/ (and train/, for --calibrate) in it or one that holds the class folders, a tar
    /// of such a folder, or the folder of ImageNet's archives [default: the images that the checkpoint's
    /// run was validated on]
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub data: Option<PathBuf>,
    /// The order of class folders for a network whose class names are not known: text (0, 1, 10, 2), as
    /// torchvision sorts them, or numeric (0, 1, 2, 10). Known classes are matched by name
    #[arg(long, value_name = "ORDER", default_value = "text", value_parser = class_order)]
    pub class_order: ClassOrder,
    /// Sizes to evaluate at, in pixels [default: those that it was trained at]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "S", value_parser = size)]
    pub sizes: Vec<u32>,
    /// Runs a size with the batch norms of another resolution, of the nearest one (nearest), or with
    /// batch norms interpolated between those of the next resolutions below and above (lerp)
    /// [default: the size's own, or lerp]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "SIZE=RESOLUTION", value_parser = size_and_norm)]
    pub batch_norm: Vec<(u32, NormChoice)>,
    /// Measures every size with the batch norms of every resolution, and with interpolated ones where
    /// the size was not trained, in place of the ensemble. --batch-norm then only says what --calibrate
    /// starts with
    #[arg(long)]
    pub matrix: bool,
    /// Writes what was predicted of each image as CSV: a row for each image, with its class and, for each
    /// size, the predicted class and its probability. `rsflow compare` reads such files
    #[arg(long, value_name = "FILE", value_parser = path(), conflicts_with = "matrix")]
    pub predictions: Option<PathBuf>,
    /// Measures latency and throughput at every size, too: of one image alone, and of the batch with the
    /// most images a second, from pixels to logits. Let nothing else run
    #[arg(long, conflicts_with = "matrix")]
    pub latency: bool,
    /// Draws top-1 against multiply-adds and against latency, as SVG. For the paper's networks on ImageNet its
    /// published points are there, too
    #[arg(long, value_name = "FILE.svg", requires = "latency", value_parser = path())]
    pub plot: Option<PathBuf>,
    /// Measures batch norm statistics for the sizes that were not trained, on N training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub calibrate: Option<u64>,
    /// The training images, in what --data takes [default: train/ beside val/]
    #[arg(long, value_name = "PATH", requires = "calibrate", value_parser = path())]
    pub calibration_data: Option<PathBuf>,
    /// Seed of the images that --calibrate draws, and of their crops
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Writes the checkpoint with the calibrated batch norms in it
    #[arg(long, value_name = "FILE", requires = "calibrate", value_parser = path())]
    pub store: Option<PathBuf>,
    /// Replaces the files of --store, --predictions, --plot and --json if they exist
    #[arg(long)]
    pub force: bool,
    /// The share of an image's short side that is kept [default: as in the training's validation]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    /// Passes over up to so many damaged images, a number or a share of all such as 0.01, and lists them
    /// [default: as in the training's validation]
    #[arg(long, value_name = "N", value_parser = budget)]
    pub skip: Option<Budget>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Threads that libtorch computes with on the CPU [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Device and precision.
    #[command(flatten)]
    pub compute: Computing,
    /// Writes the table as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
}

/// `rsflow compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// Run directories, folders of them, files of `rsflow eval --predictions`, or several of these joined
    /// by + : networks of single sizes in place of one that has them all. The first is what the others
    /// are compared with
    #[arg(required = true, value_name = "RUN", value_parser = path())]
    pub runs: Vec<PathBuf>,
    /// Which checkpoint of each run. The best is chosen on the images that it is measured on here, which
    /// favours runs with many validations
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    /// Writes the comparison as JSON; `-` is stdout, in place of the text
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the file of --json if it exists
    #[arg(long)]
    pub force: bool,
}

/// One of the checkpoints that every run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// That of its end
    Last,
    /// That of its best validation
    Best,
}

/// What is read of a checkpoint, and how much of it is checked.
#[derive(Clone, Debug, Args)]
pub struct Opening {
    /// Which of the checkpoint's weights, if its run kept an average of them: trained or average
    /// [default: average]
    #[arg(long, value_name = "WEIGHTS", value_parser = weights)]
    pub weights: Option<Weights>,
    /// First reads all of the checkpoint and checks it: every tensor, those that are not needed here
    /// too, must have its checksum (not in files from before there were any), its shape and finite
    /// values
    #[arg(long)]
    pub verify: bool,
}

/// Device and precision.
#[derive(Clone, Debug, Args)]
pub struct Computing {
    /// Where to compute: auto, cpu, cuda, or cuda:1 for another GPU than the first
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// Precision of convolutions and classifier: auto, float32, tf32, bfloat16 or float16; auto is
    /// float32 for a network that was trained in it
    #[arg(long, value_name = "PRECISION", default_value = "auto", value_parser = precision)]
    pub precision: Precision,
}

/// `rsflow predict`.
#[derive(Debug, Args)]
pub struct Predict {
    /// The checkpoint, or a run directory for its best one [default: what is named before the images]
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub checkpoint: Option<PathBuf>,
    /// Resolution of the input, in pixels [default: the largest that was trained]
    #[arg(long, value_name = "S", value_parser = one_size)]
    pub size: Option<u32>,
    /// The resolution whose batch norms are used, nearest, or lerp: interpolated between those of the next
    /// resolutions below and above [default: the size's own, or lerp]
    #[arg(long, value_name = "RESOLUTION", value_parser = norm)]
    pub batch_norm: Option<NormChoice>,
    /// How many classes to print for each image
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub top: u64,
    /// The share of an image's short side that is kept [default: as in the training's validation]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Device and precision.
    #[command(flatten)]
    pub compute: Computing,
    /// Writes the predictions as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the file of --json if it exists
    #[arg(long)]
    pub force: bool,
    /// The images; a folder for all images in it and its subfolders, `-` for one from stdin. Without
    /// --checkpoint a run directory or a checkpoint comes first
    #[arg(required = true, value_name = "IMAGE", value_parser = path())]
    pub images: Vec<PathBuf>,
}
