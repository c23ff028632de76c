//! Which of a run's processes this is, as launchers such as torchrun say in the environment, and where they
//! meet. `run --processes` is such a launcher.

use std::ffi::OsString;
use std::net::TcpListener;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::World;
use rsflow_model::dist::{Peers, Timeouts};
use serde_json::json;

use crate::commands::usage::Usage;
use crate::process;

/// What the variables are called, as torchrun sets them.
const RANK: &str = "RANK";
const WORLD_SIZE: &str = "WORLD_SIZE";
const LOCAL_RANK: &str = "LOCAL_RANK";
const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";
/// Tasks of each node: `8(x2),4`.
const SLURM_TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
/// How launchers call rank, world size, local rank and local world size. The first one whose world size is
/// set counts.
const LAUNCHERS: [[&str; 4]; 4] = [
    // torchrun, Kubeflow, and this program.
    [RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE],
    // Slurm: of what srun has started. In the script that sbatch starts, the size is not set.
    [
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        SLURM_TASKS_PER_NODE,
    ],
    // Open MPI.
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ],
    // MPICH and Intel MPI.
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
];
/// Where processes meet if their launcher does not say it, as in PyTorch.
const DEFAULT_PORT: u32 = 29_500;
/// The threads that libtorch computes with, where the recipe does not say it.
const THREADS: &str = "OMP_NUM_THREADS";
/// The network interface that Gloo uses.
const INTERFACE: &str = "GLOO_SOCKET_IFNAME";
/// Where torchrun looks for the error of a process that failed.
const ERROR_FILE: &str = "TORCHELASTIC_ERROR_FILE";
/// `True`: the launcher serves the store.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

/// Starts the processes of a run on this machine, and waits for them; `words` are their command lines by the
/// number of the attempt.
///
/// # Errors
/// A process cannot be started.
pub fn supervise(
    count: u32,
    max_restarts: u32,
    words: impl Fn(u32) -> Vec<OsString>,
) -> Result<ExitCode> {
    let program = std::env::current_exe().context("this program's file is not known")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    process::supervise(max_restarts, |attempt| {
        let words = words(attempt);
        let places = places(count, cores)?.into_iter();
        let commands = places.map(|place| {
            let mut command = Command::new(&program);
            command.args(&words).envs(place);
            command
        });
        Ok(commands.collect())
    })
}

/// The variables of each process of a run of `count` on this machine, whose `cores` they share, unless the
/// user has set the number of threads. They meet at a port that is free now.
///
/// # Errors
/// There is no free port.
fn places(count: u32, cores: usize) -> Result<Vec<Vec<(&'static str, String)>>> {
    let port = free_port()?;
    let threads = (cores / count as usize).max(1).to_string();
    let threads = std::env::var(THREADS).unwrap_or(threads);
    // Not by way of the machine's name, whose address may be of a network that is down.
    let loopback = if cfg!(target_os = "linux") {
        "lo"
    } else {
        "lo0"
    };
    let interface = variable(INTERFACE).unwrap_or_else(|| loopback.to_owned());
    let place = |rank: u32| {
        vec![
            (RANK, rank.to_string()),
            (WORLD_SIZE, count.to_string()),
            (LOCAL_RANK, rank.to_string()),
            (LOCAL_WORLD_SIZE, count.to_string()),
            (MASTER_ADDR, "127.0.0.1".to_owned()),
            (MASTER_PORT, port.to_string()),
            (AGENT_STORE, String::new()),
            (INTERFACE, interface.clone()),
            (THREADS, threads.clone()),
        ]
    };
    Ok((0..count).map(place).collect())
}

fn free_port() -> Result<u16> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
    Ok(port.context("no port is free")?.port())
}

/// A run of this process alone, which exchanges with itself.
///
/// # Errors
/// There is no free port.
pub fn alone() -> Result<Arc<Peers>> {
    let (world, timeouts) = (World::default(), Timeouts::default());
    Peers::meet(world, "127.0.0.1", free_port()?, false, timeouts)
}

