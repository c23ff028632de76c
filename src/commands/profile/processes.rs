//! `rsflow profile` of several processes: how long each waits for the others, and which is the slowest.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rsflow_model::dist::Peers;
use serde::{Deserialize, Serialize};

use crate::figures::{Figures, percent};
use crate::table::{grid, time};

/// What one process measured of its trainer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Share {
    process: u32,
    /// Of the trainer's time: waiting for sums of all processes, that is, what is left of an exchange after the
    /// backward pass, and slower processes.
    wait_others_share: f64,
    /// The same of its own images.
    wait_input_share: f64,
    /// Of a step, with its waits.
    step_us: f64,
    /// Gradients and statistics that a step sends.
    bytes_per_step: u64,
}

/// Ends the processes together. Returns what each of them measured, in process 0.
///
/// # Errors
/// Another process is lost.
pub fn gather(peers: &Arc<Peers>, figures: &Figures, interrupted: bool) -> Result<Vec<Share>> {
    let trainer = figures.trainer();
    let steps = figures.exchanged.steps.max(1);
    let own = Share {
        process: peers.world().rank,
        wait_others_share: figures.exchanged.waited.as_secs_f64() / figures.seconds.max(1e-9),
        wait_input_share: trainer.map_or(0.0, |node| node.wait_input),
        step_us: 1e6 * figures.seconds / steps as f64,
        bytes_per_step: figures.exchanged.bytes / steps,
    };
    let (_, all) = peers.leave(interrupted, serde_json::to_string(&own)?)?;
    let all = all.iter().map(|text| Ok(serde_json::from_str(text)?));
    all.collect()
}

/// A row for each process, and what follows from them.
pub fn render(shares: &[Share]) -> String {
    let header = ["process", "step", "waits for others", "waits for images"];
    let rows = shares.iter().map(|share| {
        vec![
            share.process.to_string(),
            time(Some(Duration::from_secs_f64(share.step_us / 1e6))),
            percent(share.wait_others_share),
            percent(share.wait_input_share),
        ]
    });
    let by_wait = |a: &&Share, b: &&Share| a.wait_others_share.total_cmp(&b.wait_others_share);
    let slowest = shares.iter().min_by(by_wait);
    let exposed = slowest.map_or(0.0, |share| share.wait_others_share);
    format!(
        "{}\na step of each process sends {:.1} MB; process {} is the slowest, for which the others wait;\n\
         it waits {} of its time itself: the part of the exchange that nothing hides",
        grid(&header, rows),
        slowest.map_or(0.0, |share| share.bytes_per_step as f64 / 1e6),
        slowest.map_or(0, |share| share.process),
        percent(exposed),
    )
}
