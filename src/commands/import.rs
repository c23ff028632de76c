//! `rsflow import`: a PyTorch file to an rsflow checkpoint.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Interpolation, did_you_mean};
use rsflow_model::checkpoint::write_atomically;
use rsflow_model::exchange::pth::{self, ImageConfig, ImagesFrom, Imported, Layout, Momentum};
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::nn::summary::Summary;
use rsflow_model::nn::switchable::check_resolutions;
use rsflow_pipeline::is_hidden;

use super::usage::Usage;
use crate::cli::Import;
use crate::files::check_output;

pub fn run(arguments: &Import, out: &mut dyn Write) -> Result<ExitCode> {
    let network = network(&arguments.arch)?;
    let problems = check_resolutions(&network, &arguments.sizes)?;
    if !problems.is_empty() {
        return Err(Usage(format!("--sizes: {}", problems.join("; "))).into());
    }
    let inputs: Vec<&Path> = std::iter::once(arguments.file.as_path())
        .chain(arguments.config.as_deref())
        .collect();
    check_output(&arguments.out, "--out", arguments.force, &inputs)?;
    let config = config(arguments)?;
    let class_names = arguments.class_names.as_deref();
    let class_names = class_names.map(class_names_of).transpose()?;
    let what = pth::Import {
        network: &network,
        resolutions: &arguments.sizes,
        class_names: class_names.as_deref(),
        key: arguments.key.as_deref(),
        config: config.as_ref().map(|(_, config)| config),
        fraction: arguments.fraction,
    };
    let imported = pth::import(&arguments.file, what)?;
    write_atomically(&imported.snapshot, &arguments.out)?;
    let config = config.as_ref().map(|(path, _)| path.as_path());
    report(arguments, &network, &imported, config, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Beginnings of the names of networks that differ by more than a typing mistake.
const OTHER_NETWORKS: [&str; 6] = [
    "mobilenetv1",
    "mobilenetv3",
    "mobilenet_v3",
    "mobilenetv4",
    "resnetv2",
    "resnest",
];

/// The network of `--arch`.
fn network(arch: &str) -> Result<Network> {
    let known = Network::by_name(arch);
    if let Some(network) = known.filter(|network| !matches!(network, Network::QuantizedResNet(_))) {
        return Ok(network);
    }
    let names = || Network::NAMES.split(", ");
    // `resnet50d` and `wide_resnet50_2` are no misspellings of `resnet50`.
    let families = names().chain(["mobilenetv2"]);
    let contained = families.filter(|known| arch.contains(known));
    let why = match contained.max_by_key(|known| known.len()) {
        Some(known) => format!(
            "it is another network than `{known}`; there are {}",
            Network::NAMES
        ),
        None if OTHER_NETWORKS.iter().any(|other| arch.starts_with(other)) => {
            format!("there are {}", Network::NAMES)
        }
        None => {
            did_you_mean(arch, names()).unwrap_or_else(|| format!("there are {}", Network::NAMES))
        }
    };
    let arch = arch.shown();
    Err(Usage(format!("--arch: there is no network named `{arch}`: {why}")).into())
}

/// Upper bound of timm's `config.json`, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// The configuration that `--config` names, or that is beside the file, and its path.
fn config(arguments: &Import) -> Result<Option<(PathBuf, ImageConfig)>> {
    let read = |path: &Path| -> Result<Option<ImageConfig>> {
        ImageConfig::parse(&input_file::read_to_string(path, MAX_CONFIG)?)
    };
    if let Some(path) = &arguments.config {
        let config = read(path).with_context(|| format!("cannot read {}", path.shown()))?;
        let config = config.with_context(|| {
            format!(
                "{} has no `pretrained_cfg`, and none of mean, std, interpolation and crop_pct; \
                 --config takes timm's config.json",
                path.shown()
            )
        })?;
        return Ok(Some((path.clone(), config)));
    }
    let path = arguments.file.with_file_name("config.json");
    let text = input_file::read_to_string(&path, MAX_CONFIG);
    // Any program may have put it there.
    let Some(text) = text.ok().filter(|text| text.contains("\"pretrained_cfg\"")) else {
        return Ok(None);
    };
    let config = ImageConfig::parse(&text).with_context(|| {
        format!(
            "cannot read {}, which is beside the weights; --config names another",
            path.shown()
        )
    })?;
    Ok(config.map(|config| (path, config)))
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
    config: Option<&Path>,
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
        Layout::Timm => writeln!(
            out,
            "{file}: weights of a network with one resolution, under timm's names"
        )?,
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
    report_images(imported, config, out)?;
    let written = arguments.out.shown();
    match imported.layout {
        Layout::Reference => writeln!(
            out,
            "{written}: written\nto resume training: rsflow run RECIPE --resume {written}"
        )?,
        Layout::Torchvision | Layout::Timm => {
            let quoted = written.to_string();
            let normalize = metadata.normalize.map(|by| by.to_string());
            writeln!(
                out,
                "{written}: written; every size has the same batch norms\n\
                 to fine-tune it, in the recipe's trainer: start_from: {quoted:?}, normalize: {}",
                normalize.unwrap_or_else(|| "None".to_owned())
            )?;
            if let Network::ResNet(ResNet {
                depth: 50,
                width: 64,
            }) = network
            {
                writeln!(
                    out,
                    "such a recipe: rsflow run recipes/resnet50_finetune.ron --set trainer.start_from={written}"
                )?;
            }
        }
    }
    Ok(())
}

/// How images are made for the network, and how that is known.
fn report_images(imported: &Imported, config: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    let metadata = imported.snapshot.metadata();
    let Some(preprocess) = metadata.preprocess else {
        return Ok(());
    };
    let interpolation = match preprocess.interpolation {
        Interpolation::AntialiasedBilinear => "bilinear",
        Interpolation::AntialiasedBicubic => "bicubic",
        Interpolation::Bicubic => "bicubic without antialiasing",
    };
    let fraction = preprocess.fraction;
    let by = metadata.normalize.map(|by| format!(", {by}"));
    writeln!(
        out,
        "  images      {interpolation}, fraction {fraction}{}",
        by.unwrap_or_default()
    )?;
    match (imported.images, config) {
        (ImagesFrom::Config, Some(path)) => writeln!(out, "              as in {}", path.shown())?,
        (ImagesFrom::Arguments, _) => {
            writeln!(out, "              as the file's `args` say")?;
        }
        _ => writeln!(
            out,
            "              assumed: the file does not say it; --config and --fraction change it, and \
             `eval --fraction`"
        )?,
    }
    if let Some(name) = &imported.replaced_interpolation {
        writeln!(
            out,
            "              bilinear in place of {}, which is not supported",
            name.shown()
        )?;
    }
    Ok(())
}