/// Meets the other processes of the run; `None` where there are none.
///
/// # Errors
/// The environment does not say where; not all of them come.
pub fn meet(world: World, timeouts: Timeouts) -> Result<Option<Arc<Peers>>> {
    if world.size == 1 {
        return Ok(None);
    }
    let (host, port) = place(world, variable)?;
    let elsewhere = std::env::var(AGENT_STORE).is_ok_and(|value| value == "True");
    Peers::meet(world, &host, port, elsewhere, timeouts).map(Some)
}

/// Where the processes meet: at process 0.
fn place(world: World, variable: impl Fn(&str) -> Option<String>) -> Result<(String, u16)> {
    let is_one_machine = world.local_size == world.size;
    let host = variable(MASTER_ADDR)
        .or_else(|| variable("SLURM_STEP_NODELIST").map(|nodes| first_node(&nodes)))
        .or_else(|| is_one_machine.then(|| "127.0.0.1".to_owned()));
    let host = host.with_context(|| {
        Usage(format!(
            "this is one of {} processes, and they do not know where to meet: set {MASTER_ADDR} to the name of \
             the machine of process 0, as in `export {MASTER_ADDR}=node1` (torchrun sets it, and `rsflow run \
             RECIPE --processes {}` starts processes on this machine without it)",
            world.size, world.size
        ))
    })?;
    let port = variable(MASTER_PORT).unwrap_or_else(|| {
        // Two jobs may share a machine.
        let job = variable("SLURM_JOB_ID").and_then(|job| job.parse::<u32>().ok());
        job.map_or(DEFAULT_PORT, |job| 15_000 + job % 15_000)
            .to_string()
    });
    let number = port.parse().ok();
    let number = number.with_context(|| {
        Usage(format!(
            "the environment variable {MASTER_PORT} must be the number of a port, not {port:?}"
        ))
    })?;
    Ok((host, number))
}

/// The first of Slurm's list of nodes: `a3` of `a[3-5,9],b1`.
fn first_node(nodes: &str) -> String {
    let end = nodes.find(['[', ',']).unwrap_or(nodes.len());
    let (name, rest) = nodes.split_at(end);
    let number = rest.strip_prefix('[').unwrap_or_default();
    let number = number.split([',', '-', ']']).next().unwrap_or_default();
    format!("{name}{number}")
}

