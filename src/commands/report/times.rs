//! Where the time went, node by node: measured by `rsflow profile`, else by the run itself.

use std::path::Path;

use anyhow::Result;
use rsflow_graph::{Plan, Role};
use serde::Deserialize;

use super::latency::{find, json};
use super::run::Found;
use crate::program_log::{ProgramLog, time};

/// The name of a profile in a run directory.
pub const FILE: &str = "profile.json";

/// How the nodes spent a time.
#[derive(Debug)]
pub struct Times {
    pub from: From,
    pub nodes: Vec<NodeTimes>,
    /// Length of that time.
    pub seconds: f64,
    pub workers: Option<u64>,
    pub images_per_second: Option<f64>,
    pub verdict: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Profile,
    Run,
}

/// Shares are from 0 to 1; of all workers' time for work on data.
#[derive(Debug)]
pub struct NodeTimes {
    pub name: String,
    pub kind: String,
    pub items: u64,
    pub busy: f64,
    pub wait_input: f64,
    pub wait_output: f64,
    /// Mean time of an item, in seconds.
    pub mean: Option<f64>,
    /// Mean fill level of its queue.
    pub queue: Option<f64>,
}

/// What is read of a profile; see `rsflow profile --json`.
#[derive(Deserialize)]
struct Profile {
    images_per_second: f64,
    seconds: f64,
    workers: u64,
    verdict: String,
    nodes: Vec<ProfiledNode>,
}

#[derive(Deserialize)]
struct ProfiledNode {
    name: String,
    kind: String,
    items: u64,
    busy_share: f64,
    wait_input_share: f64,
    wait_output_share: f64,
    mean_us: Option<f64>,
    queue_occupancy: Option<f64>,
}

impl Times {
    /// Of the profile that was named, else of that in the run directory, else what the run has logged.
    ///
    /// # Errors
    /// The file that was named cannot be read.
    pub fn find(
        run_dir: &Path,
        named: Option<&Path>,
        log: &ProgramLog,
        plan: Option<&Plan>,
    ) -> Result<Found<Self>> {
        let profile = find(run_dir.join(FILE), named, |path| {
            Ok(json::<Profile>(path)?.into())
        })?;
        Ok(profile.or_else(|| of_log(log, plan).map(Ok)))
    }
}

impl std::convert::From<Profile> for Times {
    fn from(profile: Profile) -> Self {
        let nodes = profile.nodes.into_iter().map(|node| NodeTimes {
            name: node.name,
            kind: node.kind,
            items: node.items,
            busy: node.busy_share,
            wait_input: node.wait_input_share,
            wait_output: node.wait_output_share,
            mean: node.mean_us.map(|us| us / 1e6),
            queue: node.queue_occupancy,
        });
        Times {
            from: From::Profile,
            nodes: nodes.collect(),
            seconds: profile.seconds,
            workers: Some(profile.workers),
            images_per_second: Some(profile.images_per_second),
            verdict: Some(profile.verdict),
        }
    }
}

/// What the nodes were measured to do, in the last process of the run that did something: a run that has ended may
/// have been resumed.
fn of_log(log: &ProgramLog, plan: Option<&Plan>) -> Option<Times> {
    let sessions = log.sessions().into_iter();
    let mut times = sessions.filter_map(|session| of_session(session, plan));
    times.find(|times| times.nodes.iter().any(|node| node.items > 0))
}

fn of_session(session: &[String], plan: Option<&Plan>) -> Option<Times> {
    let measured: Vec<&String> = session
        .iter()
        .filter(|line| line.contains(": measured node="))
        .collect();
    let seconds = time(measured.first()?)? - time(session.first()?)?;
    let chosen = session
        .iter()
        .rfind(|line| line.contains("selected worker count"));
    let workers = chosen.and_then(|line| value(line, "workers")?.parse().ok());
    let nodes = measured.iter().filter_map(|line| {
        let name: String = serde_json::from_str(&format!("\"{}\"", name(line)?)).ok()?;
        let planned = plan?
            .nodes()
            .iter()
            .find(|planned| planned.id.name == name)?;
        let number = |key| value(line, key)?.parse::<f64>().ok();
        let (busy, items) = (number("busy_s")?, number("items")?);
        let (wait_input, wait_output) = (number("wait_input_s")?, number("wait_output_s")?);
        // As in a profile: a trainer's times are shares of their own sum, and its waiting for room is in them.
        let (work, wait, busy) = match planned.kind.role {
            Role::Data => (seconds * workers.unwrap_or(1) as f64, seconds, busy),
            Role::Trainer { .. } => {
                let own = busy + wait_input;
                (own, own, (busy - wait_output).max(0.0))
            }
            _ => (seconds, seconds, busy),
        };
        let share = |of: f64, all: f64| if all > 0.0 { (of / all).min(1.0) } else { 0.0 };
        Some(NodeTimes {
            name,
            kind: planned.id.kind.to_owned(),
            items: items as u64,
            busy: share(busy, work),
            wait_input: share(wait_input, wait),
            wait_output: share(wait_output, wait),
            mean: (items > 0.0).then(|| busy / items),
            queue: number("queue_occupancy"),
        })
    });
    let nodes: Vec<NodeTimes> = nodes.collect();
    (!nodes.is_empty() && seconds > 0.0).then_some(Times {
        from: From::Run,
        nodes,
        seconds,
        workers,
        images_per_second: None,
        verdict: None,
    })
}

/// The node's name in a line, in which quotes are escaped.
fn name(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("measured node=\"")?;
    Some(rest.split_once("\" items=")?.0)
}

/// The value of `key=value` in a line.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}
