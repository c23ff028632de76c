//! Project automation: everything that is done to this checkout by more than one plain command.
//!
//! One file per subcommand ([`setup`], [`quickstart`], [`mod@test`], [`mod@bench`], [`package`],
//! [`scaling`]); what
//! they share, where this checkout is and how cargo is called in it, is in [`workspace`].

mod bench;
mod package;
mod quickstart;
mod scaling;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Project automation for rsflow.
///
/// On a fresh machine start with `cargo xtask quickstart`: it finds or installs libtorch, builds
/// rsflow and trains a small network. After any of these commands plain `cargo build` and
/// `cargo test` work too, because `.libtorch/torch` then leads to a libtorch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    // What each says about itself in `--help` is written at its arguments.
    Setup(setup::Arguments),
    Quickstart(quickstart::Arguments),
    Test(test::Arguments),
    Bench(bench::Arguments),
    Package(package::Arguments),
    Scaling(scaling::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Workspace::locate().and_then(|workspace| match &arguments.command {
        Command::Setup(arguments) => setup::run(&workspace, arguments),
        Command::Quickstart(arguments) => quickstart::run(&workspace, arguments),
        Command::Test(arguments) => test::run(&workspace, arguments),
        Command::Bench(arguments) => bench::run(&workspace, arguments),
        Command::Package(arguments) => package::run(&workspace, arguments),
        Command::Scaling(arguments) => scaling::run(&workspace, arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: each of these messages is a sentence with the way out in it.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
