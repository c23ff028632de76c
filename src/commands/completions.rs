//! `rsflow completions`: scripts that complete commands and options in a shell.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

pub fn run(shell: Shell, out: &mut dyn Write) -> Result<ExitCode> {
    // The generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rsflow", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
