//! `rsflow bench --only exchange`: what several processes lose by exchanging.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_graph::{Planned, World};
use rsflow_model::dist::Timeouts;
use rsflow_model::train::exchange_benchmark::{StepTimes, SumTime, sum_time};
use serde_json::json;

use super::super::recipes::{plan_with_classes, the_trainer};
use super::super::usage::Usage;
use crate::cli::Bench;
use crate::files::{self, is_stdout, write_json};
use crate::measure::source_of_batches;
use crate::table::{grid, time};
use crate::{launch, process};

/// Bytes of the sums that are measured: a flag, the statistics of a small network, a bucket of gradients.
const SUMS: [u64; 4] = [1 << 12, 1 << 20, 25 << 20, 100 << 20];

/// Starts the processes, unless this is one of them.
pub fn run(arguments: &Bench, out: &mut dyn Write) -> Result<ExitCode> {
    if arguments.only.len() > 1 {
        bail!(Usage(
            "`--only exchange` measures in several processes: leave the other parts out".to_owned()
        ));
    }
    let world = launch::world()?;
    process::prepare_exchange(world);
    let count = arguments.processes.unwrap_or(2);
    if world.size == 1 && count > 1 {
        return launch::supervise(count, 0, |_| std::env::args_os().skip(1).collect());
    }
    let first = world.rank == 0;
    if let Some(path) = arguments.json.as_ref().filter(|_| first) {
        files::check_output(path, "--json", arguments.force, &[arguments.recipe()])?;
    }
    let plan = plan_with_classes(arguments.recipe(), &arguments.overrides)?;
    let (planned, trainer) = the_trainer(&plan, arguments.recipe())?;
    let its_batch = source_of_batches(&plan, planned).and_then(Planned::batch_size);
    let batch = arguments.batch.map(u64::from).or(its_batch);
    let batch = batch.context(Usage(
        "the recipe does not set the size of a training batch: set it with --batch".to_owned(),
    ))?;
    ensure!(
        batch.is_multiple_of(world.size.into()),
        Usage(format!(
            "a batch of {batch} images cannot be shared out evenly among {} processes: set another with --batch",
            world.size
        ))
    );
    process::prepare(Some(trainer.process_settings()))?;
    let mut benchmark = trainer.benchmark(&plan.incoming(planned), world)?;
    let peers = match launch::meet(world, Timeouts::default())? {
        Some(peers) => peers,
        None => launch::alone()?,
    };
    let device = benchmark.compute().device;
    if device.is_cuda() {
        peers.use_gpu()?;
    }
    let seconds = Duration::from_secs_f64(arguments.seconds);
    let sums = SUMS
        .iter()
        .map(|&bytes| sum_time(&peers, device, bytes, seconds / 5));
    let sums = sums.collect::<Result<Vec<_>>>()?;
    let images = batch / u64::from(world.size);
    let steps = benchmark.exchanged_steps(&peers, images, seconds)?;
    if first {
        let computes = benchmark.computes();
        if let Some(path) = &arguments.json {
            let value = json!({
                "recipe": arguments.recipe(),
                "computes": computes,
                "processes": world.size,
                "sums": sums,
                "step": steps,
            });
            write_json(path, &value, out)?;
        }
        if !is_stdout(arguments.json.as_deref()) {
            writeln!(out, "{}", render(world, &computes, &sums, &steps))?;
        }
    }
    peers.leave(false, String::new())?;
    Ok(ExitCode::SUCCESS)
}

fn render(world: World, computes: &str, sums: &[SumTime], steps: &StepTimes) -> String {
    let seconds = |seconds: f64| time(Some(Duration::from_secs_f64(seconds)));
    let size = |bytes: u64| match bytes {
        ..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    };
    let rows = sums.iter().map(|sum| {
        vec![
            size(sum.bytes),
            seconds(sum.seconds),
            format!("{:.2} GB/s", sum.bytes_per_second / 1e9),
        ]
    });
    let alone = steps.alone.iter().copied();
    let own = steps.alone.first().copied().unwrap_or_default();
    let slowest = (0..).zip(alone).max_by(|(_, a), (_, b)| a.total_cmp(b));
    let (slowest, its_time) = slowest.unwrap_or((0, 0.0));
    format!(
        "{}\n{} processes, each on {computes}\n\
         a step of {} images in each process takes {} alone (process {slowest} is the slowest: {}),\n\
         {} with the exchange of {} of gradients and {} of statistics: {:.1} % more;\n\
         of that step process 0 waits {} for the others",
        grid(&["summed", "takes", "bandwidth"], rows),
        world.size,
        steps.images,
        seconds(own),
        seconds(its_time),
        seconds(steps.exchanged),
        size(steps.gradient_bytes),
        size(steps.statistics_bytes),
        100.0 * (steps.exchanged / own - 1.0),
        seconds(steps.waited),
    )
}
