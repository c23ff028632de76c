//! The checkout: where it is, where it builds, and how cargo is called in it.

use std::env;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How many closing lines of a failed build's log are shown.
const TAIL: usize = 40;

/// This checkout.
pub struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo puts what it builds here: the folder that holds `debug` and `release`.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds the checkout and its target folder.
    pub fn locate() -> Result<Self> {
        // Cargo sets the variable when it runs us. The path of the day of the build is second
        // best: a checkout may have been moved since.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("xtask lies in no workspace")?;
        // We are TARGET/debug/xtask ourselves. That holds whichever way the target folder was
        // set: by a variable, in a configuration file, or with a triple in it.
        let program = env::current_exe().context("cannot tell where this program lies")?;
        let target = program
            .ancestors()
            .nth(2)
            .context("this program lies in no target folder")?;
        Ok(Self {
            root: root.to_path_buf(),
            target: target.to_path_buf(),
        })
    }

    /// Where setup keeps libtorch, or the link to it.
    pub fn libtorch_folder(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The link to libtorch; `.cargo/config.toml` says the same to plain cargo commands.
    pub fn libtorch_link(&self) -> PathBuf {
        self.libtorch_folder().join("torch")
    }

    /// The `rsflow` program of a profile (`debug` or `release`), built or not.
    pub fn rsflow(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join("rsflow")
    }

    /// A cargo command at the root of the workspace.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).stdin(Stdio::null());
        // Setup has linked to whatever LIBTORCH the user named. Going by the link in every case
        // keeps the value constant: cargo rebuilds the bindings, minutes of work, when it changes.
        cargo.env("LIBTORCH", self.libtorch_link());
        // A relative folder was meant relative to the user's folder, not to the root.
        if let Some(target) = env::var_os("CARGO_TARGET_DIR")
            && let Ok(target) = std::path::absolute(target)
        {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        cargo
    }

    /// Builds `rsflow` in release mode, showing cargo's output only if that fails.
    pub fn build_release(&self) -> Result<PathBuf> {
        let build = "build --release --package rsflow --bin rsflow";
        self.build("release", build)
    }

    /// The program and the C library of a profile.
    pub fn build_package(&self, profile: &str) -> Result<PathBuf> {
        self.build(
            profile,
            match profile {
                "release" => "build --release --workspace --bins --lib",
                _ => "build --workspace --bins --lib",
            },
        )
    }

    /// The same in debug mode, as `cargo xtask test` builds it.
    pub fn build_debug(&self) -> Result<PathBuf> {
        self.build("debug", "build --workspace --bins --tests")
    }

    fn build(&self, profile: &str, arguments: &str) -> Result<PathBuf> {
        let program = self.rsflow(profile);
        if !program.exists() {
            eprintln!("building rsflow; the first build takes 5 to 10 minutes on 2 cores");
        }
        let log = self.target.join("xtask-build.log");
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut cargo = self.cargo();
        cargo.args(arguments.split(' '));
        cargo.stdout(output.try_clone()?).stderr(output);
        let mut build = cargo.spawn().context("cannot start cargo")?;

        let start = Instant::now();
        let mut live = std::io::stderr();
        let status = loop {
            if let Some(status) = build.try_wait()? {
                break status;
            }
            thread::sleep(Duration::from_millis(100));
            // Minutes without a sign of life look like a hang. Not in a log file, though.
            if live.is_terminal() && start.elapsed() > Duration::from_secs(1) {
                let last = last_lines(&log, 1).chars().take(60).collect::<String>();
                write!(
                    live,
                    "\r\x1b[2K{:4} s {}",
                    start.elapsed().as_secs(),
                    last.trim()
                )?;
            }
        };
        if live.is_terminal() {
            write!(live, "\r\x1b[2K")?;
        }
        if !status.success() {
            eprintln!("{}", last_lines(&log, TAIL));
            bail!(
                "the {profile} build failed; its whole log is {}",
                log.display()
            );
        }
        Ok(program)
    }
}

/// The last `count` lines of a file; nothing if it cannot be read.
fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
