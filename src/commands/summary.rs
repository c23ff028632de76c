//! `rsflow summary`: parameters and multiply-adds of a network: a recipe's before it is trained, or a trained one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use rsflow_base::run_files::{RECIPE, best_checkpoint};
use rsflow_base::shown::Shown as _;
use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::nn::summary::Summary;

use super::recipes::{plan_with_classes, the_trainer};
use super::usage::Usage;
use crate::cli::{self, Overrides};
use crate::files::{check_output, checkpoint_of, is_stdout, write_json};
use crate::process::say;
use crate::table::{grid, millions, thousands};

pub fn run(arguments: &cli::Summary, out: &mut dyn Write) -> Result<ExitCode> {
    let source = source(&arguments.network)?;
    let (Source::Recipe(input) | Source::Checkpoint(input)) = &source;
    if let Some(path) = &arguments.json {
        check_output(path, "--json", arguments.force, &[input])?;
    }
    let summary = match &source {
        Source::Recipe(path) => of_recipe(path, &arguments.overrides)?,
        Source::Checkpoint(path) => {
            ensure!(
                arguments.overrides.set.is_empty(),
                Usage(format!(
                    "--set changes a recipe, and {} is a trained network",
                    path.shown()
                ))
            );
            of_checkpoint(path)?
        }
    };
    if let Some(file) = &arguments.json {
        write_json(file, &summary, out)?;
    }
    if !is_stdout(arguments.json.as_deref()) {
        writeln!(out, "{}", render(&summary))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What says which network it is.
enum Source {
    Recipe(PathBuf),
    Checkpoint(PathBuf),
}

/// Of a run that has no checkpoint yet, its recipe.
fn source(named: &Path) -> Result<Source> {
    let is_checkpoint = named.extension().is_some_and(|it| it == "safetensors");
    if !named.is_dir() && !is_checkpoint {
        return Ok(Source::Recipe(named.to_owned()));
    }
    let recipe = named.join(RECIPE);
    if recipe.is_file() && best_checkpoint(named).is_none() {
        return Ok(Source::Recipe(recipe));
    }
    checkpoint_of(named, |line| say(line)).map(Source::Checkpoint)
}

fn of_recipe(path: &Path, overrides: &Overrides) -> Result<Summary> {
    let plan = plan_with_classes(path, overrides)?;
    let (planned, trainer) = the_trainer(&plan, path)?;
    trainer.summary(&plan.incoming(planned))
}

fn of_checkpoint(path: &Path) -> Result<Summary> {
    let checkpoint = Checkpoint::open(path)?;
    let it = checkpoint.metadata();
    let norms = it.norms_of(&it.batch_norms.of(&it.resolutions));
    Summary::new(
        &it.network,
        it.classes.len().try_into()?,
        &it.resolutions,
        norms,
    )
}

fn render(summary: &Summary) -> String {
    let quantized = summary.network.is_quantized();
    let mut header = vec!["resolution", "MAdds"];
    header.extend(quantized.then_some("bit ops"));
    header.extend(["params", "private", "float32 file"]);
    header.extend(quantized.then_some("packed file"));
    let rows = summary.resolutions.iter().map(|cost| {
        let mut cells = vec![cost.resolution.to_string(), millions(cost.multiply_adds)];
        cells.extend(quantized.then(|| format!("{:.2} G", cost.bit_operations as f64 / 1e9)));
        cells.extend([
            thousands(cost.parameters),
            thousands(cost.private_parameters),
            megabytes(cost.float32_bytes),
        ]);
        cells.extend(quantized.then(|| megabytes(cost.packed_bytes)));
        cells
    });
    let mut text = format!(
        "{}\n\
         shared by all resolutions  {}\n\
         the whole, without alpha   {}\n\
         alpha                      {}",
        grid(&header, rows),
        thousands(summary.shared_parameters),
        thousands(summary.total_parameters),
        summary.alpha
    );
    if quantized {
        let packed = megabytes(summary.packed_bytes);
        text.push_str(&format!("\npacked, all resolutions    {packed}"));
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
