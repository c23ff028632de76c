//! `rsflow summary`: parameters and multiply-adds of a recipe's network, before it is trained.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use rsflow_model::nn::summary::Summary;

use super::recipes::{plan_with_classes, the_trainer};
use crate::cli;
use crate::files::{check_output, is_stdout, write_json};
use crate::table::{grid, millions, thousands};

pub fn run(arguments: &cli::Summary, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        check_output(path, "--json", arguments.force, &[&arguments.recipe])?;
    }
    let plan = plan_with_classes(&arguments.recipe, &arguments.overrides)?;
    let (planned, trainer) = the_trainer(&plan, &arguments.recipe)?;
    let summary = trainer.summary(&plan.incoming(planned))?;
    if let Some(file) = &arguments.json {
        write_json(file, &summary, out)?;
    }
    if !is_stdout(arguments.json.as_deref()) {
        writeln!(out, "{}", render(&summary))?;
    }
    Ok(ExitCode::SUCCESS)
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
