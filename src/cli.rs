//! What can be typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use rsflow_model::nn::compute::{DeviceChoice, Precision};

/// Trains and runs resolution switchable networks: one network that can be switched between input
/// resolutions at run time.
///
/// A recipe (a RON file) declares a graph of nodes: files are read, decoded, cropped and resized
/// to every size in parallel, batches of all sizes feed the trainer, sinks keep what it says.
#[derive(Debug, Parser)]
#[command(name = "rsflow", version, after_help = MAIN_EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const MAIN_EXAMPLES: &str = "\
Examples:
  rsflow run recipes/quickstart.ron            train on a small generated image set
  rsflow check recipes/*.ron                   find every mistake without touching data
  rsflow profile recipes/quickstart.ron        where the time goes, and what to turn
  rsflow eval --checkpoint best.safetensors --data data/imagenette --sizes 128 96
  rsflow predict --checkpoint best.safetensors --size 96 cat.jpg
  rsflow nodes RandomResizedCrop               what a node does, and its parameters
  rsflow graph recipes/resnet50_kd.ron --format svg > graph.svg
  rsflow bench recipes/resnet50_kd.ron --only step  how fast a training step is here
  rsflow doctor                                what this machine offers, and what is missing

Exit codes: 0 done, 1 the run failed, 2 the recipe or the command line is wrong, 130 interrupted";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: train, validate after every epoch, keep checkpoints and metrics
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Check recipes without opening data or devices; every problem is reported
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Measure a checkpoint, at the sizes it was trained at or any others
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Tell the classes of images, at one size
    #[command(after_help = PREDICT_EXAMPLES)]
    Predict(Predict),
    /// Read a checkpoint or weights that PyTorch wrote
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Write a checkpoint for other programs
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Draw a recipe's graph
    #[command(after_help = GRAPH_EXAMPLES)]
    Graph(Graph),
    /// Count the parameters and multiply-adds of a recipe's network, without opening its data
    #[command(after_help = SUMMARY_EXAMPLES)]
    Summary(Summary),
    /// Tell where the time goes, node by node, and what the bottleneck is
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile(Profile),
    /// Measure how fast a recipe's steps, inference and data are on this machine
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Tell what this machine offers: libtorch, GPUs, the processor, and what is missing
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// List the kinds of node, or show one with its ports and parameters
    #[command(after_help = NODES_EXAMPLES)]
    Nodes {
        /// A kind, such as `Resize`; all of them if left out
        kind: Option<String>,
    },
    /// Put ImageNet's validation images, which come in one folder, into class folders
    #[command(after_help = PREPARE_VAL_EXAMPLES)]
    PrepareVal(PrepareVal),
}

const RUN_EXAMPLES: &str = "\
Examples:
  rsflow run recipes/quickstart.ron
  rsflow run recipes/imagenette_resnet18.ron --set trainer.epochs=3 --set train_batches.size=32
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine --resume
  rsflow run changed.ron --run-dir runs/mine --resume --accept-changes

A run directory holds recipe.ron (overrides applied), metrics.jsonl, tensorboard/, run.log and
checkpoints/ (last, best and epoch-NNN.safetensors). Ctrl-C finishes the current step, writes a
checkpoint and ends; --resume continues from there, exactly. A second Ctrl-C ends at once.
The environment variable RSFLOW_LOG says how much run.log has: RSFLOW_LOG=debug, or of one part
RSFLOW_LOG=info,rsflow_model=debug; info if it is not set.

A resume with another recipe says what differs, field by field, and ends before anything is
written; --accept-changes resumes with the new one. In mid-epoch the seed and the number of steps
must stay.";

const EVAL_EXAMPLES: &str = "\
Examples:
  rsflow eval --checkpoint runs/mine/checkpoints/best.safetensors --data data/imagenette
  rsflow eval --checkpoint best.safetensors --data data/imagenette/val --sizes 128 64
  rsflow eval --checkpoint best.safetensors --data data/imagenette --sizes 120 \\
      --batch-norm 120=112
  rsflow eval --checkpoint best.safetensors --data data/imagenette --sizes 120 \\
      --calibrate 2000 --store best120.safetensors

A size that was not trained runs with the batch norms of the nearest resolution, of the one that
--batch-norm names, or, with --calibrate, with statistics of its own, measured on so many training
images (random crops, as in training). The ensemble is that of the trained sizes among --sizes.";

const PREDICT_EXAMPLES: &str = "\
Examples:
  rsflow predict --checkpoint best.safetensors --size 96 cat.jpg dog.jpg
  rsflow predict --checkpoint best.safetensors --size 224 --top 1 --json - photos/*.jpg

Only what the size needs is loaded: the shared weights, and one set of batch norms.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  rsflow import checkpoint.pth.tar --arch resnet50 --sizes 224 192 160 128 96 \\
      --out mine.safetensors
  rsflow run recipes/resnet50_kd.ron --resume mine.safetensors

  rsflow import resnet18-f37072fd.pth --arch resnet18 --sizes 128 96 64 --out start.safetensors
  rsflow run mine.ron --set trainer.start_from=start.safetensors

The file type is detected from its tensor names. A checkpoint of the reference implementation brings
its epoch, best accuracies and momentum along, and --resume continues after that epoch. Weights of a
network with one resolution (torchvision's) are a start: every size gets their batch norms. The
file is read, never executed: one that holds more than tensors and plain values is refused.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  rsflow export best.safetensors --to pth-names --out theirs.safetensors

and in Python, with the network of the reference implementation:
  model.load_state_dict(safetensors.torch.load_file(\"theirs.safetensors\"))

A network in DataParallel wants --prefix module.";

const CHECK_EXAMPLES: &str = "\
Examples:
  rsflow check recipes/*.ron
  rsflow check mine.ron --set trainer.epochs=3";

const GRAPH_EXAMPLES: &str = "\
Examples:
  rsflow graph recipes/quickstart.ron                          mermaid, for a Markdown page
  rsflow graph recipes/quickstart.ron --format dot | dot -Tpng > graph.png
  rsflow graph recipes/quickstart.ron --format svg > graph.svg";

const SUMMARY_EXAMPLES: &str = "\
Examples:
  rsflow summary recipes/resnet50_kd.ron
  rsflow summary recipes/mobilenetv2_kd.ron --set trainer.network.width=0.5
  rsflow summary recipes/resnet18_kd.ron --json - | jq .total_parameters

For each resolution: the multiply-adds of one image (convolutions and classifier), the parameters
that it needs (the shared ones and its private batch norms), the private ones alone, and the size of
all that it needs in float32, running statistics included. Below: the parameters that all
resolutions share, those of the whole network, and the weights of the ensemble (alpha). The JSON has
exact numbers: network, classes, resolutions (resolution, batch_norm, multiply_adds, bit_operations,
parameters, private_parameters, float32_bytes, packed_bytes), shared_parameters, total_parameters,
packed_bytes, alpha.";

const PROFILE_EXAMPLES: &str = "\
Examples:
  rsflow profile recipes/imagenette_resnet18.ron                    the whole, for 10 seconds
  rsflow profile recipes/imagenette_resnet18.ron --only pipeline    how fast data could come
  rsflow profile recipes/imagenette_resnet18.ron --only trainer     the speed if data were free
  rsflow profile recipes/imagenette_resnet18.ron --until train_sizes --set cpu_workers=1
  rsflow profile mine.ron --json profile.json --trace trace.json    the trace: ui.perfetto.dev
  rsflow profile mine.ron --until train_batches --epochs 1 --digest

Nothing is validated and nothing is kept: no run directory, no checkpoint, no metrics.

In the table, `busy` is a share of all workers' time for the nodes that they work for, and of its
own thread's time for the trainer; decoding counts for the decoder although it happens when the
batch asks for the pixels. `mean`, `p50` and `p99` are a node's own time for one item, `queue` is
how full the queue in front of it was. Figures count from the first batch on. Below stands what
limits the speed, and the field to turn.

--digest prints one hash (xxh3, 128 bits) of the labels, sizes and pixels of every sample and of
the ends of epochs, and nothing else. It is the same for any number of workers. From a sample on:
  rsflow profile mine.ron --digest --start 1234     the stream starts there, as after a resume
  rsflow profile mine.ron --digest --skip 1234      it is read from its start; the same hash
Both take EPOCH:SAMPLE too, counted from 0.";

const BENCH_EXAMPLES: &str = "\
Examples:
  rsflow bench recipes/imagenette_resnet18.ron
  rsflow bench recipes/resnet50_kd.ron --only step --only inference       needs no images
  rsflow bench recipes/resnet50_kd.ron --only step --set trainer.precision=BFloat16 --batch 128
  rsflow bench mine.ron --json bench.json

`training step` is one on random images that are on the device already, at all resolutions; an
image counts once, and a GPU is waited for after each step. `inference` is one resolution: a single
image (its latency is the median), and the batch that gets most images through. `pipeline` is the
data nodes alone, `whole` both, as `run` does it.

`of peak` is the share of the multiply-adds per second that a large matrix product reaches on this
device in the same precision; a step counts as three forward passes. `peak memory` is that of
tensors on a GPU, and that of the process so far on the CPU. The JSON has: recipe, computes,
peak_multiply_adds_per_second, rows (part, resolution, batch, images_per_second, median_seconds,
share_of_peak, peak_memory_bytes), failed; computes is null where only the pipeline is measured.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  rsflow doctor
  rsflow doctor --json - | jq .cuda_missing";

const NODES_EXAMPLES: &str = "\
Examples:
  rsflow nodes
  rsflow nodes RsNet";

const PREPARE_VAL_EXAMPLES: &str = "\
Examples:
  tar xf ILSVRC2012_devkit_t12.tar.gz
  mkdir -p data/imagenet/val && tar xf ILSVRC2012_img_val.tar -C data/imagenet/val
  rsflow prepare-val data/imagenet/val --devkit ILSVRC2012_devkit_t12
  rsflow prepare-val flat --devkit ILSVRC2012_devkit_t12 --out data/imagenet/val --link
  rsflow prepare-val data/imagenet/val --classes LOC_val_solution.csv --dry-run

The first moves data/imagenet/val/ILSVRC2012_val_00000001.JPEG to data/imagenet/val/n01751748/ and
so on. A list for --classes has a name and a class in each line, separated by spaces or a comma; a
name without extension fits the image with any. Empty lines, lines that begin with # and Kaggle's
headings and boxes are passed over:
  ILSVRC2012_val_00000001.JPEG n01751748
  ILSVRC2012_val_00000002,n09193705

Everything is checked before the first file moves: every image must be in the list, and every name
of the list must have its image. No file is ever overwritten. To repeat the command is safe: what is
in its place stays there, and what an interrupted run has left is done.";

/// A recipe, and what the command line changes in it.
#[derive(Clone, Debug, Args)]
pub struct Overrides {
    /// Overrides a field: NODE.FIELD=VALUE (NODE.FIELD.INNER=VALUE, or seed=VALUE and
    /// cpu_workers=VALUE for the recipe's own). The value is RON; a bare word is a string
    #[arg(long = "set", value_name = "NODE.FIELD=VALUE")]
    pub set: Vec<String>,
}

/// `rsflow run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Where to keep the run's files [default: runs/RECIPE/START_TIME]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Go on from a checkpoint [default: the run directory's last; without --run-dir, that of the
    /// recipe's latest run]
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    pub resume: Option<Option<PathBuf>>,
    /// Go on although the recipe is not the one that the checkpoint was made with; the differences
    /// become warnings. Network, batch norms, resolutions and classes cannot change
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
}

/// `rsflow eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// The checkpoint
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// A folder with val/ (and train/, for --calibrate) in it, or one that holds the class folders
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Sizes to measure at, in pixels [default: those that it was trained at]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "S")]
    pub sizes: Vec<u32>,
    /// Runs a size with the batch norms of another resolution
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "SIZE=RESOLUTION", value_parser = pair)]
    pub batch_norm: Vec<(u32, u32)>,
    /// Measures statistics for the sizes that were not trained, on so many training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub calibrate: Option<u64>,
    /// The folder of class folders with the training images [default: train/ beside val/]
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    pub calibration_data: Option<PathBuf>,
    /// Which images are drawn for --calibrate, and how they are cropped
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Writes the checkpoint with the calibrated batch norms in it
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    pub store: Option<PathBuf>,
    /// Replaces the file of --store if there is one
    #[arg(long, requires = "store")]
    pub force: bool,
    /// The share of an image's short side that is kept [default: as in the training's validation]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Threads that libtorch computes with on the CPU [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// What to compute on.
    #[command(flatten)]
    pub compute: Computing,
    /// Writes the table as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What to compute on, and with which numbers.
#[derive(Debug, Args)]
pub struct Computing {
    /// Where to compute: auto, cpu, cuda, or cuda:1 for another GPU than the first
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// With which numbers convolutions multiply: auto, float32, tf32, bfloat16 or float16; auto is
    /// float32 for a network that was trained in it
    #[arg(long, value_name = "PRECISION", default_value = "auto", value_parser = precision)]
    pub precision: Precision,
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    let gpu = text.strip_prefix("cuda").map(|rest| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(':').and_then(|index| index.parse().ok()),
    });
    match (text, gpu) {
        ("auto", _) => Ok(DeviceChoice::Auto),
        ("cpu", _) => Ok(DeviceChoice::Cpu),
        (_, Some(Some(index))) => Ok(DeviceChoice::Cuda(index)),
        _ => Err("expected auto, cpu, cuda or cuda:N".to_owned()),
    }
}

fn precision(text: &str) -> Result<Precision, String> {
    Ok(match text {
        "auto" => Precision::Auto,
        "float32" | "fp32" => Precision::Float32,
        "tensorfloat32" | "tf32" => Precision::TensorFloat32,
        "bfloat16" | "bf16" => Precision::BFloat16,
        "float16" | "fp16" => Precision::Float16,
        _ => return Err("expected auto, float32, tf32, bfloat16 or float16".to_owned()),
    })
}

/// `SIZE=RESOLUTION`.
fn pair(text: &str) -> Result<(u32, u32), String> {
    let pair = text
        .split_once('=')
        .and_then(|(size, norm)| Some((size.trim().parse().ok()?, norm.trim().parse().ok()?)));
    pair.ok_or_else(|| "expected SIZE=RESOLUTION, such as 176=160".to_owned())
}

/// A share above 0 and up to 1.
fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|&f| f > 0.0 && f <= 1.0);
    fraction.ok_or_else(|| "expected a number above 0 and up to 1, such as 0.875".to_owned())
}

/// `rsflow predict`.
#[derive(Debug, Args)]
pub struct Predict {
    /// The checkpoint
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// The size to run at, in pixels
    #[arg(long, value_name = "S")]
    pub size: u32,
    /// The resolution whose batch norms are used [default: the size's own, or the nearest]
    #[arg(long, value_name = "RESOLUTION")]
    pub batch_norm: Option<u32>,
    /// How many classes are told for each image
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub top: u64,
    /// The share of an image's short side that is kept [default: as in the training's validation]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    /// What to compute on.
    #[command(flatten)]
    pub compute: Computing,
    /// Writes the predictions as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
}

/// `rsflow import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file that PyTorch wrote: a .pth.tar or .pth, zipped or from before PyTorch 1.6
    #[arg(value_name = "PTH_TAR")]
    pub file: PathBuf,
    /// The network: resnet18 to resnet152, resnext50_32x4d, resnext101_32x8d, mobilenet_v2, or
    /// mobilenet_v2_x0.5 with a width multiplier
    #[arg(long, value_name = "ARCH")]
    pub arch: String,
    /// The resolutions, in the order of the file's batch norms, as a rule the largest first
    #[arg(long, required = true, num_args = 1.., value_delimiter = ',', value_name = "S")]
    pub sizes: Vec<u32>,
    /// The names of the classes: a file with one on each line, or a folder with one folder for
    /// each [default: not known]
    #[arg(long, value_name = "FILE_OR_DIR")]
    pub class_names: Option<PathBuf>,
    /// The checkpoint to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replaces the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// `rsflow export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// In which form
    #[arg(long, value_enum, required_unless_present = "packed")]
    pub to: Option<Form>,
    /// The same as --to packed
    #[arg(long, conflicts_with = "to")]
    pub packed: bool,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to put before every name
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Replaces the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// What a checkpoint is exported to.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// A safetensors file under the names of the reference implementation's state dict
    PthNames,
    /// A checkpoint of a quantized network without what only training needs, its weights as codes of
    /// as many bits as they have; `eval` and `predict` take it like any other
    Packed,
}

/// `rsflow check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The recipes
    #[arg(required = true, value_name = "RECIPE")]
    pub recipes: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
}

/// `rsflow graph`.
#[derive(Debug, Args)]
pub struct Graph {
    /// The recipe
    pub recipe: PathBuf,
    /// What to write to stdout
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    pub format: Format,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
}

/// `rsflow summary`.
#[derive(Debug, Args)]
pub struct Summary {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Write the numbers to this file too; `-`: to stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `rsflow profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Runs the data nodes up to this one, and nothing behind it [default: what the trainer reads]
    #[arg(long, value_name = "NODE")]
    pub until: Option<String>,
    /// Which half to run [default: both, or pipeline with --until or --digest]
    #[arg(long, value_enum)]
    pub only: Option<Only>,
    /// How long to measure once the first batch is out [default: 10, or to the end of --epochs]
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Ends after so many epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Prints one hash of the stream's bytes, in place of the table; of one epoch without --epochs
    #[arg(long, conflicts_with = "seconds")]
    pub digest: bool,
    /// Starts the stream at this sample, and hashes from there on
    #[arg(long, value_name = "[EPOCH:]SAMPLE", requires = "digest", value_parser = position)]
    pub start: Option<(u64, u64)>,
    /// Reads what comes before this sample, and hashes from there on
    #[arg(long, value_name = "[EPOCH:]SAMPLE", requires = "digest", conflicts_with = "start", value_parser = position)]
    pub skip: Option<(u64, u64)>,
    /// Writes all figures as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes what every thread did when, in Chrome's trace event format
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// `rsflow bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Measures this part alone; may be given several times
    #[arg(long, value_enum)]
    pub only: Vec<BenchPart>,
    /// Images in a training step [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: Option<u32>,
    /// How long each part is measured, at least; inference a fifth of it for each batch
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds)]
    pub seconds: f64,
    /// Writes all figures as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What `rsflow bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// The training step, on images that are there already
    Step,
    /// Forward passes, resolution by resolution
    Inference,
    /// The data nodes: how fast data could come
    Pipeline,
    /// All of it, as in a run
    Whole,
}

/// `rsflow doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Writes all of it as JSON; `-` is stdout, in place of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Which half of a recipe is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// The data nodes: how fast data could come
    Pipeline,
    /// The trainer, on batches that are there already: how fast it would be if data were free
    Trainer,
    /// Both, as in a run
    Both,
}

/// A number of seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.001..=1e6).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, such as 10 or 2.5".to_owned())
}

/// `SAMPLE`, or `EPOCH:SAMPLE`.
fn position(text: &str) -> Result<(u64, u64), String> {
    let (epoch, sample) = text.split_once(':').unwrap_or(("0", text));
    let position = epoch.trim().parse().ok().zip(sample.trim().parse().ok());
    position.ok_or_else(|| "expected SAMPLE or EPOCH:SAMPLE, such as 1234 or 1:200".to_owned())
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// For Markdown pages
    Mermaid,
    /// For graphviz
    Dot,
    /// A picture
    Svg,
}

/// `rsflow prepare-val`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("labels").required(true))]
pub struct PrepareVal {
    /// The folder that the images are in
    #[arg(value_name = "DIR")]
    pub images: PathBuf,
    /// The unpacked devkit, which holds data/ILSVRC2012_validation_ground_truth.txt and
    /// data/meta.mat
    #[arg(long, value_name = "FOLDER", group = "labels")]
    pub devkit: Option<PathBuf>,
    /// A list of file names and classes, instead of the devkit
    #[arg(long, value_name = "FILE", group = "labels")]
    pub classes: Option<PathBuf>,
    /// Where the class folders are to be [default: DIR]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Leave the images where they are: class folders get hard links, or symbolic links on another
    /// file system
    #[arg(long)]
    pub link: bool,
    /// Go on although not every image of the list is there
    #[arg(long)]
    pub allow_missing: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
