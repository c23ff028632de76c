//! The command line: commands, arguments and options.

mod drafting;
mod evaluation;
mod examples;
mod man;
mod report;
mod runs;
mod serve;
mod top;
mod values;
mod wandb;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

pub use drafting::{Drafting, New, Train};
pub use evaluation::{Compare, Computing, Eval, Opening, Predict, Trained, Which};
use examples::*;
pub use man::Man;
pub use report::Report;
pub use runs::Runs;
pub use serve::{Load, Serve, Switch};
pub use top::Top;
use values::*;
pub use values::{BatchSize, NormChoice, SizeChoice};
pub use wandb::Wandb;

/// Trains and runs resolution switchable networks: one network that can be switched between input
/// resolutions at run time.
///
/// A recipe (a RON file) declares a graph of nodes: files are read, decoded, cropped and resized
/// to every size in parallel, batches of all sizes feed the trainer, and sinks write its metrics and
/// checkpoints.
#[derive(Debug, Parser)]
#[command(name = "rsflow", version, after_help = MAIN_EXAMPLES)]
pub struct Cli {
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: train, validate after every epoch, write checkpoints and metrics
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Run a recipe with every combination of some values, with several seeds each
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(Sweep),
    /// Check recipes without opening data or devices; every problem is reported
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Evaluate a checkpoint, at the sizes it was trained at or any others
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Compare runs: how far they are apart at each size, and whether chance would do it
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(Compare),
    /// Classify images at one resolution
    #[command(after_help = PREDICT_EXAMPLES)]
    Predict(Predict),
    /// Serve a checkpoint over HTTP and gRPC; the load decides about the resolution of each batch
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Convert a checkpoint or weights written by PyTorch
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Convert a checkpoint for other programs
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Draw a recipe's graph
    #[command(after_help = GRAPH_EXAMPLES)]
    Graph(Graph),
    /// Count the parameters and multiply-adds of a recipe's network, before it is trained, or of a trained one
    #[command(after_help = SUMMARY_EXAMPLES)]
    Summary(Summary),
    /// Show where the time goes, node by node, and what the bottleneck is
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile(Profile),
    /// Measure how fast a recipe's steps, inference and data are on this machine
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Show what this machine offers: libtorch, GPUs, the processor, and what is missing
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// List the kinds of node, or show one with its ports and parameters
    #[command(after_help = NODES_EXAMPLES)]
    Nodes {
        /// A kind, such as `Resize`; all of them if left out
        kind: Option<String>,
        /// Prints a JSON schema (draft 2020-12) for programs that write recipes; without KIND that of a whole one
        #[arg(long)]
        json: bool,
    },
    /// Put ImageNet's validation images, which come in one folder, into class folders
    #[command(after_help = PREPARE_VAL_EXAMPLES)]
    PrepareVal(PrepareVal),
    /// Write what runs did as one page: curves, accuracy over cost, mistakes with their pictures
    #[command(after_help = REPORT_EXAMPLES)]
    Report(Report),
    /// Look at a folder of pictures or a tar, and write a recipe for it
    #[command(after_help = NEW_EXAMPLES)]
    New(New),
    /// Train on a folder of pictures or a tar: `new` and `run` in one
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// Watch a run: how far it is, loss and accuracy, and what each node does
    #[command(after_help = TOP_EXAMPLES)]
    Top(Top),
    /// List the runs in a folder, newest first: how far they are and how good
    #[command(after_help = RUNS_EXAMPLES)]
    Runs(Runs),
    /// Write runs as offline runs of Weights & Biases, for `wandb sync`
    #[command(after_help = WANDB_EXAMPLES)]
    Wandb(Wandb),
    /// Print a script that completes commands and options in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command
    #[command(after_help = MAN_EXAMPLES)]
    Man(Man),
}

/// Changes to a recipe.
#[derive(Clone, Debug, Args)]
pub struct Overrides {
    /// Overrides a field: NODE.FIELD=VALUE or NODE.FIELD.INNER=VALUE. NODE=KIND(...) replaces a whole node,
    /// NAME=VALUE a value of `let`, seed=VALUE and cpu_workers=VALUE the recipe's own. The value is RON; a
    /// bare word is a string
    #[arg(long = "set", value_name = "NODE.FIELD=VALUE")]
    pub set: Vec<String>,
}

/// Seconds after which a process without a sign of life is lost.
const SILENCE: u64 = 20;
/// Seconds that processes wait for each other.
const EXCHANGE_TIMEOUT: u64 = 120;

