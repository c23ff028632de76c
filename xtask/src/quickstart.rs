//! `cargo xtask quickstart`: from a fresh clone to a trained network.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup;
use crate::workspace::Workspace;

/// The recipe that is run, relative to the root of the checkout.
const RECIPE: &str = "recipes/quickstart.ron";

/// Set up, build in release mode, and run recipes/quickstart.ron.
///
/// The recipe trains a small network in a few minutes on a CPU and prints one row per
/// resolution. The exit code is that of `rsflow run`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run the debug build that `cargo xtask test` has made, in place of a release build: nothing is left to
    /// build, and the network is trained a little slower
    #[arg(long)]
    debug: bool,
    /// Arguments for `rsflow run` after `--`, such as `-- --set trainer.epochs=2`
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Runs the subcommand; returns only if it fails.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let profile = if arguments.debug { "debug" } else { "release" };
    setup::ensure(workspace, setup::room_to_build(workspace, profile))?;
    let program = match arguments.debug {
        true => workspace.build_debug()?,
        false => workspace.build_release()?,
    };
    let mut rsflow = Command::new(&program);
    // A recipe's relative paths start at the working directory; this one's at the root.
    rsflow
        .current_dir(&workspace.root)
        .args(["run", RECIPE])
        .args(&arguments.arguments);
    eprintln!("running: {rsflow:?}");
    // In our place, not as a child: then a Ctrl-C reaches only the program that writes a
    // checkpoint because of it, and its exit code needs no passing on.
    Err(rsflow.exec()).with_context(|| format!("cannot start {}", program.display()))
}
