//! `cargo xtask test`: everything that must hold before a change goes in.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::workspace::Workspace;

/// Set up, then check the formatting, lint, test, and check every recipe.
///
/// The steps: `cargo fmt`, `cargo clippy` (a warning fails), all tests of all packages (the kernels for
/// GPUs are compiled, for which NVIDIA's compiler is installed into .libtorch/), the tests
/// that compute a second time as on a processor of the other kind, and `rsflow check` on every
/// recipe in recipes/. Each step's output is shown, with one line at its end that says how long it
/// took. A step that fails does not stop the others; the last lines list the steps and tests that
/// failed.
///
/// `precision: Auto` is bfloat16 on processors that are faster with it and float32 elsewhere. The second
/// round of tests sets RSFLOW_CPU_BFLOAT16 to the other value, so that a machine of either kind
/// shows what fails on the other.
#[derive(clap::Args)]
pub struct Arguments {}

/// What `rsflow_model::nn::compute` reads in place of asking the processor.
const CPU_BFLOAT16: &str = "RSFLOW_CPU_BFLOAT16";

/// Where `the_kernels_compile` finds the compiler.
const NVRTC: &str = "RSFLOW_NVRTC";

/// Long tests that a second round shows nothing of: no network is trained or measured in them, or they name
/// the dtypes that they compute in.
const ONCE: [&str; 3] = [
    "broken::",
    "prepare_val::",
    "half_precision_follows_float32",
];

/// Test targets in which `precision: Auto` is resolved. All others choose their own dtypes, so that a
/// second round shows nothing.
const RESOLVING: [&str; 2] = ["compute", "rsflow"];

/// Runs the subcommand.
pub fn run(workspace: &Workspace, _: &Arguments) -> Result<()> {
    setup::ensure(workspace, setup::room_to_build(workspace, "debug"))?;
    let mut steps = Steps::default();
    steps.run("fmt", || {
        succeed(workspace.cargo().args(["fmt", "--all", "--check"]))
    });
    steps.run("clippy", || {
        let lint = "clippy --workspace --all-targets -- -D warnings";
        succeed(workspace.cargo().args(lint.split(' ')))
    });
    steps.run("test", || {
        let mut tests = workspace.cargo();
        tests.args(["test", "--workspace", "--no-fail-fast"]);
        tests.env(NVRTC, setup::nvrtc(workspace)?);
        pass(tests.env_remove(CPU_BFLOAT16))
    });
    steps.run(&format!("test, {CPU_BFLOAT16} otherwise"), || {
        let other = if auto_is_bfloat16(workspace)? {
            "no"
        } else {
            "yes"
        };
        eprintln!("xtask: {CPU_BFLOAT16}={other}");
        let mut tests = workspace.cargo();
        // Targets in place of packages: another choice of packages means other features, and with
        // them another build of half the dependencies.
        tests.args(["test", "--workspace", "--no-fail-fast", "--lib"]);
        for target in RESOLVING {
            tests.args(["--test", target]);
        }
        tests.arg("--");
        for name in ONCE {
            tests.args(["--skip", name]);
        }
        pass(tests.env(CPU_BFLOAT16, other))
    });
    // With the tests, although only the program is wanted, for the same reason.
    steps.run("build", || {
        let build = "build --workspace --bins --tests";
        succeed(workspace.cargo().args(build.split(' ')))
    });
    steps.run("recipes", || {
        let recipes = recipes(workspace)?;
        let mut check = Command::new(workspace.rsflow("debug"));
        check
            .current_dir(&workspace.root)
            .stdin(Stdio::null())
            .arg("check")
            .args(recipes);
        succeed(&mut check)
    });
    steps.conclude()
}

/// The steps so far, and what failed in them.
#[derive(Default)]
struct Steps {
    count: usize,
    failed: Vec<String>,
}

impl Steps {
    /// Runs one step and says how it went and how long it took.
    fn run(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let result = run();
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!(
            "xtask: {name:<8} {outcome:<6} {:7.1} s",
            start.elapsed().as_secs_f64()
        );
        self.count += 1;
        if let Err(error) = result {
            self.failed.push(format!("{name}: {error:#}"));
        }
    }

    /// An error that lists what failed, if anything did.
    fn conclude(self) -> Result<()> {
        ensure!(
            self.failed.is_empty(),
            "{} of {} steps failed\n  {}",
            self.failed.len(),
            self.count,
            self.failed.join("\n  ")
        );
        Ok(())
    }
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

/// The same for `cargo test`; the error lists the tests that failed.
fn pass(tests: &mut Command) -> Result<()> {
    let mut child = tests
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut failed = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what cargo prints")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(std::io::stdout(), "{line}")?;
        failed.extend(failed_test(&line).map(str::to_owned));
    }
    let status = child.wait()?;
    match (status.success(), failed.is_empty()) {
        (true, _) => Ok(()),
        // A test binary that does not compile, or that a signal ended.
        (false, true) => bail!("{status}; cargo's last lines name the target"),
        (false, false) => bail!(
            "{} tests failed\n    {}",
            failed.len(),
            failed.join("\n    ")
        ),
    }
}

/// The test that failed, if the line is libtest's line of one.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Whether `precision: Auto` is bfloat16 on this processor, by the program that the tests have built.
fn auto_is_bfloat16(workspace: &Workspace) -> Result<bool> {
    let mut doctor = Command::new(workspace.rsflow("debug"));
    doctor.args(["doctor", "--json", "-"]);
    let output = doctor.env_remove(CPU_BFLOAT16).output()?;
    let machine: serde_json::Value = serde_json::from_slice(&output.stdout)
        .context("`rsflow doctor` says nothing of the processor")?;
    let found = machine["cpu"]["bfloat16"].as_bool();
    found.context("`rsflow doctor` says nothing of bfloat16")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_failed_tests_are_parsed() {
        for (line, expected) in [
            ("test run::it_ends ... FAILED", Some("run::it_ends")),
            (
                "test graph/src/lib.rs - Plan (line 12) ... FAILED",
                Some("graph/src/lib.rs - Plan (line 12)"),
            ),
            ("test run::it_ends ... ok", None),
            ("test result: FAILED. 1 passed; 1 failed", None),
            ("a run that says ... FAILED", None),
        ] {
            assert_eq!(failed_test(line), expected, "{line}");
        }
    }

    #[test]
    fn the_second_round_has_all_tests_that_resolve_a_precision() {
        let workspace = Workspace::locate().unwrap();
        for entry in fs::read_dir(workspace.root.join("model/tests")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            assert!(
                !text.contains("Precision") || RESOLVING.contains(&name.as_ref()),
                "{name}"
            );
        }
    }

    #[test]
    fn the_conclusion_lists_every_step_that_failed() {
        let mut steps = Steps::default();
        steps.run("fmt", || bail!("exit status: 1"));
        steps.run("clippy", || Ok(()));
        steps.run("test", || bail!("1 tests failed\n    run::it_ends"));
        assert_eq!(
            steps.conclude().unwrap_err().to_string(),
            "2 of 3 steps failed\n  fmt: exit status: 1\n  test: 1 tests failed\n    run::it_ends"
        );
        assert!(Steps::default().conclude().is_ok());
    }
}