/// `rsflow run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The recipe
    #[arg(value_parser = path())]
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Where to keep the run's files [default: runs/RECIPE/START_TIME]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub run_dir: Option<PathBuf>,
    /// Trains with N processes on this machine, which share every batch. Default: one process, or those
    /// that torchrun starts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub processes: Option<u32>,
    /// Resume from a checkpoint, or from the last one of a run directory [default: the run directory's
    /// last; without --run-dir, that of the run in whose directory the recipe is, or of the recipe's latest run]
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, value_parser = path(), group = "resuming")]
    pub resume: Option<Option<PathBuf>>,
    /// Resume from the run directory's last checkpoint if there is one, else start: for launchers that
    /// start the same command again
    #[arg(long, requires = "run_dir", group = "resuming")]
    pub resume_if_any: bool,
    /// Resume although the recipe differs from the one that the checkpoint was made with; the
    /// differences become warnings. Network, batch norms, resolutions and classes cannot change
    #[arg(long, requires = "resuming")]
    pub accept_changes: bool,
    /// With --processes: start all processes again from the last checkpoint when one has failed, up to N
    /// times
    #[arg(long, value_name = "N", default_value_t = 0, requires = "processes")]
    pub max_restarts: u32,
    /// Of several processes: one that gives no sign of life for so long is lost
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE, value_parser = whole_seconds())]
    pub silence: u64,
    /// Of several processes: the longest that the others wait for one, when they start and in each
    /// exchange
    #[arg(long, value_name = "SECONDS", default_value_t = EXCHANGE_TIMEOUT, value_parser = whole_seconds())]
    pub exchange_timeout: u64,
}

impl Run {
    /// A run that starts anew in this process.
    pub fn of(recipe: PathBuf, overrides: Overrides, run_dir: Option<PathBuf>) -> Self {
        Run {
            recipe,
            overrides,
            run_dir,
            processes: None,
            resume: None,
            resume_if_any: false,
            accept_changes: false,
            max_restarts: 0,
            silence: SILENCE,
            exchange_timeout: EXCHANGE_TIMEOUT,
        }
    }

    /// The arguments of a command that resumes this run from its run directory's checkpoint, or starts it there
    /// if there is none.
    pub fn resuming(&self, run_dir: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["run".into(), self.recipe.clone().into()];
        for set in &self.overrides.set {
            arguments.extend(["--set".into(), set.into()]);
        }
        arguments.extend(["--run-dir".into(), run_dir.into(), "--resume-if-any".into()]);
        if self.accept_changes {
            arguments.push("--accept-changes".into());
        }
        for (name, seconds) in [
            ("--silence", self.silence),
            ("--exchange-timeout", self.exchange_timeout),
        ] {
            arguments.extend([name.into(), seconds.to_string().into()]);
        }
        arguments
    }
}

/// `rsflow sweep`.
#[derive(Debug, Args)]
pub struct Sweep {
    /// The recipe
    #[arg(value_parser = path())]
    pub recipe: PathBuf,
    /// The values of a field: NODE.FIELD=A,B. They are RON, split at commas outside brackets and quotes.
    /// NAME=A,B is a value of `let`. Fields joined by + get the same value:
    /// train_sizes.sizes+val_sizes.sizes=[64,48],[32]
    #[arg(long, value_name = "NODE.FIELD=A,B")]
    pub over: Vec<String>,
    /// Runs each combination with N seeds: the recipe's and those that follow it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: u64,
    /// Runs N of them side by side on the same device. On the CPU they share the cores equally
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Where to keep the runs [default: runs/RECIPE/sweep]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub dir: Option<PathBuf>,
    /// Lists the runs, and starts none
    #[arg(long)]
    pub dry_run: bool,
}

