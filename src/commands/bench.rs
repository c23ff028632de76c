//! `rsflow bench`: how fast a recipe's parts are on this machine.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rsflow_graph::{Plan, Planned};
use rsflow_model::nn::compute::is_out_of_memory;
use rsflow_model::train::trainer::benchmark::{Benchmark, Measured, peak};
use rsflow_pipeline::nodes;
use serde_json::{Value, json};

use super::profile::{self, TRAIN};
use super::{Usage, plan, the_trainer};
use crate::cli::{Bench, BenchPart, Only};
use crate::figures::{percent, rate};
use crate::files::{self, is_stdout, write_json};
use crate::progress::Screen;
use crate::run_dir;
use crate::table::{grid, time};

/// A larger batch has to be so much faster to count as better.
const BETTER: f64 = 1.03;
/// The largest batch that inference is tried with, and how long a batch may take for a larger one to
/// be tried.
const MOST: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// A line of the table.
struct Row {
    part: &'static str,
    resolution: Option<u32>,
    /// `None` where the recipe does not tell.
    batch: Option<u64>,
    images_per_second: f64,
    /// Of a step or a batch.
    median: Option<Duration>,
    /// Of what the device can do at best.
    share: Option<f64>,
    peak_memory: Option<u64>,
}

pub fn run(arguments: &Bench, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        files::check_place(path, "--json")?;
    }
    let screen = Screen::new(std::io::stderr().is_terminal());
    run_dir::log(None, &screen)?;
    let plan = plan(&arguments.recipe, &arguments.overrides)?;
    let (planned, trainer) = the_trainer(&plan, &arguments.recipe)?;
    let its_batch = train_batch(&plan, planned);
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let seconds = Duration::from_secs_f64(arguments.seconds);

    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let mut computes = None;
    let mut peak_rate = None;
    // The data nodes alone need neither network nor device.
    let computing = [BenchPart::Step, BenchPart::Inference, BenchPart::Whole];
    if computing.into_iter().any(wanted) {
        let mut benchmark = trainer.benchmark(&plan.incoming(planned))?;
        computes = Some(benchmark.computes());
        if wanted(BenchPart::Step) || wanted(BenchPart::Inference) {
            let seconds = seconds.min(Duration::from_secs(2));
            peak_rate = Some(peak(benchmark.compute(), seconds)?);
        }
        if wanted(BenchPart::Step) {
            let batch = arguments.batch.map(u64::from).or(its_batch);
            let batch = batch.context(Usage(
                "the recipe does not say how large a training batch is: --batch does".to_owned(),
            ))?;
            screen.line(&format!("training steps of {batch} images"));
            match benchmark.steps(batch, seconds) {
                Ok(measured) => {
                    let row = row("training step", None, batch, measured);
                    rows.push(row.with_share(benchmark.step_multiply_adds(), peak_rate));
                }
                Err(error) => failed.push(("training step", error)),
            }
        }
        if wanted(BenchPart::Inference) {
            let resolutions = benchmark.net().summary().resolutions.clone();
            for (position, cost) in resolutions.iter().enumerate() {
                screen.line(&format!("inference at {}", cost.resolution));
                let tried = match inference(&mut benchmark, position, seconds) {
                    Ok(tried) => tried,
                    Err(error) => {
                        failed.push(("inference", error));
                        break;
                    }
                };
                rows.extend(tried.into_iter().map(|(batch, measured)| {
                    let row = row("inference", Some(cost.resolution), batch, measured);
                    row.with_share(cost.multiply_adds, peak_rate)
                }));
            }
        }
    } // its memory is free for the whole
    for (part, name, only) in [
        (BenchPart::Pipeline, "pipeline", Only::Pipeline),
        (BenchPart::Whole, "whole", Only::Both),
    ] {
        if !wanted(part) {
            continue;
        }
        match profile::images_per_second(arguments, only, &screen) {
            Ok(images_per_second) => rows.push(Row {
                part: name,
                resolution: None,
                batch: its_batch,
                images_per_second,
                median: None,
                share: None,
                peak_memory: None,
            }),
            Err(error) => failed.push((name, error)),
        }
    }
    if let Some(path) = &arguments.json {
        let value = json!({
            "recipe": arguments.recipe,
            "computes": computes,
            "peak_multiply_adds_per_second": peak_rate,
            "rows": rows.iter().map(as_json).collect::<Vec<_>>(),
            "failed": failed.iter().map(|(part, error)| json!({
                "part": part,
                "error": format!("{error:#}"),
            })).collect::<Vec<_>>(),
        });
        write_json(path, &value, out)?;
    }
    if !is_stdout(arguments.json.as_deref()) && !rows.is_empty() {
        writeln!(out, "{}", render(&rows, computes.as_deref(), peak_rate))?;
    }
    match failed.len() {
        0 => Ok(ExitCode::SUCCESS),
        _ => {
            let told = failed
                .iter()
                .map(|(part, error)| format!("{part} could not be measured: {error:#}"));
            bail!(
                "{}\nhelp: --only takes the parts to measure",
                told.collect::<Vec<_>>().join("\n")
            )
        }
    }
}

