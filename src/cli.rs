//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains and runs resolution switchable networks: one network that can be switched between input
/// resolutions at run time.
///
/// A recipe (a RON file) declares a graph of nodes: files are read, decoded, cropped and resized to
/// every size in parallel, batches of all sizes feed the trainer, sinks keep what it says.
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
  rsflow nodes RandomResizedCrop               what a node does, and its parameters
  rsflow graph recipes/resnet50_kd.ron --format svg > graph.svg

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
    /// Draw a recipe's graph
    #[command(after_help = GRAPH_EXAMPLES)]
    Graph(Graph),
    /// List the kinds of node, or show one with its ports and parameters
    #[command(after_help = NODES_EXAMPLES)]
    Nodes {
        /// A kind, such as `Resize`; all of them if left out
        kind: Option<String>,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  rsflow run recipes/quickstart.ron
  rsflow run recipes/imagenette_resnet18.ron --set trainer.epochs=3 --set train_batches.size=32
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine --resume

A run directory holds recipe.ron (overrides applied), metrics.jsonl, tensorboard/, run.log and
checkpoints/ (last, best and epoch-NNN.safetensors). Ctrl-C finishes the step in hand, writes a
checkpoint and ends; --resume goes on from there, exactly. A second Ctrl-C ends at once.";

const CHECK_EXAMPLES: &str = "\
Examples:
  rsflow check recipes/*.ron
  rsflow check mine.ron --set trainer.epochs=3";

const GRAPH_EXAMPLES: &str = "\
Examples:
  rsflow graph recipes/quickstart.ron                          mermaid, for a Markdown page
  rsflow graph recipes/quickstart.ron --format dot | dot -Tpng > graph.png
  rsflow graph recipes/quickstart.ron --format svg > graph.svg";

const NODES_EXAMPLES: &str = "\
Examples:
  rsflow nodes
  rsflow nodes RsNet";

/// A recipe, and what the command line changes in it.
#[derive(Debug, Args)]
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
