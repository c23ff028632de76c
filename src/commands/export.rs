//! `rsflow export`: a checkpoint of ours to a file for other programs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::pth;

use super::refuse_to_replace;
use crate::cli::{Export, Form};

pub fn run(arguments: &Export, out: &mut dyn Write) -> Result<ExitCode> {
    refuse_to_replace(&arguments.out, arguments.force)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    match arguments.to {
        Form::PthNames => {
            let count = pth::export(&checkpoint, &arguments.prefix, &arguments.out)?;
            writeln!(
                out,
                "{}: {count} tensors; bn_0, bn_1, ... are {:?}",
                arguments.out.display(),
                checkpoint.metadata().resolutions
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
