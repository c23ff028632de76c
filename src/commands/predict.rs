//! `rsflow predict`: classifies images at one resolution.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use rsflow_graph::counted;
use rsflow_model::checkpoint::NormsFrom;
use rsflow_model::nn::compute::{ExecConfig, Precision, ProcessSettings};
use rsflow_model::nn::kernels::Fused;
use rsflow_pipeline::{MAX_IMAGE_BYTES, is_image};
use rsflow_serve::{Budget, Folding, Prediction, RsNet};
use serde_json::json;

use super::usage::Usage;
use super::{checkpoint, preprocess, sizes};
use crate::cli::{Computing, Predict};
use crate::files::{check_output, checkpoint_of, is_stdout, write_json};
use crate::next_commands::word;
use crate::process::{self, say};
use crate::table;

/// The name of an image that comes from stdin.
const STDIN: &str = "-";

pub fn run(arguments: &Predict, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(json) = arguments.json.as_deref().filter(|path| is_image(path)) {
        bail!(Usage(format!(
            "--json needs a file for the predictions, and {} is an image; `--json -` prints them",
            json.shown()
        )));
    }
    let (named, images) = named(arguments)?;
    let mut files = images.iter().filter(|path| !path.is_dir());
    files.try_for_each(|path| check_is_no_list(path))?;
    let path = checkpoint_of(named, |line| say(line))?;
    let images = list(images)?;
    if let Some(json) = &arguments.json {
        let inputs = images.iter().chain([&path]);
        let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
        check_output(json, "--json", arguments.force, &inputs)?;
    }
    let checkpoint = checkpoint::open(&path, &arguments.opening, |line| say(line))?;
    let metadata = checkpoint.metadata();
    let largest = metadata.resolutions.iter().max().copied();
    let size = arguments.size.or(largest);
    let size = size.context("the checkpoint has no resolutions; --size names one")?;
    let named = arguments.batch_norm.map(|norm| (size, norm));
    let named = named.as_slice();
    sizes::check(metadata, &path, &[size], named)?;
    if metadata.classes.iter().all(String::is_empty) {
        say(
            "the names of the classes are not known: they are numbered from 0 (`import --class-names` keeps names)",
        );
    }
    if let Some(line) = sizes::tell_borrowed(metadata, size, named) {
        say(line);
    }
    let norms = sizes::norms(metadata, size, arguments.batch_norm);
    let Computing { device, precision } = arguments.compute;
    process::prepare(Some(ProcessSettings {
        device,
        tf32: precision == Precision::TensorFloat32,
        deterministic: false,
        threads: None,
    }))?;
    let compute = ExecConfig::resolve(device, precision, metadata.hints()?)?;
    let compute = compute.with_kernels(Fused::Auto);
    let sizes = [size];
    let by = preprocess::like_training(metadata, &sizes, arguments.fraction, |line| say(line));
    let net = RsNet::load(&checkpoint, &[(size, norms)], by, compute, Folding::Auto)?;
    let top = usize::try_from(arguments.top).unwrap_or(usize::MAX);
    let mut failed = 0;
    let mut predicted = Vec::new();
    for path in &images {
        match predict(&net, path, top) {
            Ok(predictions) => predicted.push((path, predictions)),
            Err(error) => {
                failed += 1;
                say(format_args!("error: {}: {error:#}", path.shown()));
            }
        }
    }
    if !is_stdout(arguments.json.as_deref()) && !predicted.is_empty() {
        let rows = predicted.iter().flat_map(|(image, predictions)| {
            let names = std::iter::once(image.shown().to_string());
            let names = names.chain(std::iter::repeat(String::new()));
            names.zip(predictions).map(|(image, prediction)| {
                let class = match prediction.class.as_str() {
                    "" => prediction.index.to_string(),
                    class => class.to_owned(),
                };
                let probability = format!("{:.2}", 100.0 * prediction.probability);
                vec![image, class, probability]
            })
        });
        let class = format!("class at {size} pixels");
        let header = ["image", &class, "probability %"];
        writeln!(out, "{}", table::grid(&header, rows))?;
    }
    if let Some(json) = &arguments.json {
        let images = predicted
            .iter()
            .map(|(image, predictions)| json!({ "image": image, "predictions": predictions }));
        let value = json!({
            "checkpoint": path,
            "weights": checkpoint.weights().to_string(),
            "size": size,
            "batch_norm": match norms {
                NormsFrom::Resolution(norm) => json!(norm),
                NormsFrom::Between { below, above, .. } => json!([below, above]),
            },
            "images": images.collect::<Vec<_>>(),
        });
        write_json(json, &value, out)?;
    }
    if failed > 0 {
        say(format_args!("{failed} of {} images failed", images.len()));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkpoint or run directory, and what was named as images.
fn named(arguments: &Predict) -> Result<(&Path, &[PathBuf])> {
    let images = arguments.images.as_slice();
    match (&arguments.checkpoint, images) {
        (Some(checkpoint), images) => Ok((checkpoint, images)),
        (None, [first, others @ ..]) if !others.is_empty() && !is_image(first) => {
            Ok((first, others))
        }
        (None, _) => bail!(Usage(
            "name a run directory or a checkpoint and then the images: rsflow predict RUN_DIR IMAGE..."
                .to_owned()
        )),
    }
}

/// Refuses files that hold images, or their names, by their endings.
fn check_is_no_list(path: &Path) -> Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let place = path.shown();
    match ending.unwrap_or_default() {
        "tar" => bail!(Usage(format!(
            "{place} is an archive: unpack it, and name the folder; images of a tar of class folders are predicted by \
             `rsflow eval RUN_DIR --data {} --predictions FILE.csv`",
            word(path)
        ))),
        "tgz" | "gz" | "zip" => bail!(Usage(format!(
            "{place} is an archive: unpack it, and name the folder"
        ))),
        "txt" | "csv" | "lst" => bail!(Usage(format!(
            "{place} is not an image; those of a list, one a line: `xargs -d '\\n' -a {} rsflow predict \
             RUN_DIR`",
            word(path)
        ))),
        _ => Ok(()),
    }
}

/// The images that were named: files, those of folders, stdin.
fn list(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in named {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let (images, passed_over) = rsflow_pipeline::images_in(path)?;
        let passed_over = match passed_over.to_string() {
            text if text.is_empty() => text,
            text => format!(" ({text})"),
        };
        let count = counted(images.len(), "image");
        let line = format!("{}: {count}{passed_over}", path.shown());
        ensure!(!images.is_empty(), "{line}");
        say(line);
        all.extend(images);
    }
    Ok(all)
}

fn predict(net: &RsNet, path: &Path, top: usize) -> Result<Vec<Prediction>> {
    let bytes = match path == Path::new(STDIN) {
        false => input_file::read(path, MAX_IMAGE_BYTES),
        true => input_file::read_all(std::io::stdin().lock(), 0, MAX_IMAGE_BYTES),
    };
    let bytes = bytes.context("cannot read the file")?;
    Ok(net.classify(&bytes, Budget::None, top)?.predictions)
}
