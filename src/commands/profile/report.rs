//! A profile as a table, and as JSON.

use std::time::Duration;

use rsflow_graph::{Skipped, WorksOn};
use serde_json::{Value, json};

use crate::figures::{Figures, NodeFigures, percent, rate};
use crate::table::{grid, thousands, time};
use crate::verdict::verdict;

/// A row for each node, the speed, and the verdict.
pub fn render(figures: &Figures) -> String {
    let header = [
        "node", "kind", "items", "items/s", "busy", "wait in", "wait out", "mean", "p50", "p99",
        "queue", "bytes/s",
    ];
    let per_second = |count: f64| count / figures.seconds.max(1e-9);
    let rows = figures.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.kind.to_owned(),
            thousands(node.items),
            rate(per_second(node.items as f64)),
            percent(node.busy),
            percent(node.wait_input),
            percent(node.wait_output),
            time(node.mean),
            time(node.p50),
            time(node.p99),
            node.queue.map_or_else(String::new, percent),
            match node.bytes {
                0 => String::new(),
                bytes => format!("{:.1} MB", per_second(bytes as f64) / 1e6),
            },
        ]
    });
    format!(
        "{}\n{} images/s in {:.1} s on {}\n{}",
        grid(&header, rows),
        rate(figures.images_per_second),
        figures.seconds,
        figures.workers,
        verdict(figures)
    )
}

/// A stable format: keys may be added, none is removed or changes its meaning.
pub fn as_json(figures: &Figures, skipped: &[Skipped], only: &str, digest: Option<&str>) -> Value {
    let nodes = figures.nodes.iter().map(|node| node_as_json(node, figures));
    json!({
        "images_per_second": figures.images_per_second,
        "seconds": figures.seconds,
        "only": only,
        "workers": figures.workers.count,
        "cores": figures.workers.cores,
        "workers_chosen": figures.workers.chosen.is_some(),
        "workers_why": figures.workers.to_string(),
        "verdict": verdict(figures),
        "digest": digest,
        "nodes": nodes.collect::<Vec<_>>(),
        "skipped": skipped,
    })
}

fn node_as_json(node: &NodeFigures, figures: &Figures) -> Value {
    let micros = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e6);
    json!({
        "name": node.name,
        "kind": node.kind,
        "works_on": match node.works_on {
            WorksOn::Workers => "workers",
            WorksOn::Thread => "thread",
            WorksOn::Sink => "sink",
        },
        "items": node.items,
        "items_per_second": node.items as f64 / figures.seconds.max(1e-9),
        "busy_share": node.busy,
        "wait_input_share": node.wait_input,
        "wait_output_share": node.wait_output,
        "mean_us": micros(node.mean),
        "p50_us": micros(node.p50),
        "p99_us": micros(node.p99),
        "queue_occupancy": node.queue,
        "bytes": node.bytes,
        "skipped": node.skipped,
    })
}
