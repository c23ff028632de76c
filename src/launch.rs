//! Which of a run's processes this is, as launchers such as torchrun say in the environment, and where they
//! meet. `run --processes` is such a launcher.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::World;
use rsflow_model::dist::{Peers, Timeouts};
use serde_json::json;

use crate::commands::usage::Usage;

/// What the variables are called, as torchrun sets them.
const RANK: &str = "RANK";
const WORLD_SIZE: &str = "WORLD_SIZE";
const LOCAL_RANK: &str = "LOCAL_RANK";
const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";
/// The threads that libtorch computes with, where the recipe does not say it.
const THREADS: &str = "OMP_NUM_THREADS";
/// Where torchrun looks for the error of a process that failed.
const ERROR_FILE: &str = "TORCHELASTIC_ERROR_FILE";
/// `True`: the launcher serves the store.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

/// The variables of each process of a run of `count` on this machine, whose `cores` they share, unless the
/// user has set the number of threads. They meet at a port that is free now.
///
/// # Errors
/// There is no free port.
pub fn places(count: u32, cores: usize) -> Result<Vec<Vec<(&'static str, String)>>> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
    let port = port.context("no port is free")?.port();
    let threads = (cores / count as usize).max(1).to_string();
    let threads = std::env::var(THREADS).unwrap_or(threads);
    let place = |rank: u32| {
        vec![
            (RANK, rank.to_string()),
            (WORLD_SIZE, count.to_string()),
            (LOCAL_RANK, rank.to_string()),
            (LOCAL_WORLD_SIZE, count.to_string()),
            (MASTER_ADDR, "127.0.0.1".to_owned()),
            (MASTER_PORT, port.to_string()),
            (AGENT_STORE, String::new()),
            (THREADS, threads.clone()),
        ]
    };
    Ok((0..count).map(place).collect())
}

/// Meets the other processes of the run; `None` where there are none.
///
/// # Errors
/// The environment does not say where; not all of them come.
pub fn meet(world: World, timeouts: Timeouts) -> Result<Option<Arc<Peers>>> {
    if world.size == 1 {
        return Ok(None);
    }
    let variable = |name: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.with_context(|| {
            Usage(format!(
                "{WORLD_SIZE}={} needs {name}: torchrun sets it, and `rsflow run RECIPE --processes {}` starts \
                 processes on this machine without it",
                world.size, world.size
            ))
        })
    };
    let (host, port) = (variable(MASTER_ADDR)?, variable(MASTER_PORT)?);
    let number = port.parse().ok();
    let number = number.with_context(|| {
        Usage(format!(
            "the environment variable {MASTER_PORT} must be the number of a port, not {port:?}"
        ))
    })?;
    let elsewhere = std::env::var(AGENT_STORE).is_ok_and(|value| value == "True");
    Peers::meet(world, &host, number, elsewhere, timeouts).map(Some)
}

/// Writes the error of this process where torchrun asks for it, which shows it beside the rank.
pub fn write_error_file(error: &anyhow::Error) {
    let Some(path) = std::env::var_os(ERROR_FILE).filter(|path| !path.is_empty()) else {
        return;
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let text = format!("{error:#}");
    // torchrun shows `py_callstack`.
    let content = json!({"message": {"message": text, "extraInfo": {
        "py_callstack": text,
        "timestamp": since.unwrap_or_default().as_secs().to_string(),
    }}});
    if let Err(error) = std::fs::write(&path, content.to_string()) {
        tracing::warn!("cannot write the launcher's error file {path:?}: {error}");
    }
}

/// This process's place, from the environment; a run of one process where nothing is set.
///
/// # Errors
/// A variable that is no number, or numbers that contradict each other.
pub fn world() -> Result<World> {
    world_of(|name| std::env::var(name).ok())
}

fn world_of(variable: impl Fn(&str) -> Option<String>) -> Result<World> {
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let number = text.parse().ok();
        ensure!(
            number.is_some(),
            Usage(format!(
                "the environment variable {name} must be a whole number, not {text:?}"
            ))
        );
        Ok(number)
    };
    let (rank, size) = (number(RANK)?, number(WORLD_SIZE)?);
    let world = World {
        rank: rank.unwrap_or(0),
        size: size.unwrap_or(1),
        local_rank: number(LOCAL_RANK)?.unwrap_or(0),
        local_size: number(LOCAL_WORLD_SIZE)?.unwrap_or(1).max(1),
    };
    ensure!(
        world.rank < world.size,
        Usage(format!(
            "{RANK}={} needs a {WORLD_SIZE} above it, which is {}: ranks count from 0",
            world.rank,
            size.map_or_else(|| "not set".to_owned(), |size| size.to_string())
        ))
    );
    Ok(world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_says_which_process_this_is() {
        let world = |rank, size, local_rank| World {
            rank,
            size,
            local_rank,
            local_size: if local_rank == 1 { 8 } else { 1 },
        };
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<World, &'a str>);
        let cases: [Case; 7] = [
            (&[], Ok(world(0, 1, 0))),
            (&[("RANK", "0"), ("WORLD_SIZE", "1")], Ok(world(0, 1, 0))),
            (
                &[
                    ("RANK", "9"),
                    ("WORLD_SIZE", "16"),
                    ("LOCAL_RANK", "1"),
                    ("LOCAL_WORLD_SIZE", "8"),
                ],
                Ok(world(9, 16, 1)),
            ),
            (&[("RANK", ""), ("WORLD_SIZE", "")], Ok(world(0, 1, 0))),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], Err("RANK=2 needs")),
            (&[("RANK", "1")], Err("which is not set")),
            (
                &[("RANK", "one"), ("WORLD_SIZE", "2")],
                Err("must be a whole number, not \"one\""),
            ),
        ];
        for (set, expected) in cases {
            let variable = |name: &str| {
                let found = set.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            match (world_of(variable), expected) {
                (Ok(world), Ok(expected)) => assert_eq!(world, expected, "{set:?}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{set:?}: {error}");
                }
                (result, _) => panic!("{set:?}: {result:?}"),
            }
        }
    }
}
