//! `rsflow export`: an rsflow checkpoint to a file for other programs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::{Checkpoint, Metadata, NormsFrom, packed, write_atomically};
use rsflow_model::exchange::pth::{self, Names};
use rsflow_model::exchange::single::{Input, Options};
use rsflow_model::exchange::{onnx, torchscript};
use rsflow_model::nn::compute::is_out_of_memory;
use rsflow_model::nn::layers::NormOptions;
use rsflow_model::nn::networks::Network;
use rsflow_model::nn::transfer::Channels;

use super::preprocess::like_training;
use super::usage::Usage;
use super::{checkpoint, sizes};
use crate::cli::{Export, Form, InputForm, SizeChoice};
use crate::files::{check_output, checkpoint_of};
use crate::process::say;

pub fn run(arguments: &Export, out: &mut dyn Write) -> Result<ExitCode> {
    let form = arguments.to.unwrap_or(Form::Packed);
    check_options(form, arguments)?;
    let named = checkpoint_of(arguments.trained.path(), |line| say(line))?;
    let checkpoint = checkpoint::open(&named, &arguments.opening, |line| say(line))?;
    let files = files(form, arguments, checkpoint.metadata())?;
    for (_, path) in &files {
        let inputs = [named.as_path()];
        check_output(path, "--out", arguments.force, &inputs)?;
    }
    for (size, path) in &files {
        let line = match (form, *size) {
            (Form::Packed, _) => pack(&checkpoint, arguments, path)?,
            (Form::Torchvision | Form::Timm | Form::PthNames, size) => {
                by_names(&checkpoint, form, size, arguments, path)?
            }
            (Form::Onnx | Form::Torchscript, Some(size)) => {
                graph(&checkpoint, form, size, arguments, path)?
            }
            (Form::Onnx | Form::Torchscript, None) => bail!("a network without a size"),
        };
        writeln!(out, "{}: {line}", path.shown())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses options that have no effect on a file of this form.
fn check_options(form: Form, arguments: &Export) -> Result<()> {
    let by_names = matches!(form, Form::PthNames | Form::Torchvision | Form::Timm);
    let graph = matches!(form, Form::Onnx | Form::Torchscript);
    let refuse = |given: bool, option: &str, needs: &str| {
        let problem = || Usage(format!("{option} needs {needs}"));
        ensure!(!given, problem());
        Ok(())
    };
    let for_one_size = "--to onnx, torchscript, torchvision or timm, whose networks have one size";
    let sized = graph || matches!(form, Form::Torchvision | Form::Timm);
    let has_size = !arguments.size.is_empty();
    refuse(has_size && !sized, "--size", for_one_size)?;
    let for_names = "--to pth-names, torchvision or timm, whose files have names of tensors";
    refuse(
        !arguments.prefix.is_empty() && !by_names,
        "--prefix",
        for_names,
    )?;
    let for_graph = "--to onnx or torchscript, whose files hold a network that runs";
    refuse(arguments.input.is_some() && !graph, "--input", for_graph)?;
    refuse(arguments.softmax && !graph, "--softmax", for_graph)?;
    let for_onnx = "--to onnx; a torchscript file takes batches of any size";
    refuse(
        arguments.batch.is_some() && form != Form::Onnx,
        "--batch",
        for_onnx,
    )
}

/// The files to write: one for each size of a form whose networks have one.
fn files(
    form: Form,
    arguments: &Export,
    metadata: &Metadata,
) -> Result<Vec<(Option<u32>, PathBuf)>> {
    let out = &arguments.out;
    if let Form::PthNames | Form::Packed = form {
        return Ok(vec![(None, out.clone())]);
    }
    let mut sizes = Vec::new();
    for choice in &arguments.size {
        match choice {
            SizeChoice::Of(size) => sizes.push(*size),
            SizeChoice::All => {
                sizes.extend(metadata.resolutions.iter().chain(&metadata.calibrated))
            }
        }
    }
    ensure!(
        !sizes.is_empty(),
        Usage(format!(
            "--to {} needs --size: one of {:?}, another one, or all",
            name(form),
            metadata.resolutions
        ))
    );
    for size in &sizes {
        let chosen = arguments.batch_norm.map(|choice| (*size, choice));
        sizes::check(
            metadata,
            arguments.trained.path(),
            &[*size],
            chosen.as_slice(),
        )?;
    }
    if let [SizeChoice::Of(size)] = arguments.size[..] {
        return Ok(vec![(Some(size), out.clone())]);
    }
    let mut files: Vec<(Option<u32>, PathBuf)> = Vec::new();
    for size in sizes {
        let repeated = files.iter().any(|(other, _)| *other == Some(size));
        ensure!(!repeated, Usage(format!("--size: {size} is listed twice")));
        files.push((Some(size), numbered(out, size)));
    }
    Ok(files)
}

/// `net.onnx` for 160 pixels: `net.160.onnx`.
fn numbered(path: &Path, size: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{size}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// As it is typed.
fn name(form: Form) -> String {
    let value = clap::ValueEnum::to_possible_value(&form);
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn pack(checkpoint: &Checkpoint, arguments: &Export, path: &Path) -> Result<String> {
    let snapshot = packed::pack(checkpoint)
        .with_context(|| format!("cannot pack {}", arguments.trained.path().shown()))?;
    write_atomically(&snapshot, path)?;
    let size = |path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.len() as f64 / 1e6);
    Ok(format!(
        "{}, {:.2} MB (the checkpoint has {:.2} MB)",
        checkpoint.metadata().network,
        size(path)?,
        size(arguments.trained.path())?
    ))
}

/// Tensors for another program's network.
fn by_names(
    checkpoint: &Checkpoint,
    form: Form,
    size: Option<u32>,
    arguments: &Export,
    path: &Path,
) -> Result<String> {
    let metadata = checkpoint.metadata();
    ensure!(
        !matches!(metadata.network, Network::QuantizedResNet(_)),
        "{} has no tensor names in PyTorch; `--to packed`, `--to onnx` and `--to torchscript` export it",
        metadata.network
    );
    if metadata.norms.epsilon != NormOptions::default().epsilon {
        say(format_args!(
            "its batch norms have an epsilon of {:e}, which the names do not say: set it in the other program",
            metadata.norms.epsilon
        ));
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "pth" || extension == "pt")
    {
        say(format_args!(
            "{} is a safetensors file: torch.load does not read it, safetensors.torch.load_file does",
            path.shown()
        ));
    }
    let norms = |size| (size, norms_of(metadata, arguments, size));
    let (names, what) = match size.map(norms) {
        None => {
            let what = format!("bn_0, bn_1, ... are {:?}", metadata.resolutions);
            (Names::Reference, what)
        }
        Some((size, norms)) => {
            let names = match form {
                Form::Timm => Names::Timm(size, norms),
                _ => Names::Torchvision(size, norms),
            };
            (names, single(metadata, size, norms))
        }
    };
    let count = pth::export(checkpoint, names, &arguments.prefix, path)?;
    Ok(format!("{count} tensors; {what}"))
}

/// A network that runs.
fn graph(
    checkpoint: &Checkpoint,
    form: Form,
    size: u32,
    arguments: &Export,
    path: &Path,
) -> Result<String> {
    let metadata = checkpoint.metadata();
    let options = Options {
        size,
        norms: norms_of(metadata, arguments, size),
        input: match arguments.input {
            Some(InputForm::Bytes) => Input::Bytes,
            Some(InputForm::Float) | None => Input::Float,
        },
        batch: arguments.batch.and_then(|batch| batch.0),
        softmax: arguments.softmax,
        preprocess: like_training(metadata, &[size], None, |line| say(line)),
    };
    let export = match form {
        Form::Torchscript => torchscript::export,
        _ => onnx::export,
    };
    let exported = export(checkpoint, &options, path, &|line| say(line));
    let exported = exported.map_err(|error| match is_out_of_memory(&error) {
        true => error.context(format!(
            "not enough memory to run the network on images of {size} pixels; a smaller --size takes less"
        )),
        false => error,
    })?;
    let what = match options.input {
        Input::Float => single(metadata, size, options.norms),
        Input::Bytes => format!(
            "for images of {size} pixels{}, as uint8 red, green, blue",
            with_norms(size, options.norms)
        ),
    };
    let differs = match exported.difference {
        0.0 => "are equal".to_owned(),
        difference => format!("differ by up to {difference:.1e} of the largest one"),
    };
    Ok(format!(
        "{}, {} operators, {:.2} MB; {what}; on random images its outputs and the checkpoint's {differs}",
        metadata.network,
        exported.nodes,
        exported.bytes as f64 / 1e6
    ))
}

/// Where the batch norms of a size come from; says so if the size was not trained.
fn norms_of(metadata: &Metadata, arguments: &Export, size: u32) -> NormsFrom {
    let chosen = arguments.batch_norm.map(|choice| (size, choice));
    if let Some(line) = sizes::tell_borrowed(metadata, size, chosen.as_slice()) {
        say(line);
    }
    sizes::norms(metadata, size, arguments.batch_norm)
}

/// What has to be known to use a network for one size.
fn single(metadata: &Metadata, size: u32, norms: NormsFrom) -> String {
    let of = with_norms(size, norms);
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

/// Whose batch norms they are, if not the size's own.
fn with_norms(size: u32, norms: NormsFrom) -> String {
    match norms {
        NormsFrom::Resolution(norm) if norm == size => String::new(),
        NormsFrom::Resolution(norm) => format!(" with the batch norms of {norm}"),
        NormsFrom::Between { below, above, .. } => {
            format!(" with batch norms between those of {below} and {above}")
        }
    }
}
