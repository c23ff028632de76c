//! One file per subcommand; here is which of them runs. What they share: `recipes` (reading and
//! checking a recipe), `sources` (the images that its trainers read), `checkpoint` (opening one) and `usage` (errors of
//! what was typed, exit codes).

mod arguments;
mod bench;
mod check;
mod checkpoint;
mod compare;
mod completions;
mod doctor;
mod eval;
mod export;
mod graph;
mod images;
mod import;
mod man;
mod moved;
mod new;
mod nodes;
mod predict;
mod prepare_val;
mod preprocess;
mod profile;
mod recipes;
mod report;
mod run;
mod runs;
mod serve;
mod sizes;
mod sources;
mod summary;
mod sweep;
mod top;
mod train;
pub(crate) mod usage;
mod wandb;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use crate::catalogue::CATALOGUE;
use crate::cli::{Cli, Command, Format};
pub use arguments::parse;
use recipes::plan;
use usage::report;

/// Does what was typed. Data goes to stdout, all else to stderr.
pub fn execute(cli: Cli) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let result = match cli.command {
        Command::Run(arguments) => run::run(&arguments, &mut out),
        Command::Sweep(arguments) => sweep::run(&arguments, &mut out),
        Command::Eval(arguments) => eval::run(&arguments, &mut out),
        Command::Compare(arguments) => compare::run(&arguments, &mut out),
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
        Command::Serve(arguments) => serve::run(&arguments, &mut out),
        Command::Import(arguments) => import::run(&arguments, &mut out),
        Command::Export(arguments) => export::run(&arguments, &mut out),
        Command::Nodes { kind, json } => {
            let kind = kind.as_deref();
            match json {
                true => nodes::json(CATALOGUE, kind, &mut out),
                false => nodes::run(CATALOGUE, kind, &mut out),
            }
        }
        Command::Profile(arguments) => profile::run(&arguments, &mut out),
        Command::Bench(arguments) => bench::run(&arguments, &mut out),
        Command::Doctor(arguments) => doctor::run(&arguments, &mut out),
        Command::PrepareVal(arguments) => prepare_val::run(&arguments, &mut out),
        Command::Report(arguments) => report::run(&arguments, &mut out),
        Command::New(arguments) => new::run(&arguments, &mut out),
        Command::Train(arguments) => train::run(&arguments, &mut out),
        Command::Top(arguments) => {
            let is_live = !arguments.once && out.is_terminal();
            top::run(&arguments.run, is_live, &mut out)
        }
        Command::Runs(arguments) => runs::run(&arguments, &mut out),
        Command::Wandb(arguments) => wandb::run(&arguments, &mut out),
        Command::Completions { shell } => completions::run(shell, &mut out),
        Command::Man(arguments) => man::run(&arguments, &mut out),
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