/// The network interface that Gloo is to use, if one is named.
pub fn interface() -> Option<String> {
    variable(INTERFACE)
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
    world_of(variable)
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn world_of(variable: impl Fn(&str) -> Option<String>) -> Result<World> {
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name) else {
            return Ok(None);
        };
        let text = match name {
            SLURM_TASKS_PER_NODE => {
                let node = variable("SLURM_NODEID").and_then(|node| node.parse().ok());
                tasks_of_node(&text, node.unwrap_or(0)).unwrap_or(text)
            }
            _ => text,
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
    let set = |names: &&[&str; 4]| variable(names[1]).is_some();
    let [rank_name, size_name, local_rank, local_size] =
        LAUNCHERS.iter().find(set).unwrap_or(&LAUNCHERS[0]);
    let (rank, size) = (number(rank_name)?, number(size_name)?);
    let world = World {
        rank: rank.unwrap_or(0),
        size: size.unwrap_or(1),
        local_rank: number(local_rank)?.unwrap_or(0),
        local_size: number(local_size)?.unwrap_or(1).max(1),
    };
    ensure!(
        world.rank < world.size,
        Usage(format!(
            "{rank_name}={} needs a {size_name} above it, which is {}: ranks count from 0",
            world.rank,
            size.map_or_else(|| "not set".to_owned(), |size| size.to_string())
        ))
    );
    Ok(world)
}

/// The tasks of a node in Slurm's list of them: 4 for the third of `8(x2),4`.
fn tasks_of_node(list: &str, node: usize) -> Option<String> {
    let mut before = 0;
    for part in list.split(',') {
        let (tasks, nodes) = match part
            .strip_suffix(')')
            .and_then(|part| part.split_once("(x"))
        {
            Some((tasks, nodes)) => (tasks, nodes.parse().ok()?),
            None => (part, 1),
        };
        before += nodes;
        if node < before {
            return Some(tasks.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let found = set.iter().find(|(set, _)| *set == name);
            found
                .map(|(_, value)| (*value).to_owned())
                .filter(|value| !value.is_empty())
        }
    }

    #[test]
    fn processes_meet_where_their_launcher_says() {
        let world = |local_size| World {
            size: 8,
            local_size,
            ..World::default()
        };
        type Case<'a> = (
            &'a [(&'a str, &'a str)],
            u32,
            Result<(&'a str, u16), &'a str>,
        );
        let cases: [Case; 8] = [
            (
                &[("MASTER_ADDR", "a"), ("MASTER_PORT", "1234")],
                4,
                Ok(("a", 1234)),
            ),
            (&[("MASTER_ADDR", "a")], 4, Ok(("a", 29_500))),
            (&[], 8, Ok(("127.0.0.1", 29_500))),
            (&[], 4, Err("set MASTER_ADDR to the name")),
            (
                &[("MASTER_PORT", "70000")],
                8,
                Err("must be the number of a port"),
            ),
            (
                &[
                    ("SLURM_STEP_NODELIST", "a[03-05,09],b1"),
                    ("SLURM_JOB_ID", "30007"),
                ],
                4,
                Ok(("a03", 15_007)),
            ),
            (&[("SLURM_STEP_NODELIST", "b1,b2")], 4, Ok(("b1", 29_500))),
            (&[("SLURM_STEP_NODELIST", "n[7]")], 4, Ok(("n7", 29_500))),
        ];
        for (set, local_size, expected) in cases {
            match (place(world(local_size), variables(set)), expected) {
                (Ok((host, port)), Ok(expected)) => {
                    assert_eq!((host.as_str(), port), expected, "{set:?}");
                }
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{set:?}: {error}");
                }
                (result, _) => panic!("{set:?}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_launcher_says_which_process_this_is() {
        let world = |rank, size, local_rank| World {
            rank,
            size,
            local_rank,
            local_size: if local_rank == 1 { 8 } else { 1 },
        };
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<World, &'a str>);
        let cases: [Case; 12] = [
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
            (
                // The second node of three.
                &[
                    ("SLURM_PROCID", "9"),
                    ("SLURM_STEP_NUM_TASKS", "16"),
                    ("SLURM_LOCALID", "1"),
                    ("SLURM_NODEID", "1"),
                    ("SLURM_STEP_TASKS_PER_NODE", "4,8(x2)"),
                ],
                Ok(world(9, 16, 1)),
            ),
            (
                // A script that sbatch starts.
                &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16")],
                Ok(world(0, 1, 0)),
            ),
            (
                &[
                    ("OMPI_COMM_WORLD_RANK", "9"),
                    ("OMPI_COMM_WORLD_SIZE", "16"),
                    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                    ("OMPI_COMM_WORLD_LOCAL_SIZE", "8"),
                ],
                Ok(world(9, 16, 1)),
            ),
            (&[("PMI_RANK", "3"), ("PMI_SIZE", "4")], Ok(world(3, 4, 0))),
            (
                // torchrun within a job of Slurm.
                &[
                    ("RANK", "0"),
                    ("WORLD_SIZE", "2"),
                    ("SLURM_PROCID", "1"),
                    ("SLURM_STEP_NUM_TASKS", "8"),
                ],
                Ok(world(0, 2, 0)),
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
            match (world_of(variables(set)), expected) {
                (Ok(world), Ok(expected)) => assert_eq!(world, expected, "{set:?}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{set:?}: {error}");
                }
                (result, _) => panic!("{set:?}: {result:?}"),
            }
        }
    }
}
