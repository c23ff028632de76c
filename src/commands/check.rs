//! `rsflow check`: reports every problem of every recipe, and opens no data or device.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::Result;
use rsflow_base::shown::Shown as _;

use super::recipes::plan;
use super::usage::report;
use crate::cli::Check;
use crate::process::{WRONG, say};

pub fn run(arguments: &Check, out: &mut dyn Write) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &arguments.recipes {
        match plan(path, &arguments.overrides) {
            Ok(plan) => {
                if plan.warnings().list().next().is_some() {
                    let colour = std::io::stderr().is_terminal();
                    say(plan.warnings().render(colour).trim_end());
                }
                writeln!(out, "{}: ok, {} nodes", path.shown(), plan.nodes().len())?;
            }
            Err(error) => {
                report(&error);
                code = ExitCode::from(WRONG);
            }
        }
    }
    Ok(code)
}