/// `rsflow import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file that PyTorch wrote: a .pth.tar, .pth or .ckpt, zipped or from before PyTorch 1.6, or
    /// a .safetensors
    #[arg(value_name = "PTH_TAR", value_parser = path())]
    pub file: PathBuf,
    /// The network: resnet18 to resnet152, resnext50_32x4d, resnext101_32x8d or mobilenet_v2, whose
    /// width is that of the tensors; or mobilenet_v2_x0.5 with a width multiplier. timm's names too, such
    /// as mobilenetv2_050 or resnet50.a1_in1k
    #[arg(long, value_name = "ARCH")]
    pub arch: String,
    /// The resolutions, in the order of the file's batch norms, usually the largest first
    #[arg(long, required = true, num_args = 1.., value_delimiter = ',', value_name = "S", value_parser = size)]
    pub sizes: Vec<u32>,
    /// The key of the weights in the file, such as model_ema [default: state_dict, model,
    /// model_state_dict, net, network or module, else the whole file or its only key with weights]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// The names of the classes: a file with one on each line, or a folder with one folder for
    /// each [default: not known]
    #[arg(long, value_name = "FILE_OR_DIR", value_parser = path())]
    pub class_names: Option<PathBuf>,
    /// How images are made for the network: timm's config.json, as on the Hugging Face hub [default:
    /// config.json beside the file, if it has a pretrained_cfg]
    #[arg(long, value_name = "JSON", value_parser = path())]
    pub config: Option<PathBuf>,
    /// The share of an image's short side that is kept for validation [default: what the configuration
    /// or the file says, else 0.875]
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fraction: Option<f64>,
    /// The checkpoint to write
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub out: PathBuf,
    /// Replaces the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// `rsflow export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trained: Trained,
    /// The format to write
    #[arg(long, value_enum, required_unless_present = "packed")]
    pub to: Option<Form>,
    /// The same as --to packed
    #[arg(long, conflicts_with = "to")]
    pub packed: bool,
    /// The size of the images, for the forms whose networks have one. Several (160,128), or all (every
    /// size with batch norms of its own), write a file each: net.160.onnx and net.128.onnx for net.onnx
    #[arg(long, visible_alias = "sizes", value_delimiter = ',', value_name = "S", value_parser = size_choice)]
    pub size: Vec<SizeChoice>,
    /// The resolution whose batch norms it gets, nearest, or lerp: interpolated between those of the next
    /// resolutions below and above [default: the size's own, or lerp]
    #[arg(long, value_name = "RESOLUTION", value_parser = norm, requires = "size")]
    pub batch_norm: Option<NormChoice>,
    /// What the network in an onnx or torchscript file gets [default: float]
    #[arg(long, value_enum)]
    pub input: Option<InputForm>,
    /// The number of images in a batch of an onnx file, or dynamic [default: dynamic]
    #[arg(long, value_name = "N", value_parser = batch_size)]
    pub batch: Option<BatchSize>,
    /// The network in an onnx or torchscript file ends with a softmax: probabilities in place of logits
    #[arg(long)]
    pub softmax: bool,
    /// The file to write
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub out: PathBuf,
    /// Prefix of every tensor name
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Replaces the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// Formats that a checkpoint is exported to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A safetensors file under the names of the reference implementation's state dict
    PthNames,
    /// A safetensors file with the network for one size, under torchvision's names
    Torchvision,
    /// The same under timm's
    Timm,
    /// A checkpoint of a quantized network for inference only, its weights packed to their number of
    /// bits; `eval` and `predict` read it like any other
    Packed,
    /// An ONNX file (operator set 17) with the network for one size, for ONNX Runtime, OpenVINO or
    /// TensorRT
    Onnx,
    /// A TorchScript file of the same, for torch.jit.load or libtorch
    Torchscript,
}

/// What an exported network gets.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum InputForm {
    /// uint8 [batch, S, S, 3], red, green, blue: the network normalizes them itself
    Bytes,
    /// float32 [batch, 3, S, S]: values in 0..1, which the caller normalizes if the command's output says by what
    Float,
}

/// `rsflow check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The recipes
    #[arg(required = true, value_name = "RECIPE", value_parser = path())]
    pub recipes: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
}

/// `rsflow graph`.
#[derive(Debug, Args)]
pub struct Graph {
    /// The recipe
    #[arg(value_parser = path())]
    pub recipe: PathBuf,
    /// The format to write to stdout
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    pub format: Format,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
}

/// `rsflow summary`.
#[derive(Debug, Args)]
pub struct Summary {
    /// The recipe, or a trained network: a checkpoint, or a run directory for its best one
    #[arg(value_name = "RECIPE", value_parser = path())]
    pub network: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Writes the numbers as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the file of --json if it exists
    #[arg(long)]
    pub force: bool,
}

