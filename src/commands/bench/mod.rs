//! `rsflow bench`: how fast the parts of a recipe are on this machine.

mod exchange;
mod load;

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rsflow_cupti::Recorder;
use rsflow_graph::{Plan, Planned, World};
use rsflow_model::nn::compute::is_out_of_memory;
use rsflow_model::train::benchmark::{Benchmark, Measured, memory_rate, peak};
use serde_json::{Value, json};

use super::recipes::{plan, plan_with_classes, the_trainer};
use super::usage::Usage;
use crate::cli::{Bench, BenchPart};
use crate::figures::{percent, rate};
use crate::files::{self, is_stdout, write_json};
use crate::gpu::GpuView;
use crate::measure::{self, Batches, Job, Part, source_of_batches};
use crate::process;
use crate::progress::Screen;
use crate::table::{grid, time};

/// A larger batch counts as better only if it is faster by this factor.
const MIN_GAIN: f64 = 1.03;
/// The largest batch that inference is tried with.
const MAX_BATCH: u64 = 1024;
/// No larger batch is tried once a batch takes longer than this.
const MAX_STEP: Duration = Duration::from_secs(2);

/// A line of the table.
struct Row {
    part: &'static str,
    resolution: Option<u32>,
    /// Images in a batch; `None` where the recipe does not say.
    batch: Option<u64>,
    images_per_second: f64,
    /// Duration of a step or a batch.
    median: Option<Duration>,
    /// Share of the device's peak rate.
    share: Option<f64>,
    peak_memory: Option<u64>,
}

/// What bounds a training step from below, whatever the program.
struct Floor {
    /// The time for its multiply-adds at the device's peak rate.
    arithmetic: Duration,
    /// The time for reading and writing so many bytes.
    memory: Duration,
    bytes: u64,
    /// In bytes per second.
    memory_rate: f64,
}

