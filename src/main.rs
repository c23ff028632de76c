//! The `rsflow` command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    rsflow::execute(rsflow::cli::Cli::parse())
}
