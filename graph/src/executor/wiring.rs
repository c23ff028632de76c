//! Groups a plan's nodes into segments and connects them with channels.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use super::drive::Drive;
use super::segment::{Head, Segment};
use super::spawn::Spawned;
use super::taps::{Feed, FeedWith, Tap};
use super::walk::{self, Order, Walk};
use crate::counters::{Meter, WorksOn};
use crate::item::Message;
use crate::node_id::NodeId;
use crate::plan::Plan;
use crate::ports::{Inlet, Outlet, Ports, Supply, WorkClock};
use crate::stage::{Contents, Position, Stage};

/// Capacity of the channel between two segments.
const ITEM_QUEUE: usize = 16;

/// The part of a source's epochs that is read.
#[derive(Clone, Copy)]
struct EpochRange {
    start: Position,
    /// The first epoch that is not read.
    end: Option<u64>,
}

/// What segments and channels are made from, besides the stages.
pub(super) struct Wiring<'a> {
    pub plan: &'a Plan,
    /// Of each node's stream.
    pub contents: &'a [Contents],
    pub feeds: &'a [Feed],
    /// Where the sources start, and how many epochs they run, where no thread says it.
    pub start: Position,
    pub epochs: Option<u64>,
}

impl Wiring<'_> {
    /// Connects and spawns everything.
    pub fn connect(&self, stages: Vec<Stage>, taps: Vec<Tap>, spawned: &mut Spawned) -> Result<()> {
        let Wiring { plan, contents, .. } = self;
        let joins = joins(plan, &stages, &taps);
        let epochs = self.epoch_ranges(&stages);
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
                    let supply = match self.feed(&planned.id, edge.port) {
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
                        meter: spawned.meters[reader].clone(),
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
            let writer =
                writer.with_context(|| format!("there is no node `{}` to read", tap.node))?;
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
            spawned.sink(tap.sink, inlet);
        }

        // Unfinished segments by their last node so far, with their first node; then finished ones.
        let mut unfinished: Vec<Option<(usize, Segment)>> =
            plan.nodes.iter().map(|_| None).collect();
        let mut finished: Vec<Option<Arc<Segment>>> = vec![None; plan.nodes.len()];
        for (node, stage) in stages.into_iter().enumerate() {
            let meter = spawned.meters[node].clone();
            let planned = &plan.nodes[node];
            let from = planned.inputs.first().map(|edge| edge.node);
            let begin = |head: Head| Segment {
                seed: plan.seed,
                lead: meter.clone(),
                head,
                maps: Vec::new(),
                fold: None,
                skipped: Arc::clone(&spawned.skipped),
                timed_out: Mutex::default(),
            };
            // The segment that a map or fold belongs to.
            let mut joined = || match from {
                Some(from) if joins[node] => unfinished[from].take(),
                Some(from) => Some((node, begin(Head::Channel(finished[from].clone())))),
                None => None,
            };
            let (first, segment) = match stage {
                Stage::Sink(sink) => {
                    let (_, inlet) = inlets[node].pop().context("a sink needs an input")?;
                    spawned.sink(sink, inlet);
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
                        stop: spawned.stop.clone(),
                        runtime: spawned.runtime.handle().clone(),
                        clock: WorkClock::start(),
                    };
                    spawned.thread(planned.id.clone(), thread, ports)?;
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
                unfinished[node] = Some((first, segment));
                continue;
            }
            let segment = Arc::new(segment);
            finished[node] = Some(Arc::clone(&segment));
            if senders[node].is_empty() {
                continue; // it has no reader
            }
            let pool = spawned.pool.handle();
            let (feed, entering) = match (&segment.head, inlets[first].pop()) {
                (Head::Source(_, source), _) => {
                    let EpochRange { start, end } = epochs[first];
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
                max_in_flight: 4 * pool.size + 4,
                pool,
                stop: spawned.stop.clone(),
                shard: entering.shard,
                samples: entering.dealt(),
            };
            spawned.segment(drive, &meter);
        }
        Ok(())
    }

    fn feed(&self, node: &NodeId, port: &str) -> Option<FeedWith> {
        let mut feeds = self.feeds.iter();
        let feed = feeds.find(|feed| feed.node == node.name && feed.port == port)?;
        Some(feed.with)
    }

    /// The part of each node's stream that is read. Threads ask for it; where none reads, it is that of
    /// [`Wiring`].
    fn epoch_ranges(&self, stages: &[Stage]) -> Vec<EpochRange> {
        let plan = self.plan;
        let mut known: Vec<Option<EpochRange>> = vec![None; plan.nodes.len()];
        for reader in (0..plan.nodes.len()).rev() {
            for edge in &plan.nodes[reader].inputs {
                let asked = match &stages[reader] {
                    Stage::Thread(thread) => Some(EpochRange {
                        start: thread.start(edge.port),
                        end: match self.feed(&plan.nodes[reader].id, edge.port) {
                            Some(_) => self.epochs,
                            None => thread.epochs(),
                        },
                    }),
                    _ => known[reader],
                };
                let writer = &mut known[edge.node];
                *writer = match (*writer, asked) {
                    (Some(a), Some(b)) => Some(EpochRange {
                        start: std::cmp::min_by_key(a.start, b.start, |at| (at.epoch, at.sample)),
                        end: a.end.zip(b.end).map(|(a, b)| a.max(b)),
                    }),
                    (a, b) => a.or(b),
                };
            }
        }
        known
            .into_iter()
            .map(|range| {
                range.unwrap_or(EpochRange {
                    start: self.start,
                    end: self.epochs,
                })
            })
            .collect()
    }
}

type Senders = Vec<(usize, mpsc::Sender<Message>)>;

fn outlet(senders: &mut Senders, output: usize, meter: &Meter) -> Outlet {
    let mine = senders.extract_if(.., |(of, _)| *of == output);
    Outlet {
        readers: mine.map(|(_, sender)| sender).collect(),
        meter: meter.clone(),
    }
}

/// Which nodes join the segment of the node that they read: maps and folds that are its only
/// reader. A fold ends a segment.
fn joins(plan: &Plan, stages: &[Stage], taps: &[Tap]) -> Vec<bool> {
    let readers = |node: usize| {
        let inputs = plan.nodes.iter().flat_map(|planned| &planned.inputs);
        let in_plan = inputs.filter(|edge| edge.node == node).count();
        let name = &plan.nodes[node].id.name;
        in_plan + taps.iter().filter(|tap| tap.node == *name).count()
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

/// Capacity of a node's output channels; for a sink, of its input.
fn queue(stage: &Stage) -> usize {
    match stage {
        Stage::Fold(fold) => fold.prefetch().max(1),
        Stage::Sink(sink) => sink.queue(),
        _ => ITEM_QUEUE,
    }
}