pub fn run(arguments: &Bench, out: &mut dyn Write) -> Result<ExitCode> {
    if let Some(url) = &arguments.load.serve {
        return load::run(arguments, url, out);
    }
    if arguments.only.contains(&BenchPart::Exchange) {
        return exchange::run(arguments, out);
    }
    if arguments.processes.is_some() {
        bail!(Usage("--processes needs --only exchange".to_owned()));
    }
    if let Some(path) = &arguments.json {
        files::check_output(path, "--json", arguments.force, &[arguments.recipe()])?;
    }
    let screen = Screen::new(std::io::stderr().is_terminal());
    process::log(None, &screen)?;
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    // The data nodes alone need neither network nor device.
    let computing = [BenchPart::Step, BenchPart::Inference, BenchPart::Whole];
    let computes_any = computing.into_iter().any(wanted);
    let plan = match computes_any {
        true => plan_with_classes(arguments.recipe(), &arguments.overrides)?,
        false => plan(arguments.recipe(), &arguments.overrides)?,
    };
    let (planned, trainer) = the_trainer(&plan, arguments.recipe())?;
    let its_batch = source_of_batches(&plan, planned).and_then(Planned::batch_size);
    let seconds = Duration::from_secs_f64(arguments.seconds);

    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let mut computes = None;
    let mut peak_rate = None;
    let mut floor = None;
    let mut gpu = None;
    if computes_any {
        process::prepare(Some(trainer.process_settings()))?;
        let mut benchmark = trainer.benchmark(&plan.incoming(planned), World::default())?;
        computes = Some(benchmark.computes());
        if wanted(BenchPart::Step) || wanted(BenchPart::Inference) {
            let seconds = seconds.min(Duration::from_secs(2));
            peak_rate = Some(peak(benchmark.compute(), seconds)?);
        }
        if wanted(BenchPart::Step) {
            let batch = arguments.batch.map(u64::from).or(its_batch);
            let batch = batch.context(Usage(
                "the recipe does not set the size of a training batch: set it with --batch"
                    .to_owned(),
            ))?;
            screen.line(&format!("training steps of {batch} images"));
            match benchmark.steps(batch, seconds) {
                Ok(measured) => {
                    let row = row("training step", None, batch, measured);
                    rows.push(row.with_share(benchmark.step_multiply_adds(), peak_rate));
                    if arguments.gpu {
                        match gpu_view(&mut benchmark, batch, seconds) {
                            Ok(view) => gpu = Some(view),
                            Err(error) => failed.push(("what the GPU does (--gpu)", error)),
                        }
                    }
                    match peak_rate.map(|peak| Floor::of(&benchmark, batch, peak, seconds)) {
                        Some(Err(error)) => failed.push(("the floor of a step", error)),
                        found => floor = found.transpose()?,
                    }
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
    } // drops the network: the whole needs its memory
    for (part, name) in [
        (BenchPart::Pipeline, "pipeline"),
        (BenchPart::Whole, "whole"),
    ] {
        if !wanted(part) {
            continue;
        }
        let measured = match part {
            BenchPart::Pipeline => data_nodes(&plan, planned),
            _ => Part::trainer(&plan, planned, Batches::Fresh),
        }
        .and_then(|part| measure::run(Job::new(part, arguments.seconds), &screen))
        .map(|outcome| outcome.figures.images_per_second);
        match measured {
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
            "recipe": arguments.recipe(),
            "computes": computes,
            "peak_multiply_adds_per_second": peak_rate,
            "step_floor": floor.as_ref().map(Floor::as_json),
            "gpu": gpu.as_ref().map(GpuView::as_json),
            "rows": rows.iter().map(as_json).collect::<Vec<_>>(),
            "failed": failed.iter().map(|(part, error)| json!({
                "part": part,
                "error": format!("{error:#}"),
            })).collect::<Vec<_>>(),
        });
        write_json(path, &value, out)?;
    }
    if !is_stdout(arguments.json.as_deref()) && !rows.is_empty() {
        let mut below = Vec::new();
        below.extend(floor.as_ref().map(Floor::render));
        below.extend(gpu.as_ref().map(GpuView::render));
        let text = render(&rows, computes.as_deref(), peak_rate, &below);
        writeln!(out, "{text}")?;
    }
    match failed.len() {
        0 => Ok(ExitCode::SUCCESS),
        _ => {
            let lines = failed
                .iter()
                .map(|(part, error)| format!("{part} could not be measured: {error:#}"));
            bail!(
                "{}\nhelp: --only takes the parts to measure",
                lines.collect::<Vec<_>>().join("\n")
            )
        }
    }
}

/// What the GPU does in training steps. They are measured apart, since recording takes time, too.
fn gpu_view(benchmark: &mut Benchmark, batch: u64, seconds: Duration) -> Result<GpuView> {
    let recorder = Recorder::start()?;
    // CUPTI sees the kernels of graphs that are recorded after it has started.
    benchmark.forget_recorded_steps();
    let measured = benchmark.steps(batch, seconds)?;
    Ok(GpuView::new(&recorder.stop()?, measured.period))
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
    /// Adds the share of the `peak` rate, at `multiply_adds` per image.
    fn with_share(self, multiply_adds: u64, peak: Option<f64>) -> Row {
        let rate = multiply_adds as f64 * self.images_per_second;
        Row {
            share: peak.map(|peak| rate / peak),
            ..self
        }
    }
}

/// The nodes that the trainer's batches come from.
fn data_nodes(plan: &Plan, trainer: &Planned) -> Result<Part> {
    let source = source_of_batches(plan, trainer);
    let source = source.context("nothing feeds the trainer")?;
    let part = plan.until(&source.id.name);
    Part::data(part.context("the data node is not in its plan")?)
}

/// Measures a single image, and the batch size with the highest throughput.
fn inference(
    benchmark: &mut Benchmark,
    position: usize,
    seconds: Duration,
) -> Result<Vec<(u64, Measured)>> {
    // Many sizes are tried, and a short time is enough for each.
    let time = seconds / 5;
    let speed = |(batch, measured): &(u64, Measured)| *batch as f64 / measured.median.as_secs_f64();
    let single = (1, benchmark.inference(position, 1, time)?);
    let mut best = single;
    let mut batch = 2;
    while batch <= MAX_BATCH {
        let measured = match benchmark.inference(position, batch, time) {
            Err(error) if is_out_of_memory(&error) => break, // keep the best so far
            measured => measured?,
        };
        let tried = (batch, measured);
        let better = speed(&tried) > speed(&best) * MIN_GAIN;
        if speed(&tried) > speed(&best) {
            best = tried;
        }
        // A small batch that is no faster may be noise; a large one is not.
        if measured.median > MAX_STEP || (!better && batch >= 16) {
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

impl Floor {
    /// Of steps of `batch` images, at a `peak` of so many multiply-adds per second.
    fn of(benchmark: &Benchmark, batch: u64, peak: f64, seconds: Duration) -> Result<Floor> {
        let memory_rate = memory_rate(benchmark.compute(), seconds.min(Duration::from_secs(2)))?;
        let bytes = batch * benchmark.step_bytes()?;
        let multiply_adds = batch * benchmark.step_multiply_adds();
        Ok(Floor {
            arithmetic: Duration::from_secs_f64(multiply_adds as f64 / peak),
            memory: Duration::from_secs_f64(bytes as f64 / memory_rate),
            bytes,
            memory_rate,
        })
    }

    fn render(&self) -> String {
        format!(
            "a step takes at least {} for its multiply-adds at that peak, and {} for the {:.2} GB that it \
             moves, at {:.1} GB/s, measured in a large copy; caches save some of the latter",
            time(Some(self.arithmetic)),
            time(Some(self.memory)),
            self.bytes as f64 / 1e9,
            self.memory_rate / 1e9
        )
    }

    fn as_json(&self) -> Value {
        json!({
            "arithmetic_seconds": self.arithmetic.as_secs_f64(),
            "memory_seconds": self.memory.as_secs_f64(),
            "bytes": self.bytes,
            "bytes_per_second": self.memory_rate,
        })
    }
}

/// The table; what else was found, `below` it; and the first row's speed, for scripts.
fn render(rows: &[Row], computes: Option<&str>, peak: Option<f64>, below: &[String]) -> String {
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
    for text_below in below {
        text.push_str(&format!("\n{text_below}"));
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

/// A stable format: keys may be added, none is removed or changes its meaning.
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
