//! `rsflow import`: a PyTorch file to an rsflow checkpoint.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::did_you_mean;
use rsflow_model::checkpoint::write_atomically;
use rsflow_model::exchange::pth::{self, Imported, Layout, Momentum};
use rsflow_model::nn::networks::Network;
use rsflow_model::nn::summary::Summary;
use rsflow_model::nn::switchable::check_resolutions;
use rsflow_pipeline::is_hidden;

use super::usage::Usage;
use crate::cli::Import;
use crate::files::check_output;

pub fn run(arguments: &Import, out: &mut dyn Write) -> Result<ExitCode> {
    let known = Network::by_name(&arguments.arch)
        .filter(|network| !matches!(network, Network::QuantizedResNet(_)));
    let network = known.ok_or_else(|| {
        let near = did_you_mean(&arguments.arch, Network::NAMES.split(", "));
        Usage(format!(
            "--arch: there is no network named `{}`: {}",
            arguments.arch,
            near.unwrap_or_else(|| format!("there are {}", Network::NAMES))
        ))
    })?;
    let problems = check_resolutions(&network, &arguments.sizes)?;
    if !problems.is_empty() {
        return Err(Usage(format!("--sizes: {}", problems.join("; "))).into());
    }
    check_output(&arguments.out, "--out", arguments.force, &[&arguments.file])?;
    let class_names = arguments.class_names.as_deref();
    let class_names = class_names.map(class_names_of).transpose()?;
    let what = pth::Import {
        network: &network,
        resolutions: &arguments.sizes,
        class_names: class_names.as_deref(),
        key: arguments.key.as_deref(),
    };
    let imported = pth::import(&arguments.file, what)?;
    write_atomically(&imported.snapshot, &arguments.out)?;
    report(arguments, &network, &imported, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Upper bound of a list of class names, in bytes.
const MAX_NAMES: u64 = 64 << 20;

/// The class names: the lines of a file, or the names of a folder's subfolders.
fn class_names_of(path: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read class names from {}", path.shown());
    let mut names = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            if entry.path().is_dir() && !is_hidden(entry.file_name().as_encoded_bytes()) {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
    } else {
        let text = input_file::read_to_string(path, MAX_NAMES).with_context(cannot)?;
        names.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    ensure!(
        !names.is_empty() && names.iter().all(|name| !name.is_empty()),
        "{} must hold one class name on each line, or one folder for each class",
        path.shown()
    );
    Ok(names)
}

fn report(
    arguments: &Import,
    asked: &Network,
    imported: &Imported,
    out: &mut dyn Write,
) -> Result<()> {
    let metadata = imported.snapshot.metadata();
    let sizes = &metadata.resolutions;
    let classes = metadata.classes.len();
    let file = arguments.file.shown();
    let network = &metadata.network;
    let parameters =
        Summary::new(network, classes.try_into()?, sizes, sizes.as_slice())?.total_parameters;
    match imported.layout {
        Layout::Reference => writeln!(out, "{file}: a checkpoint of the reference implementation")?,
        Layout::Torchvision => writeln!(out, "{file}: weights of a network with one resolution")?,
    }
    if let Some(key) = &imported.key {
        let others = match imported.other_keys.join(", ") {
            others if others.is_empty() => others,
            others => format!("; also there: {others} (--key chooses)"),
        };
        writeln!(out, "  weights     those of {key}{others}")?;
    }
    if !imported.prefix.is_empty() {
        writeln!(out, "  names       without the prefix {}", imported.prefix)?;
    }
    let tensors = imported.tensors;
    let width = match network == asked {
        true => "",
        false => " (its width is that of the tensors)",
    };
    writeln!(
        out,
        "  network     {network}{width}, {classes} classes, {tensors} tensors"
    )?;
    writeln!(out, "  parameters  {parameters} at {sizes:?}")?;
    if imported.layout == Layout::Reference {
        writeln!(out, "  epochs      {}", metadata.epoch)?;
        match metadata.best {
            Some(best) => writeln!(
                out,
                "  best        {} % top-1 at {}, {} % on average",
                best.score,
                sizes.first().copied().unwrap_or_default(),
                best.mean
            )?,
            None => writeln!(out, "  best        not known")?,
        }
        match &imported.momentum {
            Momentum::Imported(0) => writeln!(out, "  momentum    none")?,
            Momentum::Imported(count) => writeln!(out, "  momentum    of {count} tensors")?,
            Momentum::Skipped(why) => writeln!(out, "  momentum    left out: {why}")?,
        }
    }
    let written = arguments.out.shown();
    match imported.layout {
        Layout::Reference => writeln!(
            out,
            "{written}: written\nto resume training: rsflow run RECIPE --resume {written}"
        )?,
        Layout::Torchvision => writeln!(
            out,
            "{written}: written; every size has the same batch norms, and images are normalized as for ImageNet\n\
             to fine-tune it, in the recipe's trainer: start_from: {:?}, normalize: {}",
            written.to_string(),
            metadata
                .normalize
                .map_or_else(|| "None".to_owned(), |by| by.to_string())
        )?,
    }
    Ok(())
}
