//! `rsflow export`: an rsflow checkpoint to a file for other programs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::{packed, write_atomically};
use rsflow_model::exchange::pth;
use rsflow_model::nn::layers::NormOptions;
use rsflow_model::nn::networks::Network;

use super::checkpoint;
use super::usage::Usage;
use crate::cli::{Export, Form};
use crate::files::check_output;
use crate::process::say;

pub fn run(arguments: &Export, out: &mut dyn Write) -> Result<ExitCode> {
    let inputs = [arguments.checkpoint.as_path()];
    check_output(&arguments.out, "--out", arguments.force, &inputs)?;
    let checkpoint = checkpoint::open(&arguments.checkpoint, &arguments.opening, |line| say(line))?;
    let metadata = checkpoint.metadata();
    match arguments.to.unwrap_or(Form::Packed) {
        Form::Packed => {
            ensure!(
                arguments.prefix.is_empty(),
                Usage(
                    "--prefix needs --to pth-names: packed checkpoints keep their names".to_owned()
                )
            );
            let snapshot = packed::pack(&checkpoint)
                .with_context(|| format!("cannot pack {}", arguments.checkpoint.shown()))?;
            write_atomically(&snapshot, &arguments.out)?;
            let size = |path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.len() as f64 / 1e6);
            writeln!(
                out,
                "{}: {}, {:.2} MB (the checkpoint has {:.2} MB)",
                arguments.out.shown(),
                metadata.network,
                size(&arguments.out)?,
                size(&arguments.checkpoint)?
            )?;
        }
        Form::PthNames => {
            ensure!(
                !matches!(metadata.network, Network::QuantizedResNet(_)),
                "the reference implementation has no tensor names for {}; `--to packed` exports it",
                metadata.network
            );
            if metadata.norms.epsilon != NormOptions::default().epsilon {
                say(format_args!(
                    "its batch norms have an epsilon of {:e}, which the names do not say: set it in the other program",
                    metadata.norms.epsilon
                ));
            }
            let count = pth::export(&checkpoint, &arguments.prefix, &arguments.out)?;
            writeln!(
                out,
                "{}: {count} tensors; bn_0, bn_1, ... are {:?}",
                arguments.out.shown(),
                metadata.resolutions
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
