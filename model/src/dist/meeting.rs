//! How the processes of a run find each other.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::World;

use super::store::Store;

const POLL: Duration = Duration::from_millis(20);

/// A name for this meeting that no earlier one had, whatever earlier ones left in the store (torchrun keeps
/// it when it restarts processes): every process leaves a number of its own, and process 0 answers each
/// number that it sees, until all have confirmed.
///
/// # Errors
/// Not all come within `patience`.
pub(super) fn agree_on_name(store: &Store, world: World, patience: Duration) -> Result<String> {
    let own = format!("{:016x}", rand::random::<u64>());
    let until = Instant::now() + patience;
    if world.rank != 0 {
        store.set(format!("join/{}", world.rank), own.clone())?;
        loop {
            if let Some(name) = store.find(format!("welcome/{own}"))? {
                store.set(format!("{name}/here/{}", world.rank), "yes".to_owned())?;
                return Ok(name);
            }
            ensure!(
                Instant::now() < until,
                "process 0 of the run did not come within {} s",
                patience.as_secs_f64()
            );
            sleep(POLL);
        }
    }
    let mut answered = vec![String::new(); world.size as usize];
    loop {
        let mut missing = Vec::new();
        for rank in 1..world.size {
            if store.find(format!("{own}/here/{rank}"))?.is_some() {
                continue;
            }
            missing.push(rank.to_string());
            let Some(number) = store.find(format!("join/{rank}"))? else {
                continue;
            };
            let known = answered.get_mut(rank as usize).context("a rank")?;
            if *known != number {
                store.set(format!("welcome/{number}"), own.clone())?;
                *known = number;
            }
        }
        if missing.is_empty() {
            return Ok(own);
        }
        ensure!(
            Instant::now() < until,
            "of the {} processes of the run, {} did not come within {} s",
            world.size,
            missing.join(", "),
            patience.as_secs_f64()
        );
        sleep(POLL);
    }
}
