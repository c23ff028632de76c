//! `rsflow eval`: the table of resolutions for a checkpoint.
//!
//! The command writes a recipe (images prepared as the checkpoint says, and an `Evaluate` node) and
//! runs it.

pub mod latency;
mod plot;
mod trained_on;

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Budget, Options, Plan, Preprocess, Recipe, Resize, RunError, Skipped, Text};
use rsflow_model::checkpoint::{Checkpoint, Metadata, NormsFrom};
use rsflow_model::train::lookup::process_settings;
use rsflow_model::train::metrics::Table;
use serde_json::json;

use super::images::{Half, Images};
use super::usage::{Usage, many};
use super::{checkpoint, preprocess, sizes};
use crate::catalogue::{self, CATALOGUE};
use crate::cli::{Eval, NormChoice};
use crate::files::{check_output, checkpoint_of, is_stdout, replace, write_json};
use crate::process::{self, INTERRUPTED};
use crate::progress::{Progress, Screen};
use crate::{skipped, table};
use latency::Latency;

/// The node that measures.
const EVALUATION: &str = "evaluation";
/// The node that reads the images to measure on.
const FILES: &str = "val_files";
/// The node that reads the images to calibrate with.
const CALIBRATION_FILES: &str = "train_files";

pub fn run(arguments: &Eval, out: &mut dyn Write) -> Result<ExitCode> {
    let images = arguments.data.as_deref();
    let images = images.map(|path| Images::find(path, Half::Val, "--data"));
    let images = images.transpose()?;
    let screen = Screen::new(std::io::stderr().is_terminal());
    process::log(None, &screen)?;
    let path = checkpoint_of(arguments.trained.path(), |line| screen.line(line))?;
    if let Some(json) = &arguments.json {
        check_output(json, "--json", arguments.force, &[&path])?;
    }
    for (option, file) in [
        ("--store", &arguments.store),
        ("--predictions", &arguments.predictions),
        ("--plot", &arguments.plot),
    ] {
        if let Some(file) = file {
            ensure!(
                !is_stdout(Some(file)),
                Usage(format!(
                    "{option} needs a file; only --json writes to stdout"
                ))
            );
            check_output(file, option, arguments.force, &[&path])?;
        }
    }
    let outputs = [
        &arguments.json,
        &arguments.store,
        &arguments.predictions,
        &arguments.plot,
    ];
    let outputs: Vec<&Path> = outputs
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    let mut distinct = outputs.iter().enumerate();
    ensure!(
        distinct.all(|(at, path)| !outputs[..at].contains(path)),
        Usage("--json, --store, --predictions and --plot need a file each".to_owned())
    );
    let tell = |line: &str| screen.line(line);
    let checkpoint = checkpoint::open(&path, &arguments.opening, tell)?;
    let metadata = checkpoint.metadata();
    let images = images.map_or_else(|| Images::of_run(metadata), Ok)?;
    let recipe = recipe(arguments, &path, &images, metadata, &screen)?;
    let text = Text::new("the evaluation's recipe", recipe);
    let plan = Plan::with_taps(
        Recipe::parse(text, catalogue::EVALUATION, &[])?,
        &[EVALUATION],
    )?;
    process::prepare(process_settings(&plan))?;
    let way_out = match arguments.data {
        Some(_) => "without --data those are measured that it was validated on",
        None => "--data FOLDER names others",
    };
    if let Some(warning) = trained_on::warning(&plan, FILES, metadata, way_out) {
        tracing::warn!("{warning}");
    }
    let progress = Progress::new(screen.clone());
    let options = Options {
        allocator: plan.allocator(),
        taps: progress.taps(&plan),
        ..Options::default()
    };
    let message = "interrupted: finishing the current batch; press Ctrl-C again to quit now";
    let finished = process::start(&plan, options, message).and_then(|running| Ok(running.wait()?));
    progress.end();
    let finished = finished.map_err(|error| name_options(error, &screen));
    let skipped = finished.as_ref().map_or(&[][..], |run| &run.skipped);
    skipped::tell(skipped, &screen);
    // Results are printed even if a file cannot be written.
    let table = progress.last_table();
    let measured = match &table {
        Some(table) if arguments.latency && finished.as_ref().is_ok_and(|run| !run.interrupted) => {
            let sizes = sizes_of(table, metadata, &arguments.batch_norm);
            latency::measure(arguments, &checkpoint, &sizes, &screen)
        }
        _ => Ok(Vec::new()),
    };
    let latencies = measured.as_deref().unwrap_or_default();
    let data = arguments.data.as_ref().map(|_| &images);
    if let Some(table) = &table {
        if !is_stdout(arguments.json.as_deref()) {
            writeln!(
                out,
                "{}\n{} ({}), {}",
                match arguments.matrix {
                    true => table::matrix(table),
                    false if latencies.is_empty() => table::render(table),
                    false => latency::render(table, metadata, latencies),
                },
                path.shown(),
                many(metadata.epoch, "epoch"),
                many(table.images, "image")
            )?;
        }
        if let Some(json) = &arguments.json {
            write_json(
                json,
                &as_json(&checkpoint, data, table, latencies, skipped),
                out,
            )?;
        }
    }
    if let (Some(path), Some(table), false) = (&arguments.plot, &table, latencies.is_empty()) {
        let classes = metadata.classes.len();
        let figure = plot::svg(&metadata.network, classes, table, latencies)?;
        let written = replace(path, figure.as_bytes());
        written.with_context(|| format!("cannot write {}", path.shown()))?;
        screen.line(&format!("{} has the figure", path.shown()));
    }
    if finished?.interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    table.context("the evaluation ended without a table")?;
    measured.context("cannot measure the latency")?;
    if let Some(path) = &arguments.predictions {
        screen.line(&format!("{} has what was predicted", path.shown()));
    }
    if let Some(path) = &arguments.store {
        screen.line(&format!(
            "{} has the calibrated batch norms too",
            path.shown()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Keys may be added in time; none goes or changes its meaning. `data`: the images that were named; null for those
/// of the run's validation.
fn as_json(
    checkpoint: &Checkpoint,
    data: Option<&Images>,
    table: &Table,
    latencies: &[Latency],
    skipped: &[Skipped],
) -> serde_json::Value {
    let mut value = json!({
        "checkpoint": checkpoint.path(),
        "weights": checkpoint.weights().to_string(),
        "data": data.map(Images::to_string),
        "epochs": checkpoint.metadata().epoch,
        "images": table.images,
        "rows": table.rows,
        "seconds": table.seconds,
        "skipped": skipped,
    });
    if !latencies.is_empty() {
        value["latencies"] = json!(latencies);
    }
    value
}

/// The recipe that measures what was asked for.
fn recipe(
    arguments: &Eval,
    checkpoint: &Path,
    images: &Images,
    metadata: &Metadata,
    screen: &Screen,
) -> Result<String> {
    let usage = |text: String| anyhow::Error::new(Usage(text));
    let sizes = match arguments.sizes.as_slice() {
        [] => &metadata.resolutions,
        sizes => sizes,
    };
    sizes::check(metadata, checkpoint, sizes, &arguments.batch_norm)?;
    if arguments.matrix && !arguments.batch_norm.is_empty() && arguments.calibrate.is_none() {
        return Err(usage(
            "--matrix has all batch norms; --batch-norm only says which ones --calibrate starts with".to_owned(),
        ));
    }
    let untrained = sizes.iter().filter(|s| !metadata.resolutions.contains(s));
    let untrained: Vec<u32> = untrained.copied().collect();
    let calibrate = arguments.calibrate.filter(|_| !untrained.is_empty());
    if arguments.calibrate.is_some() && untrained.is_empty() {
        return Err(usage(format!(
            "--calibrate: every one of the sizes {sizes:?} was trained and has batch norms of its own; \
             leave it out, or name other --sizes"
        )));
    }
    let tell = |line: &str| screen.line(line);
    let by = preprocess::like_training(metadata, sizes, arguments.fraction, tell);
    let mut nodes = vec![
        format!(r#""{FILES}": {}"#, images.node(false)),
        format!(
            r#""val_images": Preprocessed(input: "{FILES}", sizes: {sizes:?}, by: {}, on_error: {})"#,
            ron::to_string(&by)?,
            on_error(arguments.skip, metadata)?
        ),
        format!(
            r#""val_batches": Batch(input: "val_images", size: {})"#,
            arguments.batch
        ),
    ];
    let mut fields = vec![
        r#"input: "val_batches""#.to_owned(),
        format!("checkpoint: {checkpoint:?}"),
        format!("class_order: {:?}", arguments.class_order),
    ];
    let named = norms(&arguments.batch_norm, metadata);
    fields.push(format!("batch_norms: {named:?}"));
    fields.extend(arguments.matrix.then(|| "matrix: true".to_owned()));
    fields.push(format!("same_images: {}", arguments.data.is_none()));
    let predictions = arguments.predictions.as_ref();
    fields.extend(predictions.map(|path| format!("predictions: {path:?}")));
    let weights = arguments.opening.weights.as_ref();
    fields.extend(weights.map(|weights| format!("weights: Some({weights:?})")));
    fields.extend(arguments.threads.map(|n| format!("threads: {n}")));
    fields.push(format!("device: {:?}", arguments.compute.device));
    fields.push(format!("precision: {:?}", arguments.compute.precision));
    if let Some(count) = calibrate {
        let train = match &arguments.calibration_data {
            Some(path) => Images::find(path, Half::Train, "--calibration-data")?,
            None => images.training_beside().with_context(|| {
                Usage(format!(
                    "--calibrate needs training images: {images} has no val/ and train/ in it; --calibration-data names a folder"
                ))
            })?,
        };
        nodes.extend(calibration(&train, &by, &untrained, arguments.batch));
        fields.push(r#"calibrate: "train_batches""#.to_owned());
        fields.push(format!("calibration_images: {count}"));
        let store = arguments.store.as_ref();
        fields.extend(store.map(|path| format!("store: {path:?}")));
        screen.line(&format!(
            "statistics for {} come from up to {} of {train}",
            untrained
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            many(count, "image")
        ));
    } else if !arguments.matrix {
        for size in untrained {
            if let Some(line) = sizes::tell_borrowed(metadata, size, &arguments.batch_norm) {
                screen.line(&format!("{line}, --calibrate measures some"));
            }
        }
    }
    nodes.push(format!(
        r#""{EVALUATION}": Evaluate({})"#,
        fields.join(", ")
    ));
    Ok(format!(
        "(\n    seed: {},\n    nodes: {{\n        {},\n    }},\n)",
        arguments.seed,
        nodes.join(",\n        ")
    ))
}

/// What becomes of damaged images, as a recipe has it: what was asked for, else as the training validated.
fn on_error(skip: Option<Budget>, metadata: &Metadata) -> Result<String> {
    if let Some(budget) = skip {
        return Ok(format!("Skip(budget: {})", ron::to_string(&budget)?));
    }
    let text = Text::new("the checkpoint's recipe", metadata.recipe.as_str());
    let recipe = Recipe::parse(text, CATALOGUE, &[]).ok();
    let of_training =
        recipe.and_then(|recipe| Some(recipe.field_of("validate", "on_error")?.to_owned()));
    Ok(of_training.unwrap_or_else(|| "Fail".to_owned()))
}

/// Names this command's options in place of parameters of nodes, of which the user wrote none: the one with which
/// damaged images do not end an evaluation, and those that say where the images are.
fn name_options(mut error: anyhow::Error, screen: &Screen) -> anyhow::Error {
    let Some(run) = error.downcast_mut::<RunError>() else {
        return error;
    };
    for failure in run.failures.iter_mut().filter(|it| it.way_out.is_some()) {
        let option = match failure.node.name.as_str() {
            CALIBRATION_FILES => "--calibration-data",
            _ => "--data",
        };
        failure.way_out = Some(format!("`{option} FOLDER` names where the images are now"));
    }
    let mut failures = run.failures.iter_mut();
    if let Some(budget) = failures.find_map(|failure| failure.budget.take()) {
        screen.line(&format!(
            "--skip {budget} passes over damaged images, up to that share or number, and lists them"
        ));
    }
    error
}

/// The sizes of a table, each with the batch norms that it was measured with.
fn sizes_of(
    table: &Table,
    metadata: &Metadata,
    chosen: &[(u32, NormChoice)],
) -> Vec<(u32, NormsFrom)> {
    let sizes = table.rows.iter().filter_map(|row| row.resolution);
    let choice = |size| chosen.iter().find(|(of, _)| *of == size).map(|(_, c)| *c);
    sizes
        .map(|size| (size, sizes::norms(metadata, size, choice(size))))
        .collect()
}

/// Pairs of sizes and the resolutions whose batch norms they run with. What is interpolated needs none.
fn norms(chosen: &[(u32, NormChoice)], metadata: &Metadata) -> Vec<(u32, u32)> {
    let named = chosen.iter().filter_map(|(size, choice)| {
        match sizes::norms(metadata, *size, Some(*choice)) {
            NormsFrom::Resolution(norm) => Some((*size, norm)),
            NormsFrom::Between { .. } => None,
        }
    });
    named.collect()
}

/// The nodes that make random crops, as training does where images are measured on as `by` says.
fn calibration(images: &Images, by: &Preprocess, sizes: &[u32], batch: u32) -> Vec<String> {
    let Preprocess {
        exif_orientation,
        max_pixels,
        ..
    } = by;
    let mut nodes = vec![
        format!(r#""{CALIBRATION_FILES}": {}"#, images.node(true)),
        format!(
            r#""train_images": DecodeImage(input: "{CALIBRATION_FILES}", exif_orientation: {exif_orientation}, max_pixels: {max_pixels})"#
        ),
        format!(r#""train_batches": Batch(input: "train_sizes", size: {batch}, drop_last: false)"#),
    ];
    nodes.extend(match by.resize {
        Resize::ShortSide => [
            r#""train_crops": RandomResizedCrop(input: "train_images")"#.to_owned(),
            format!(r#""train_sizes": Resize(input: "train_crops", sizes: {sizes:?}, flip: 0.5)"#),
        ],
        Resize::Cascade { side } => [
            format!(
                r#""train_crops": CascadedRandomCrop(input: "train_images", sizes: {sizes:?}, from: {side}, flip: 0.5)"#
            ),
            r#""train_sizes": Lighting(input: "train_crops")"#.to_owned(),
        ],
    });
    nodes
}
