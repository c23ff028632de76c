//! A network for one size as a TorchScript file, which PyTorch runs without the network's source.
//!
//! What is traced is the ONNX graph, run by libtorch's operators: batch norms are folded and weights
//! dequantized there already, and our own kernels, which no other program has, are not in it.

use std::io::{Cursor, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use rsflow_base::shown::Shown as _;
use rsflow_base::whole_file;
use tch::{CModule, Tensor, no_grad};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::onnx::{self, Runner};
use super::single::{Exported, NOT_KEPT, Options, Single};
use crate::checkpoint::Checkpoint;

/// The folder in the archive; PyTorch names it after the file that it writes.
const FOLDER: &str = "network";
/// What `torch.jit.load` gives as `_extra_files`.
const PROPERTIES: &str = "rsflow.json";

/// Writes the network of a checkpoint for one size as a TorchScript file, whose bytes depend on the checkpoint
/// and the options alone. It takes batches of any size. As [`onnx::export`] it is read, compared with the
/// network, and kept only if it does not differ.
///
/// # Errors
/// As [`onnx::export`].
pub fn export(
    checkpoint: &Checkpoint,
    options: &Options,
    path: &Path,
    tell: &dyn Fn(&str),
) -> Result<Exported> {
    let single = Single::open(checkpoint, options)?;
    let written = onnx::write(&single)?;
    let nodes = written.nodes();
    let runner = Runner::new(written.model)?;
    let bytes = trace(&runner, &single.images(0, 1)?.theirs)?;
    let bytes = with_properties(bytes, &single)?;
    let mut difference = 0.0;
    let check = |file: &Path| {
        let module = CModule::load(file)?;
        let run = |images: &Tensor| Ok(module.forward_ts(&[images])?);
        difference = single.compare(run, tell).context(NOT_KEPT)?;
        Ok(())
    };
    whole_file::write_checked(path, |file| Ok(file.write_all(&bytes)?), check)
        .with_context(|| format!("cannot write {}", path.shown()))?;
    Ok(Exported {
        nodes,
        bytes: bytes.len(),
        difference,
    })
}

/// The archive with what `runner` does with these images.
fn trace(runner: &Runner, images: &Tensor) -> Result<Vec<u8>> {
    let mut failure = None;
    let mut run = |inputs: &[Tensor]| {
        let output = runner.run(&inputs[0]);
        // libtorch needs an output to end the trace.
        vec![output.unwrap_or_else(|error| {
            failure = Some(error);
            inputs[0].shallow_clone()
        })]
    };
    let inputs = [images.shallow_clone()];
    let traced = || CModule::create_by_tracing("Network", "forward", &inputs, &mut run);
    let mut module = no_grad(traced)?;
    if let Some(error) = failure {
        return Err(error.context("the network cannot be traced"));
    }
    module.f_set_eval()?;
    // libtorch writes to a path only, and puts the file's name into the archive.
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = folder.path().join(format!("{FOLDER}.pt"));
    let saved = module.save(&file).map_err(anyhow::Error::from);
    let read = saved.and_then(|()| Ok(std::fs::read(&file)?));
    read.with_context(|| format!("cannot write {}", file.shown()))
}

/// The archive with what the network says about itself, as PyTorch's `_extra_files`.
fn with_properties(archive: Vec<u8>, single: &Single) -> Result<Vec<u8>> {
    let properties: serde_json::Map<String, serde_json::Value> = single
        .properties()?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let mut archive = ZipWriter::new_append(Cursor::new(archive))?;
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file(format!("{FOLDER}/extra/{PROPERTIES}"), stored)?;
    archive.write_all(&serde_json::to_vec(&properties)?)?;
    Ok(archive.finish()?.into_inner())
}
