//! One file per subcommand, and what they share: reading a recipe, and exit codes.

mod bench;
mod check;
mod doctor;
mod eval;
mod export;
mod graph;
mod import;
mod nodes;
mod predict;
mod prepare_val;
mod profile;
mod run;
mod sizes;
mod summary;
mod validation_images;

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_graph::{Allocator, Kind, Plan, Planned, Problems, Recipe, Role, Text, say};
use rsflow_model::train::trains::{Trains, trainer_of};

use crate::catalogue::CATALOGUE;
use crate::cli::{Cli, Command, Format, Overrides};

/// The recipe or the command line is wrong.
const WRONG: u8 = 2;
/// The user ended the run.
const INTERRUPTED: u8 = 130;

/// Does what was typed. Data goes to stdout, all else to stderr.
pub fn execute(cli: Cli) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let result = match cli.command {
        Command::Run(arguments) => run::run(&arguments, &mut out),
        Command::Eval(arguments) => eval::run(&arguments, &mut out),
        Command::Predict(arguments) => predict::run(&arguments, &mut out),
        Command::Check(arguments) => check::run(&arguments, &mut out),
        Command::Graph(arguments) => {
            plan(&arguments.recipe, &arguments.overrides).and_then(|plan| {
                let format = match arguments.format {
                    Format::Mermaid => rsflow_graph::Format::Mermaid,
                    Format::Dot => rsflow_graph::Format::Dot,
                    Format::Svg => rsflow_graph::Format::Svg,
                };
                graph::run(&plan, format, &mut out)?;
                Ok(ExitCode::SUCCESS)
            })
        }
        Command::Summary(arguments) => summary::run(&arguments, &mut out),
        Command::Import(arguments) => import::run(&arguments, &mut out),
        Command::Export(arguments) => export::run(&arguments, &mut out),
        Command::Nodes { kind } => nodes::run(CATALOGUE, kind.as_deref(), &mut out),
        Command::Profile(arguments) => profile::run(&arguments, &mut out),
        Command::Bench(arguments) => bench::run(&arguments, &mut out),
        Command::Doctor(arguments) => doctor::run(&arguments, &mut out),
        Command::PrepareVal(arguments) => prepare_val::run(&arguments, &mut out),
    };
    let result = result.and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => code,
        // The reader of a pipe has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Says what went wrong, and tells the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        say(problems.render(std::io::stderr().is_terminal()).trim_end());
        return ExitCode::from(WRONG);
    }
    say(format_args!("error: {error}"));
    for cause in error.chain().skip(1) {
        say(format_args!("  caused by: {cause}"));
    }
    if error.downcast_ref::<Usage>().is_some() {
        return ExitCode::from(WRONG);
    }
    ExitCode::FAILURE
}

/// What was typed makes no sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Makes sure that a folder that was named is there.
fn check_folder(folder: &Path) -> Result<()> {
    ensure!(
        folder.is_dir(),
        Usage(format!("there is no folder {}", folder.display()))
    );
    Ok(())
}

/// Refuses an output file that is there, unless it may be replaced.
fn refuse_to_replace(path: &Path, force: bool) -> Result<(), Usage> {
    if path.exists() && !force {
        return Err(Usage(format!(
            "{} is there already; --force replaces it",
            path.display()
        )));
    }
    Ok(())
}

/// Reads and checks a recipe.
fn plan(path: &Path, overrides: &Overrides) -> Result<Plan> {
    Ok(Plan::new(recipe(path, overrides)?)?)
}

/// The one trainer of a recipe.
fn the_trainer<'a>(plan: &'a Plan, recipe: &Path) -> Result<(&'a Planned, &'a dyn Trains)> {
    let nodes = plan.nodes().iter();
    let trainers: Vec<_> = nodes
        .filter_map(|planned| Some((planned, trainer_of(planned)?)))
        .collect();
    match trainers[..] {
        [found] => Ok(found),
        _ => {
            let trains = |kind: &&Kind| matches!(kind.role, Role::Trainer { .. });
            let kinds = CATALOGUE.0.iter().filter(trains).map(|kind| kind.name);
            bail!(Usage(format!(
                "expected one trainer, but {} has {}; see `rsflow nodes {}`",
                recipe.display(),
                trainers.len(),
                kinds.collect::<Vec<_>>().join("` or `rsflow nodes ")
            )))
        }
    }
}

/// Memory for the batches of a plan.
fn allocator(plan: &Plan) -> Arc<dyn Allocator> {
    plan.allocator()
}

/// Reads a recipe.
fn recipe(path: &Path, overrides: &Overrides) -> Result<Recipe> {
    let text = std::fs::read_to_string(path)
        .with_context(|| Usage(format!("cannot read the recipe {}", path.display())))?;
    // Some editors begin a file with an invisible mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = Text::new(path.display().to_string(), text);
    Ok(Recipe::parse(text, CATALOGUE, &overrides.set)?)
}
