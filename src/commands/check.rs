//! `rsflow check`: reports every problem of every recipe, and opens no data or device.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_base::shown::Shown as _;
use rsflow_graph::counted;

use super::recipes::plan;
use super::usage::{report, warn};
use crate::cli::Check;
use crate::process::WRONG;

pub fn run(arguments: &Check, out: &mut dyn Write) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &arguments.recipes {
        match plan(path, &arguments.overrides) {
            Ok(plan) => {
                warn(plan.warnings());
                let nodes = counted(plan.nodes().len(), "node");
                writeln!(out, "{}: ok, {nodes}", path.shown())?;
            }
            Err(error) => {
                report(&error);
                code = ExitCode::from(WRONG);
            }
        }
    }
    Ok(code)
}
