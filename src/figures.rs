//! Figures of a run: how each node spent a period of time.

use std::time::Duration;

use rsflow_graph::{Measured, Workers, WorksOn};
use rsflow_model::dist::Peers;

use crate::table::thousands;

/// What was exchanged with the other processes of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchanged {
    /// How long this process waited for them.
    pub waited: Duration,
    /// The steps, and the gradients and statistics that they sent.
    pub steps: u64,
    pub bytes: u64,
}

impl Exchanged {
    /// So far.
    pub fn of(peers: &Peers) -> Self {
        let (steps, bytes) = peers.exchanged();
        Exchanged {
            waited: peers.waited(),
            steps,
            bytes,
        }
    }

    pub fn since(self, before: Self) -> Self {
        Exchanged {
            waited: self.waited.saturating_sub(before.waited),
            steps: self.steps.saturating_sub(before.steps),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// What was measured in a period of time.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Length of the period.
    pub seconds: f64,
    /// Images that left the last node.
    pub images_per_second: f64,
    pub workers: Workers,
    /// In the plan's order.
    pub nodes: Vec<NodeFigures>,
    /// With the other processes of the run; nothing where there are none.
    pub exchanged: Exchanged,
}

/// What one node did. Shares are from 0 to 1.
#[derive(Clone, Debug)]
pub struct NodeFigures {
    pub name: String,
    pub kind: &'static str,
    pub works_on: WorksOn,
    pub items: u64,
    /// Share of the time spent working: of all workers' time for a data node, of its own thread's
    /// time for others.
    pub busy: f64,
    /// Share of the time spent waiting for an item.
    pub wait_input: f64,
    /// Share of the time spent waiting for room in a reader's queue.
    pub wait_output: f64,
    /// Time per item: mean and quantiles; `None` without items.
    pub mean: Option<Duration>,
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
    /// Mean fill level of the input queue, from 0 to 1; `None` without a queue.
    pub queue: Option<f64>,
    /// Encoded bytes read by a source, bytes of pixels in batches; 0 for other nodes.
    pub bytes: u64,
    /// Damaged images that were replaced.
    pub skipped: u64,
}

impl Figures {
    /// The difference of two readings of a run's meters, `seconds` apart.
    pub fn new(
        before: &[Measured],
        after: &[Measured],
        seconds: f64,
        images_per_second: f64,
        workers: Workers,
    ) -> Self {
        // Data nodes that were cut off have no items.
        let began =
            |(_, after): &(_, &Measured)| after.items > 0 || after.works_on != WorksOn::Workers;
        let both = before.iter().zip(after).filter(began);
        let nodes = both.map(|(before, after)| {
            NodeFigures::new(&after.since(before), seconds, workers.count as f64)
        });
        Figures {
            seconds,
            images_per_second,
            nodes: nodes.collect(),
            workers,
            exchanged: Exchanged::default(),
        }
    }

    /// The first node with a thread of its own.
    pub fn trainer(&self) -> Option<&NodeFigures> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.works_on == WorksOn::Thread)
    }

    /// The nodes that work there.
    pub fn on(&self, place: WorksOn) -> impl Iterator<Item = &NodeFigures> {
        self.nodes.iter().filter(move |node| node.works_on == place)
    }
}

impl NodeFigures {
    /// `measured` in `seconds`, of a run with so many workers.
    pub fn new(measured: &Measured, seconds: f64, workers: f64) -> Self {
        let seconds_of = |duration: Duration| duration.as_secs_f64();
        let (mut busy, wait_input) = (measured.busy, measured.wait_input);
        let (work, wait) = match measured.works_on {
            WorksOn::Workers => (seconds * workers, seconds),
            WorksOn::Sink => (seconds, seconds),
            WorksOn::Thread => {
                // Its times are recorded at the end of a step, which the period may cut: shares are
                // of their own sum.
                let own = seconds_of(busy + wait_input);
                // Waiting for its readers is part of the time that it was busy.
                busy = busy.saturating_sub(measured.wait_output);
                (own, own)
            }
        };
        let share = |of: Duration, all: f64| match all > 0.0 {
            true => (seconds_of(of) / all).min(1.0),
            false => 0.0,
        };
        NodeFigures {
            name: measured.node.name.clone(),
            kind: measured.node.kind,
            works_on: measured.works_on,
            items: measured.items,
            busy: share(busy, work),
            wait_input: share(wait_input, wait),
            wait_output: share(measured.wait_output, wait),
            mean: measured.mean(),
            p50: measured.times.quantile(0.5),
            p99: measured.times.quantile(0.99),
            queue: measured.queue.occupancy(),
            bytes: measured.bytes,
            skipped: measured.skipped,
        }
    }

    /// Name and kind.
    pub fn title(&self) -> String {
        format!("`{}` ({})", self.name, self.kind)
    }
}

/// A rate with one decimal below 10, else rounded: `3.1`, `1,480`.
pub fn rate(per_second: f64) -> String {
    match per_second < 10.0 {
        true => format!("{per_second:.1}"),
        false => thousands(per_second.round() as u64),
    }
}

/// `61 %`; below 1 % with one decimal.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent > 0.0 && percent < 1.0 {
        true => format!("{percent:.1} %"),
        false => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use rsflow_graph::{NodeId, Queue, Times};

    use super::*;

    #[test]
    fn shares_are_those_of_the_time_that_there_was() {
        let measured = |works_on, [busy, wait_input, wait_output]: [u64; 3]| Measured {
            node: NodeId {
                name: "node".to_owned(),
                kind: "Test",
            },
            works_on,
            items: busy,
            busy: Duration::from_secs(busy),
            wait_input: Duration::from_secs(wait_input),
            wait_output: Duration::from_secs(wait_output),
            skipped: 0,
            queue: Queue::default(),
            bytes: 3 * busy,
            times: Times::default(),
        };
        let workers = Workers {
            count: 2,
            cores: 2,
            chosen: None,
        };
        // Ten seconds, in which two workers have twenty. A thread's own sum is what it has.
        for (works_on, after, expected) in [
            (WorksOn::Workers, [11, 3, 6], [0.5, 0.2, 0.5]),
            (WorksOn::Sink, [6, 6, 1], [0.5, 0.5, 0.0]),
            (WorksOn::Thread, [7, 3, 2], [0.625, 0.25, 0.125]),
        ] {
            let before = [measured(works_on, [1, 1, 1])];
            let after = [measured(works_on, after)];
            let figures = Figures::new(&before, &after, 10.0, 1.0, workers.clone());
            let node = &figures.nodes[0];
            assert_eq!([node.busy, node.wait_input, node.wait_output], expected);
            assert_eq!(node.bytes, 3 * node.items);
            assert_eq!(node.mean, Some(Duration::from_secs(1)));
        }
    }
}
