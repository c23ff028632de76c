//! `rsflow export`: an rsflow checkpoint to a file for other programs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::{Metadata, NormsFrom, packed, write_atomically};
use rsflow_model::exchange::pth::{self, Names};
use rsflow_model::nn::layers::NormOptions;
use rsflow_model::nn::networks::Network;
use rsflow_model::nn::transfer::Channels;

use super::usage::Usage;
use super::{checkpoint, sizes};
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
                    "--prefix needs another form: packed checkpoints keep their names".to_owned()
                )
            );
            names(Form::Packed, arguments, metadata)?;
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
        form @ (Form::PthNames | Form::Torchvision | Form::Timm) => {
            ensure!(
                !matches!(metadata.network, Network::QuantizedResNet(_)),
                "{} has no tensor names in PyTorch; `--to packed` exports it",
                metadata.network
            );
            if metadata.norms.epsilon != NormOptions::default().epsilon {
                say(format_args!(
                    "its batch norms have an epsilon of {:e}, which the names do not say: set it in the other program",
                    metadata.norms.epsilon
                ));
            }
            let names = names(form, arguments, metadata)?;
            let count = pth::export(&checkpoint, names, &arguments.prefix, &arguments.out)?;
            let what = match names {
                Names::Reference => format!("bn_0, bn_1, ... are {:?}", metadata.resolutions),
                Names::Torchvision(size, norms) | Names::Timm(size, norms) => {
                    single(metadata, size, norms)
                }
            };
            writeln!(out, "{}: {count} tensors; {what}", arguments.out.shown())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The names that were asked for, and of a network for one size that size with its batch norms.
fn names(form: Form, arguments: &Export, metadata: &Metadata) -> Result<Names> {
    if let Form::PthNames | Form::Packed = form {
        ensure!(
            arguments.size.is_none() && arguments.batch_norm.is_none(),
            Usage("--size and --batch-norm need --to torchvision or --to timm, whose networks have one size".to_owned())
        );
        return Ok(Names::Reference);
    }
    let size = arguments.size.with_context(|| {
        Usage(format!(
            "--to torchvision and --to timm need --size: one of {:?}, or another one",
            metadata.resolutions
        ))
    })?;
    let chosen = arguments.batch_norm.map(|choice| (size, choice));
    let chosen = chosen.as_slice();
    sizes::check(metadata, &arguments.checkpoint, &[size], chosen)?;
    if let Some(line) = sizes::tell_borrowed(metadata, size, chosen) {
        say(line);
    }
    let norms = sizes::norms(metadata, size, arguments.batch_norm);
    Ok(match form {
        Form::Timm => Names::Timm(size, norms),
        _ => Names::Torchvision(size, norms),
    })
}

/// What has to be known to use a network for one size.
fn single(metadata: &Metadata, size: u32, norms: NormsFrom) -> String {
    let of = match norms {
        NormsFrom::Resolution(norm) if norm == size => String::new(),
        NormsFrom::Resolution(norm) => format!(" with the batch norms of {norm}"),
        NormsFrom::Between { below, above, .. } => {
            format!(" with batch norms between those of {below} and {above}")
        }
    };
    let normalize = match metadata.normalize {
        Some(by) => format!("normalized by {by}"),
        None => "values in 0..1".to_owned(),
    };
    let channels = match metadata.channels {
        Channels::Rgb => "",
        Channels::Bgr => ", in the order blue, green, red",
    };
    format!("for images of {size} pixels{of}, {normalize}{channels}")
}
