//! The GPU's view of a period: what it did, and how busy it was.

use std::time::{Duration, Instant};

use rsflow_cupti::{Group, Lost, Recording, Shares, demangled};
use serde_json::{Value, json};

use crate::figures::percent;
use crate::table::{grid, thousands, time};

/// Kernels that are listed by name.
const KERNELS: usize = 10;

/// What a GPU did in a period.
pub struct GpuView {
    shares: Shares,
    lost: Lost,
}

impl GpuView {
    /// Of all GPUs in a period.
    pub fn new(recording: &Recording, (from, to): (Instant, Instant)) -> Self {
        let period = recording.clock(from)..recording.clock(to);
        GpuView {
            shares: Shares::within(recording, period, KERNELS),
            lost: recording.lost,
        }
    }

    /// A row for each kind of work, the kernels that took the most time, and how busy the GPU was.
    pub fn render(&self) -> String {
        let shares = &self.shares;
        if shares.count == 0 {
            return "the GPU did nothing that CUPTI saw".to_owned();
        }
        let row = |name: String, count: u64, nanoseconds: u64, share: f64| {
            let total = Duration::from_nanos(nanoseconds);
            let mean = total / u32::try_from(count).unwrap_or(u32::MAX).max(1);
            vec![
                name,
                thousands(count),
                time(Some(total)),
                time(Some(mean)),
                percent(share),
            ]
        };
        let groups = shares.groups.iter();
        let groups = groups.map(|of| row(title(of.group), of.count, of.time_ns, of.share));
        let kernels = shares.kernels.iter();
        let kernels = kernels.map(|of| row(demangled(&of.name), of.count, of.time_ns, of.share));
        let mut text = format!(
            "{}\n{}\nthe GPU was busy {:.1} % of {}",
            grid(&["on the GPU", "times", "total", "mean", "share"], groups),
            grid(&["kernel", "times", "total", "mean", "share"], kernels),
            100.0 * shares.busy_share,
            time(Some(Duration::from_nanos(shares.window_ns)))
        );
        if self.lost.any() {
            text.push_str(&format!("; not counted: {}", self.lost));
        }
        text
    }

    /// A stable format: keys may be added, none is removed or changes its meaning.
    pub fn as_json(&self) -> Value {
        json!({
            "busy_share": self.shares.busy_share,
            "seconds": self.shares.window_ns as f64 / 1e9,
            "groups": self.shares.groups,
            "kernels": self.shares.kernels,
            "lost": self.lost,
        })
    }
}

/// A kind of work, as it is listed.
fn title(group: Group) -> String {
    match group {
        Group::Convolution => "convolutions, matrix products",
        Group::Norm => "batch norm",
        Group::Pooling => "pooling",
        Group::Depthwise => "depthwise convolutions",
        Group::Elementwise => "elementwise, reductions",
        Group::Optimizer => "optimizer, casts of weights",
        Group::Copies => "copies",
        Group::Other => "other",
    }
    .to_owned()
}