/// `rsflow profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// The recipe
    #[arg(value_parser = path())]
    pub recipe: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    /// Runs the data nodes up to and including this one [default: the one that the trainer reads]
    #[arg(long, value_name = "NODE")]
    pub until: Option<String>,
    /// Which half to run [default: both, or pipeline with --until or --digest]
    #[arg(long, value_enum)]
    pub only: Option<Only>,
    /// How long to measure after the first batch [default: 10, or to the end of --epochs]
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Ends after N epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Prints one hash of the stream's bytes, in place of the table; of one epoch without --epochs
    #[arg(long, conflicts_with = "seconds")]
    pub digest: bool,
    /// Starts the stream at this sample and hashes from there; epochs count from 1, samples from 0
    #[arg(long, value_name = "[EPOCH:]SAMPLE", requires = "digest", value_parser = position)]
    pub start: Option<(u64, u64)>,
    /// Reads the stream from its start and hashes from this sample
    #[arg(long, value_name = "[EPOCH:]SAMPLE", requires = "digest", conflicts_with = "start", value_parser = position)]
    pub skip: Option<(u64, u64)>,
    /// Writes all figures as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Processes on this machine, which share the batches; also started by a launcher such as torchrun
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub processes: Option<u32>,
    /// Writes a timeline of every thread, in Chrome's trace event format
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub trace: Option<PathBuf>,
    /// Also records what the GPU does, with NVIDIA's CUPTI, which comes with PyTorch
    #[arg(long, conflicts_with = "digest")]
    pub gpu: bool,
    /// Replaces the files of --json and --trace if they exist
    #[arg(long)]
    pub force: bool,
}

/// `rsflow bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// The recipe
    #[arg(value_parser = path(), required_unless_present = "serve", conflicts_with = "serve")]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub overrides: Overrides,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: Load,
    /// Measures only this part; may be given several times
    #[arg(long, value_enum)]
    pub only: Vec<BenchPart>,
    /// Images in a training step [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: Option<u32>,
    /// With --only exchange: processes on this machine, which share a batch; 1 shows what remains without
    /// others [default: 2, or those that a launcher starts]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub processes: Option<u32>,
    /// Also records what the GPU does in training steps, with NVIDIA's CUPTI, which comes with PyTorch
    #[arg(long)]
    pub gpu: bool,
    /// How long to measure each part, at least; inference a fifth of it for each batch size. With --serve, how
    /// long each rate is held
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds)]
    pub seconds: f64,
    /// Writes all figures as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the files of --json and --plot if they exist
    #[arg(long)]
    pub force: bool,
}

impl Bench {
    /// The recipe, which is there unless a server is measured.
    pub fn recipe(&self) -> &Path {
        self.recipe.as_deref().unwrap_or(Path::new(""))
    }
}

/// What `rsflow bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// The training step, on images that are already on the device
    Step,
    /// Forward passes, resolution by resolution
    Inference,
    /// The data nodes: how fast data can be delivered
    Pipeline,
    /// Data nodes and training, as in a run
    Whole,
    /// What several processes exchange: sums of some sizes, and a step with and without its exchange.
    /// Only on demand, and apart from the others
    Exchange,
}

/// `rsflow doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Writes the report as JSON; `-` is stdout, in place of the text
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub json: Option<PathBuf>,
    /// Replaces the file of --json if it exists
    #[arg(long)]
    pub force: bool,
}

/// Which half of a recipe is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// The data nodes: how fast data can be delivered
    Pipeline,
    /// The trainer on a few cached batches: how fast it would be if data were free
    Trainer,
    /// Both, as in a run
    Both,
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// For Markdown pages
    Mermaid,
    /// For graphviz
    Dot,
    /// An image
    Svg,
}

/// `rsflow prepare-val`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("labels").required(true))]
pub struct PrepareVal {
    /// The folder with the images
    #[arg(value_name = "DIR", value_parser = path())]
    pub images: PathBuf,
    /// The devkit, as downloaded (ILSVRC2012_devkit_t12.tar.gz) or unpacked: it holds
    /// data/ILSVRC2012_validation_ground_truth.txt and data/meta.mat
    #[arg(long, value_name = "FOLDER", group = "labels", value_parser = path())]
    pub devkit: Option<PathBuf>,
    /// A list of file names and classes, instead of the devkit
    #[arg(long, value_name = "FILE", group = "labels", value_parser = path())]
    pub classes: Option<PathBuf>,
    /// Where to put the class folders [default: DIR]
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    pub out: Option<PathBuf>,
    /// Leave the images where they are: class folders get hard links, or symbolic links on another
    /// file system
    #[arg(long)]
    pub link: bool,
    /// Continue although images of the list are missing
    #[arg(long)]
    pub allow_missing: bool,
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
