//! `rsflow summary`: what a recipe's network costs, before it is trained.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use rsflow_model::summary::Summary;
use rsflow_model::trainer::Trainer;

use super::{Usage, plan};
use crate::cli;
use crate::files::{is_stdout, write_json};
use crate::table::{grid, millions, thousands};

pub fn run(arguments: &cli::Summary, out: &mut dyn Write) -> Result<ExitCode> {
    let plan = plan(&arguments.recipe, &arguments.overrides)?;
    let nodes = plan.nodes().iter();
    let trainers: Vec<_> = nodes
        .filter_map(|planned| Some((planned, planned.node::<Trainer>()?)))
        .collect();
    let [(planned, trainer)] = trainers[..] else {
        bail!(Usage(format!(
            "a summary is that of one trainer, but {} has {}; `rsflow nodes RsNet` shows how one is written",
            arguments.recipe.display(),
            trainers.len()
        )));
    };
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
    let header = ["resolution", "MAdds", "params", "private", "float32 file"];
    let rows = summary.resolutions.iter().map(|cost| {
        vec![
            cost.resolution.to_string(),
            millions(cost.multiply_adds),
            thousands(cost.parameters),
            thousands(cost.private_parameters),
            format!("{:.1} MB", cost.float32_bytes as f64 / 1e6),
        ]
    });
    format!(
        "{}\n\
         shared by all resolutions  {}\n\
         the whole, without alpha   {}\n\
         alpha                      {}",
        grid(&header, rows),
        thousands(summary.shared_parameters),
        thousands(summary.total_parameters),
        summary.alpha
    )
}
