//! `rsflow predict`: classifies images at one resolution.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rsflow_graph::Preprocess;
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::nn::compute::{ExecConfig, Precision, ProcessSettings};
use rsflow_model::predictor::{Prediction, Predictor};
use serde_json::json;

use super::{preprocess, sizes};
use crate::cli::{Computing, Predict};
use crate::files::{check_output, is_stdout, write_json};
use crate::process::{self, say};
use crate::table;

pub fn run(arguments: &Predict, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        let images = arguments.images.iter().map(|image| image.as_path());
        let inputs: Vec<&Path> = images.chain([arguments.checkpoint.as_path()]).collect();
        check_output(path, "--json", arguments.force, &inputs)?;
    }
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let metadata = checkpoint.metadata();
    let named = arguments.batch_norm.map(|norm| (arguments.size, norm));
    let named = named.as_slice();
    sizes::check(metadata, &arguments.checkpoint, &[arguments.size], named)?;
    if let Some(line) = sizes::tell_borrowed(metadata, arguments.size, named) {
        say(line);
    }
    let norm = arguments
        .batch_norm
        .unwrap_or_else(|| metadata.batch_norm_for(arguments.size));
    let Computing { device, precision } = arguments.compute;
    process::prepare(Some(ProcessSettings {
        device,
        tf32: precision == Precision::TensorFloat32,
        deterministic: false,
        threads: None,
    }))?;
    let compute = ExecConfig::resolve(device, precision, metadata.hints()?)?;
    let predictor = Predictor::open(&checkpoint, arguments.size, norm, compute)?;
    let sizes = [arguments.size];
    let by = preprocess::like_training(metadata, &sizes, arguments.fraction, |line| say(line));
    let top = usize::try_from(arguments.top).unwrap_or(usize::MAX);
    let mut failed = 0;
    let mut predicted = Vec::new();
    for path in &arguments.images {
        match predict(&predictor, path, &by, top) {
            Ok(predictions) => predicted.push((path, predictions)),
            Err(error) => {
                failed += 1;
                say(format_args!("error: {}: {error:#}", path.display()));
            }
        }
    }
    if !is_stdout(arguments.json.as_deref()) && !predicted.is_empty() {
        let rows = predicted.iter().flat_map(|(image, predictions)| {
            let names = std::iter::once(image.display().to_string());
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
        let header = ["image", "class", "probability %"];
        writeln!(out, "{}", table::grid(&header, rows))?;
    }
    if let Some(path) = &arguments.json {
        let images = predicted
            .iter()
            .map(|(image, predictions)| json!({ "image": image, "predictions": predictions }));
        let value = json!({
            "checkpoint": arguments.checkpoint,
            "size": arguments.size,
            "batch_norm": norm,
            "images": images.collect::<Vec<_>>(),
        });
        write_json(path, &value, out)?;
    }
    if failed > 0 {
        say(format_args!(
            "{failed} of {} images failed",
            arguments.images.len()
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn predict(
    predictor: &Predictor,
    path: &Path,
    by: &Preprocess,
    top: usize,
) -> Result<Vec<Prediction>> {
    let bytes = std::fs::read(path).context("cannot read the file")?;
    let pixels = rsflow_pipeline::preprocess::pixels(by, &bytes, predictor.size())?;
    predictor.predict(&pixels, top)
}
