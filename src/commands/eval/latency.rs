//! `rsflow eval --latency`: how long images take at each size, beside their accuracy.

use std::time::Duration;

use anyhow::Result;
use rsflow_model::checkpoint::{Checkpoint, Metadata, NormsFrom};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::train::metrics::Table;
use rsflow_serve::latency::{self, Throughput};
use rsflow_serve::{Folding, Runtime};
use serde::{Deserialize, Serialize};

use crate::cli::Eval;
use crate::process;
use crate::progress::Screen;
use crate::table::{grid, millions, top5};

/// The largest batches that are tried on the CPU and on a GPU.
const MOST_ON_CPU: usize = 64;
const MOST_ON_GPU: usize = 512;

/// What was measured at one size.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// In pixels.
    pub resolution: u32,
    /// Of one image alone, from pixels to logits: the median.
    pub milliseconds: f64,
    /// The batch with the most images a second.
    pub batch: usize,
    pub images_per_second: f64,
}

/// Measures every size, one after the other.
pub fn measure(
    arguments: &Eval,
    checkpoint: &Checkpoint,
    sizes: &[(u32, NormsFrom)],
    screen: &Screen,
) -> Result<Vec<Latency>> {
    let compute = &arguments.compute;
    // The evaluation, which listened to them, is over.
    process::end_on_signals()?;
    let hints = checkpoint.metadata().hints()?;
    let compute = ExecConfig::resolve(compute.device, compute.precision, hints)?;
    let compute = compute.with_kernels(Fused::Auto);
    let most = match compute.device.is_cuda() {
        true => MOST_ON_GPU,
        false => MOST_ON_CPU,
    };
    let runtime = Runtime::open(checkpoint, sizes, compute, Folding::Auto)?;
    screen.line(&format!(
        "latency: measuring {} sizes on {}; nothing else should run now",
        sizes.len(),
        runtime.compute()
    ));
    let measured = sizes.iter().map(|&(resolution, _)| {
        let alone = latency::pass_time(&runtime, resolution, 1, Duration::from_secs(1))?;
        let Throughput {
            batch,
            images_per_second,
        } = latency::throughput(&runtime, resolution, most)?;
        Ok(Latency {
            resolution,
            milliseconds: alone.as_secs_f64() * 1e3,
            batch,
            images_per_second,
        })
    });
    measured.collect()
}

/// The table of resolutions with what was measured at each: the time of one image, and the batch with the most
/// images a second. An ensemble takes as long as its members together.
pub fn render(table: &Table, metadata: &Metadata, latencies: &[Latency]) -> String {
    let mut header = vec!["resolution", "top-1 %"];
    header.extend((table.classes > 5).then_some("top-5 %"));
    header.extend(["MAdds", "ms of one image", "images/s", "at batch"]);
    let rows = table.rows.iter().map(|row| {
        let latency = latencies
            .iter()
            .find(|of| Some(of.resolution) == row.resolution);
        let measured = match latency {
            Some(of) => [
                format!("{:.2}", of.milliseconds),
                format!("{:.0}", of.images_per_second),
                of.batch.to_string(),
            ],
            None => {
                let members = latencies
                    .iter()
                    .filter(|of| metadata.resolutions.contains(&of.resolution));
                let all: f64 = members.map(|of| of.milliseconds).sum();
                [format!("{all:.2}"), String::new(), String::new()]
            }
        };
        let size = row
            .resolution
            .map_or("ensemble".to_owned(), |size| size.to_string());
        let mut cells = vec![size, format!("{:.2}", row.top1)];
        cells.extend(top5(row, table.classes));
        cells.push(millions(row.multiply_adds));
        cells.extend(measured);
        cells
    });
    grid(&header, rows)
}