fn row(part: &'static str, resolution: Option<u32>, batch: u64, measured: Measured) -> Row {
    Row {
        part,
        resolution,
        batch: Some(batch),
        images_per_second: batch as f64 / measured.median.as_secs_f64(),
        median: Some(measured.median),
        share: None,
        peak_memory: measured.peak_memory,
    }
}

impl Row {
    /// With the share of the `peak` rate of multiply-adds that `multiply_adds` for an image are.
    fn with_share(self, multiply_adds: u64, peak: Option<f64>) -> Row {
        let rate = multiply_adds as f64 * self.images_per_second;
        Row {
            share: peak.map(|peak| rate / peak),
            ..self
        }
    }
}

/// Images in a training batch, as far as the recipe says.
fn train_batch(plan: &Plan, trainer: &Planned) -> Option<u64> {
    let edge = trainer.inputs.iter().find(|edge| edge.port == TRAIN)?;
    let batch = plan.nodes()[edge.node].node::<nodes::Batch>()?;
    Some(batch.size() as u64)
}

/// A single image, and the batch with which most images go through.
fn inference(
    benchmark: &mut Benchmark,
    position: usize,
    seconds: Duration,
) -> Result<Vec<(u64, Measured)>> {
    // There are many, and each says enough soon.
    let time = seconds / 5;
    let speed = |(batch, measured): &(u64, Measured)| *batch as f64 / measured.median.as_secs_f64();
    let single = (1, benchmark.inference(position, 1, time)?);
    let mut best = single;
    let mut batch = 2;
    while batch <= MOST {
        let measured = match benchmark.inference(position, batch, time) {
            Err(error) if is_out_of_memory(&error) => break, // what was best so far is
            measured => measured?,
        };
        let tried = (batch, measured);
        let better = speed(&tried) > speed(&best) * BETTER;
        if speed(&tried) > speed(&best) {
            best = tried;
        }
        // One that is no better may be chance, but for large ones.
        if measured.median > PATIENCE || (!better && batch >= 16) {
            break;
        }
        batch *= 2;
    }
    Ok(if best.0 == 1 {
        vec![single]
    } else {
        vec![single, best]
    })
}

fn render(rows: &[Row], computes: Option<&str>, peak: Option<f64>) -> String {
    let header = [
        "part",
        "resolution",
        "batch",
        "images/s",
        "median",
        "of peak",
        "peak memory",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.part.to_owned(),
            row.resolution.map_or_else(String::new, |r| r.to_string()),
            row.batch.map_or_else(String::new, |n| n.to_string()),
            rate(row.images_per_second),
            time(row.median),
            row.share.map_or_else(String::new, percent),
            row.peak_memory.map_or_else(String::new, |bytes| {
                format!("{:.0} MiB", bytes as f64 / 1048576.0)
            }),
        ]
    });
    let mut text = grid(&header, cells);
    if let Some(computes) = computes {
        text.push_str(&format!("\non {computes}"));
    }
    if let Some(peak) = peak {
        text.push_str(&format!(
            "; its peak is {:.3} TFLOP/s, measured in large matrix products",
            2.0 * peak / 1e12
        ));
    }
    let of = |part| rows.iter().find(|row| row.part == part);
    if let (Some(step), Some(whole)) = (of("training step"), of("whole"))
        && step.batch == whole.batch
    {
        text.push_str(&format!(
            "\nthe whole reaches {} of the speed of its steps alone",
            percent(whole.images_per_second / step.images_per_second)
        ));
    }
    if let Some(row) = rows.first() {
        text.push_str(&format!(
            "\n{}: {:.2} images/s",
            row.part, row.images_per_second
        ));
    }
    text
}

/// Keys may be added in time; none goes or changes its meaning.
fn as_json(row: &Row) -> Value {
    json!({
        "part": row.part,
        "resolution": row.resolution,
        "batch": row.batch,
        "images_per_second": row.images_per_second,
        "median_seconds": row.median.map(|median| median.as_secs_f64()),
        "share_of_peak": row.share,
        "peak_memory_bytes": row.peak_memory,
    })
}
