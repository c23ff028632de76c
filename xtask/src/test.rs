//! `cargo xtask test`: everything that must hold before a change goes in.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::setup;
use crate::workspace::Workspace;

/// Set up, then check the formatting, lint, test, and check every recipe.
///
/// The steps: `cargo fmt`, `cargo clippy` (a warning fails), all tests of all packages, and
/// `rsflow check` on every recipe in recipes/. Each step's output is shown, with one line at its
/// end that says how long it took; the first that fails is the last.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, _: &Arguments) -> Result<()> {
    step("setup", || {
        setup::ensure(workspace, setup::room_to_build(workspace, "debug"))
    })?;
    let cargo_steps: [(&str, &[&str]); 4] = [
        ("fmt", &["fmt", "--all", "--check"]),
        (
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        ("test", &["test", "--workspace"]),
        // With the tests, although only the program is wanted: another choice of packages and
        // targets means other features, and with them another build of half the dependencies.
        ("build", &["build", "--workspace", "--bins", "--tests"]),
    ];
    for (name, arguments) in cargo_steps {
        step(name, || succeed(workspace.cargo().args(arguments)))?;
    }
    step("recipes", || {
        let recipes = recipes(workspace)?;
        let mut check = Command::new(workspace.rsflow("debug"));
        check
            .current_dir(&workspace.root)
            .stdin(Stdio::null())
            .arg("check")
            .args(recipes);
        succeed(&mut check)
    })
}

/// Runs one step and says how it went and how long it took.
fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let result = run();
    let outcome = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!(
        "xtask: {name:<8} {outcome:<6} {:7.1} s",
        start.elapsed().as_secs_f64()
    );
    result.with_context(|| format!("step `{name}` failed"))
}

/// Runs a command with its output in sight; an exit code other than 0 is an error.
fn succeed(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// The recipes that ship, in the order of their names.
fn recipes(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = fs::read_dir(workspace.root.join("recipes")).context("cannot list recipes/")?;
    let mut recipes = Vec::new();
    for entry in folder {
        let path = PathBuf::from("recipes").join(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == "ron") {
            recipes.push(path);
        }
    }
    ensure!(!recipes.is_empty(), "recipes/ holds no recipe (*.ron)");
    recipes.sort();
    Ok(recipes)
}
