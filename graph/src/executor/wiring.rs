//! From a plan's nodes to what is spawned: which nodes share a segment, and the channels between.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use super::drive::Drive;
use super::segment::{Head, Segment};
use super::walk::{self, Order, Walk};
use super::{FeedWith, Options, Running, Tap};
use crate::counters::{Meter, NodeId, WorksOn};
use crate::item::Message;
use crate::plan::Plan;
use crate::ports::{Inlet, Outlet, Ports, Supply, WorkClock};
use crate::stage::{Contents, Position, Stage};

/// Items that may wait between two segments.
const ITEM_QUEUE: usize = 16;

/// Which part of a source's epochs is wanted.
#[derive(Clone, Copy)]
struct Wanted {
    start: Position,
    /// Up to, but without, this epoch.
    end: Option<u64>,
}

/// Connects and spawns everything.
pub(super) fn connect(
    plan: &Plan,
    stages: Vec<Stage>,
    contents: &[Contents],
    taps: Vec<Tap>,
    options: &Options,
    running: &mut Running,
) -> Result<()> {
    let joins = joins(plan, &stages, &taps);
    let wanted = wanted(plan, &stages, options);
    let queues: Vec<usize> = stages.iter().map(queue).collect();

    // A channel for every connection that is not inside a segment.
    let mut senders: Vec<Senders> = plan.nodes.iter().map(|_| Vec::new()).collect();
    let mut inlets: Vec<Vec<(&'static str, Inlet)>> =
        plan.nodes.iter().map(|_| Vec::new()).collect();
    for (reader, planned) in plan.nodes.iter().enumerate() {
        for edge in &planned.inputs {
            if !joins[reader] {
                let capacity = match stages[reader] {
                    Stage::Sink(_) => queues[reader],
                    _ => queues[edge.node],
                };
                let (sender, channel) = mpsc::channel(capacity);
                let supply = match feed(options, &planned.id, edge.port) {
                    Some(FeedWith::Nothing) => None,
                    Some(FeedWith::Endless) => Some(Supply::Endless),
                    Some(FeedWith::Replay(of)) => Some(Supply::replay(of)),
                    None => Some(Supply::Stream),
                };
                if supply.is_some() {
                    senders[edge.node].push((edge.output, sender));
                }
                let inlet = Inlet {
                    channel,
                    meter: running.meters[reader].clone(),
                    supply: supply.unwrap_or(Supply::Stream),
                };
                inlets[reader].push((edge.port, inlet));
            }
        }
    }
    for tap in taps {
        let writer = plan
            .nodes
            .iter()
            .position(|planned| planned.id.name == tap.node);
        let writer = writer.with_context(|| format!("there is no node `{}` to read", tap.node))?;
        let (sender, channel) = mpsc::channel(tap.sink.queue());
        senders[writer].push((tap.output, sender));
        let id = NodeId {
            name: tap.name.to_owned(),
            kind: "Tap",
        };
        let inlet = Inlet {
            channel,
            meter: Meter::new(id, WorksOn::Sink),
            supply: Supply::Stream,
        };
        running.spawn_sink(tap.sink, inlet);
    }

    // Segments under construction, by the last node they have come to; and finished ones.
    let mut growing: Vec<Option<(usize, Segment)>> = plan.nodes.iter().map(|_| None).collect();
    let mut finished: Vec<Option<Arc<Segment>>> = vec![None; plan.nodes.len()];
    for (node, stage) in stages.into_iter().enumerate() {
        let meter = running.meters[node].clone();
        let planned = &plan.nodes[node];
        let from = planned.inputs.first().map(|edge| edge.node);
        let begin = |head: Head| Segment {
            seed: plan.seed,
            lead: meter.clone(),
            head,
            maps: Vec::new(),
            fold: None,
            skipped: Arc::clone(&running.skipped),
        };
        // The segment that a map or fold belongs to.
        let mut joined = || match from {
            Some(from) if joins[node] => growing[from].take(),
            Some(from) => Some((node, begin(Head::Channel(finished[from].clone())))),
            None => None,
        };
        let (first, segment) = match stage {
            Stage::Sink(sink) => {
                let (_, inlet) = inlets[node].pop().context("a sink needs an input")?;
                running.spawn_sink(sink, inlet);
                continue;
            }
            Stage::Thread(thread) => {
                let outputs = planned.kind.outputs.iter().enumerate();
                let ports = Ports {
                    inputs: std::mem::take(&mut inlets[node]),
                    outputs: outputs
                        .map(|(output, port)| {
                            (port.name, outlet(&mut senders[node], output, &meter))
                        })
                        .collect(),
                    stop: running.stop.clone(),
                    runtime: running.runtime.handle().clone(),
                    clock: WorkClock::start(),
                };
                running.spawn_thread(planned.id.clone(), thread, ports)?;
                continue;
            }
            Stage::Source(source) => (node, begin(Head::Source(meter.clone(), source))),
            Stage::Map(map) => {
                let (first, mut segment) = joined().context("a map needs an input")?;
                segment.maps.push((meter.clone(), map));
                (first, segment)
            }
            Stage::Fold(fold) => {
                let (first, mut segment) = joined().context("a fold needs an input")?;
                segment.fold = Some((meter.clone(), fold));
                (first, segment)
            }
        };
        let mut readers = plan.nodes.iter().enumerate();
        if readers.any(|(reader, planned)| joins[reader] && planned.inputs[0].node == node) {
            growing[node] = Some((first, segment));
            continue;
        }
        let segment = Arc::new(segment);
        finished[node] = Some(Arc::clone(&segment));
        if senders[node].is_empty() {
            continue; // nobody would read it
        }
        let pool = running.pool.handle();
        let (feed, entering) = match (&segment.head, inlets[first].pop()) {
            (Head::Source(_, source), _) => {
                let Wanted { start, end } = wanted[first];
                let walk = Walk {
                    source: Arc::clone(source),
                    shard: contents[first].shard,
                    pool: pool.clone(),
                    start,
                    taken: 0,
                    end,
                    order: Order::Unknown,
                };
                (walk::Feed::Source(walk), &contents[first])
            }
            (Head::Channel(_), Some((_, inlet))) => {
                let from = plan.nodes[first].inputs[0].node;
                (walk::Feed::Channel(inlet), &contents[from])
            }
            (Head::Channel(_), None) => anyhow::bail!("`{}` has no input", planned.id.name),
        };
        let drive = Drive {
            segment,
            feed,
            outlet: outlet(&mut senders[node], 0, &meter),
            // Enough that every worker has its next item waiting while one slow item is awaited.
            flying: 4 * pool.workers + 4,
            pool,
            stop: running.stop.clone(),
            shard: entering.shard,
            samples: entering.dealt(),
        };
        running.spawn_segment(drive, &meter);
    }
    Ok(())
}

fn feed(options: &Options, node: &NodeId, port: &str) -> Option<FeedWith> {
    let mut feeds = options.feeds.iter();
    let feed = feeds.find(|feed| feed.node == node.name && feed.port == port)?;
    Some(feed.with)
}

type Senders = Vec<(usize, mpsc::Sender<Message>)>;

fn outlet(senders: &mut Senders, output: usize, meter: &Meter) -> Outlet {
    let mine = senders.extract_if(.., |(of, _)| *of == output);
    Outlet {
        readers: mine.map(|(_, sender)| sender).collect(),
        meter: meter.clone(),
    }
}

/// Which nodes continue the segment of the node that they read: maps and folds that are its only
/// reader. A fold ends a segment.
fn joins(plan: &Plan, stages: &[Stage], taps: &[Tap]) -> Vec<bool> {
    let readers = |node: usize| {
        let inputs = plan.nodes.iter().flat_map(|planned| &planned.inputs);
        let written = inputs.filter(|edge| edge.node == node).count();
        let name = &plan.nodes[node].id.name;
        written + taps.iter().filter(|tap| tap.node == *name).count()
    };
    plan.nodes
        .iter()
        .zip(stages)
        .map(|(planned, stage)| {
            let Some(edge) = planned.inputs.first() else {
                return false;
            };
            matches!(stage, Stage::Map(_) | Stage::Fold(_))
                && matches!(stages[edge.node], Stage::Source(_) | Stage::Map(_))
                && readers(edge.node) == 1
        })
        .collect()
}

/// How many items may wait for the readers of a node; for a sink, in front of it.
fn queue(stage: &Stage) -> usize {
    match stage {
        Stage::Fold(fold) => fold.prefetch().max(1),
        Stage::Sink(sink) => sink.queue(),
        _ => ITEM_QUEUE,
    }
}

/// What of each node's stream is wanted, from what its readers want. Threads say it; where none
/// reads, the options do.
fn wanted(plan: &Plan, stages: &[Stage], options: &Options) -> Vec<Wanted> {
    let mut known: Vec<Option<Wanted>> = vec![None; plan.nodes.len()];
    for reader in (0..plan.nodes.len()).rev() {
        for edge in &plan.nodes[reader].inputs {
            let wants = match &stages[reader] {
                Stage::Thread(thread) => Some(Wanted {
                    start: thread.start(edge.port),
                    end: match feed(options, &plan.nodes[reader].id, edge.port) {
                        Some(_) => options.epochs,
                        None => thread.epochs(),
                    },
                }),
                _ => known[reader],
            };
            let writer = &mut known[edge.node];
            *writer = match (*writer, wants) {
                (Some(a), Some(b)) => Some(Wanted {
                    start: std::cmp::min_by_key(a.start, b.start, |at| (at.epoch, at.sample)),
                    end: a.end.zip(b.end).map(|(a, b)| a.max(b)),
                }),
                (a, b) => a.or(b),
            };
        }
    }
    known
        .into_iter()
        .map(|wanted| {
            wanted.unwrap_or(Wanted {
                start: options.start,
                end: options.epochs,
            })
        })
        .collect()
}
