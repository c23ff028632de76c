//! What the nodes of a run did with a stretch of time, and what that means.

use std::time::Duration;

use rsflow_graph::{Measured, NodeKind as _, Workers, WorksOn, counted};
use rsflow_pipeline::nodes::Batch;

use crate::catalogue::CATALOGUE;
use crate::table::thousands;

/// A stretch of time, measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How long it was.
    pub seconds: f64,
    /// Images that came out at the end in each second.
    pub images_per_second: f64,
    /// The threads that the data nodes share.
    pub workers: Workers,
    /// In the plan's order.
    pub nodes: Vec<NodeFigures>,
}

/// What one node did. Shares are 0 to 1.
#[derive(Clone, Debug)]
pub struct NodeFigures {
    /// The name in the recipe.
    pub name: String,
    /// The kind.
    pub kind: &'static str,
    /// Where it works.
    pub works_on: WorksOn,
    /// Items done.
    pub items: u64,
    /// Share of the time spent on its work: of all workers' time for a data node, of its own
    /// thread's for others.
    pub busy: f64,
    /// Share of the time that it waited for something to come.
    pub wait_input: f64,
    /// Share of the time that it waited for room at its readers.
    pub wait_output: f64,
    /// Its time for an item: the mean, half of them, 99 of 100; `None` without items.
    pub mean: Option<Duration>,
    #[allow(missing_docs)]
    pub p50: Option<Duration>,
    #[allow(missing_docs)]
    pub p99: Option<Duration>,
    /// Mean share of its input queue that was filled; `None` where there is none.
    pub queue: Option<f64>,
    /// Encoded bytes that a source read, bytes of pixels in batches; else 0.
    pub bytes: u64,
    /// Images that it could not use and that were replaced.
    pub skipped: u64,
}

impl Figures {
    /// What happened from one reading of a run's meters to another, `seconds` later.
    pub fn new(
        before: &[Measured],
        after: &[Measured],
        seconds: f64,
        images_per_second: f64,
        workers: Workers,
    ) -> Self {
        // What never began is not what was measured.
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
        }
    }

    /// The node that computes on a thread of its own.
    pub fn trainer(&self) -> Option<&NodeFigures> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.works_on == WorksOn::Thread)
    }

    fn on(&self, place: WorksOn) -> impl Iterator<Item = &NodeFigures> {
        self.nodes.iter().filter(move |node| node.works_on == place)
    }
}

impl NodeFigures {
    fn new(measured: &Measured, seconds: f64, workers: f64) -> Self {
        let seconds_of = |duration: Duration| duration.as_secs_f64();
        let (mut busy, wait_input) = (measured.busy, measured.wait_input);
        let (work, wait) = match measured.works_on {
            WorksOn::Workers => (seconds * workers, seconds),
            WorksOn::Sink => (seconds, seconds),
            WorksOn::Thread => {
                // It is read when a step ends, not when the stretch does: its own sum counts.
                let own = seconds_of(busy + wait_input);
                // It waits for its readers while it is at work.
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

    fn title(&self) -> String {
        format!("`{}` ({})", self.name, self.kind)
    }
}

/// A trainer that waits for more than this share of its time has a reason to complain.
pub const MUCH: f64 = 0.05;
/// Workers that are busy for this share of their time have none left.
const FULL: f64 = 0.8;

/// What limits the speed, by what was measured, and what to turn; one sentence.
pub fn verdict(figures: &Figures) -> String {
    let workers = &figures.workers;
    let speed = rate(figures.images_per_second);
    // Of all workers' time.
    let worked: f64 = figures.on(WorksOn::Workers).map(|node| node.busy).sum();
    let at_work = figures.on(WorksOn::Workers).filter(|node| node.items > 0);
    let Some(slowest) = at_work.max_by(|a, b| a.busy.total_cmp(&b.busy)) else {
        return match figures.trainer() {
            Some(trainer) => format!(
                "if data were free, {} would take {speed} images/s: that is the headroom, and \
                 `--only pipeline` shows what the data nodes bring",
                trainer.title()
            ),
            None => "nothing was done".to_owned(),
        };
    };
    // More workers than cores take turns, which looks like work.
    let full = FULL * workers.count.min(workers.cores) as f64 / workers.count as f64;
    let on_workers = counted(workers.count, "worker");
    if let Some(words) = slow_reader(figures) {
        return words;
    }
    let could = match figures.trainer() {
        None => None,
        Some(trainer) if trainer.wait_input < MUCH => {
            let enough = (workers.count as f64 * worked / FULL).ceil().max(1.0);
            return format!(
                "{} is the limit: it takes {speed} images/s and waits for data {} of the time; \
                 the data nodes keep {on_workers} busy for {}, so `cpu_workers: {enough}` is enough",
                trainer.title(),
                percent(trainer.wait_input),
                percent(worked),
            );
        }
        Some(trainer) => Some(figures.images_per_second / trainer.busy.max(1e-9)),
    };
    let trainer = match (figures.trainer(), could) {
        (Some(trainer), Some(could)) => {
            format!("; `{}` could take {}", trainer.name, rate(could))
        }
        _ => String::new(),
    };
    if worked >= full {
        return format!(
            "{} is the limit: {speed} images/s on {on_workers}, {} of whose time it takes{trainer}: {}",
            slowest.title(),
            percent(slowest.busy),
            more_speed(
                slowest,
                workers,
                could.map(|could| could / figures.images_per_second)
            ),
        );
    }
    format!(
        "no node is the limit: {speed} images/s with {on_workers} busy {} of the time{trainer}: {}",
        percent(worked),
        smoother(figures),
    )
}

/// What makes the data nodes faster. `wanted`: by how much the trainer is, where it is known.
fn more_speed(slowest: &NodeFigures, workers: &Workers, wanted: Option<f64>) -> String {
    let room = workers.cores > workers.count;
    let more = wanted.map_or(workers.cores, |wanted| {
        (workers.count as f64 * wanted).ceil() as usize
    });
    let more = more.clamp(workers.count + 1, workers.cores.max(workers.count + 1));
    let kind = CATALOGUE.find(slowest.kind);
    let faster = kind
        .map_or("", |kind| kind.tuning_hint)
        .replace("NODE", &slowest.name);
    // Who reads waits for the disk and not for a core.
    if kind.is_some_and(|kind| kind.inputs.is_empty()) {
        return format!(
            "it is reading that takes the time; {faster}, or `cpu_workers: {more}`, so that more \
             reads are on their way at once"
        );
    }
    if room {
        return format!("set `cpu_workers: {more}`");
    }
    let cores = counted(workers.cores, "core");
    match faster.as_str() {
        "" => format!("{cores} have no more to give"),
        faster => format!("{cores} have no more to give; {faster}"),
    }
}

/// What helps where nobody works all the time and still somebody waits.
fn smoother(figures: &Figures) -> String {
    let batches = figures.nodes.iter().filter(|node| node.kind == Batch::NAME);
    let prefetch = match batches.max_by_key(|node| node.items) {
        Some(batches) => format!("raise `{}.prefetch`", batches.name),
        None => {
            return "handing over one item at a time takes the rest; `--until` a `Batch` shows more"
                .to_owned();
        }
    };
    // While one item is awaited, as order is kept, no more than some eight for each worker go on.
    let means = figures.on(WorksOn::Workers).filter_map(|node| node.mean);
    let window = 8 * means.sum::<Duration>();
    let mut nodes = figures.on(WorksOn::Workers);
    let long = nodes.find(|node| node.p99 > Some(window));
    match long {
        Some(node) => format!(
            "single items keep the others waiting in {} (half take up to {}, one in a hundred {} \
             and more); {prefetch}",
            node.title(),
            crate::table::time(node.p50),
            crate::table::time(node.p99),
        ),
        None => format!("{prefetch}, so that more is ready when it is asked for"),
    }
}

/// The trainer waits for one of those who keep what it says.
fn slow_reader(figures: &Figures) -> Option<String> {
    let trainer = figures
        .trainer()
        .filter(|trainer| trainer.wait_output >= MUCH)?;
    let readers = figures.on(WorksOn::Sink).filter(|sink| sink.busy >= MUCH);
    let slowest = readers.max_by(|a, b| a.busy.total_cmp(&b.busy))?;
    Some(format!(
        "{} is the limit: {} waits for it {} of the time; a faster disk for the run directory \
         helps, or a larger `{}.log_every`",
        slowest.title(),
        trainer.title(),
        percent(trainer.wait_output),
        trainer.name,
    ))
}

/// Images in a second, as a person reads them.
pub fn rate(per_second: f64) -> String {
    match per_second < 10.0 {
        true => format!("{per_second:.1}"),
        false => thousands(per_second.round() as u64),
    }
}

/// `61 %`; below one in a hundred with a digit more.
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

    fn node(name: &str, kind: &'static str, works_on: WorksOn) -> NodeFigures {
        NodeFigures {
            name: name.to_owned(),
            kind,
            works_on,
            items: 1000,
            busy: 0.0,
            wait_input: 0.0,
            wait_output: 0.0,
            mean: Some(Duration::from_millis(1)),
            p50: Some(Duration::from_millis(1)),
            p99: Some(Duration::from_millis(2)),
            queue: None,
            bytes: 0,
            skipped: 0,
        }
    }

    /// Reading, decoding, resizing and what the trainer waits.
    fn figures(busy: [f64; 3], wait: f64) -> Figures {
        let mut nodes = vec![
            node("train_files", "ImageFolder", WorksOn::Workers),
            node("train_images", "DecodeJpeg", WorksOn::Workers),
            node("train_sizes", "Resize", WorksOn::Workers),
            node("train_batches", "Batch", WorksOn::Workers),
            node("trainer", "RsNet", WorksOn::Thread),
            node("log", "MetricsLog", WorksOn::Sink),
        ];
        nodes[0].bytes = 1_000_000;
        nodes[3].bytes = 9_000_000;
        for (node, busy) in nodes.iter_mut().zip(busy) {
            node.busy = busy;
        }
        nodes[4].busy = 1.0 - wait;
        nodes[4].wait_input = wait;
        Figures {
            seconds: 10.0,
            images_per_second: 1480.0,
            workers: Workers {
                count: 2,
                cores: 8,
                chosen: None,
            },
            nodes,
        }
    }

    fn changed(mut figures: Figures, change: fn(&mut Figures)) -> Figures {
        change(&mut figures);
        figures
    }

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

    #[test]
    fn the_verdict_follows_what_was_measured() {
        let decoding = || figures([0.1, 0.6, 0.25], 0.5);
        let no_trainer = |figures: &mut Figures| {
            figures.nodes.truncate(4);
        };
        let all_cores = |figures: &mut Figures| figures.workers.cores = 2;
        let cases = [
            (
                "decoding",
                decoding(),
                "`train_images` (DecodeJpeg) is the limit: 1,480 images/s on 2 workers, 60 % of \
                 whose time it takes; `trainer` could take 2,960: set `cpu_workers: 4`",
            ),
            (
                "decoding, all cores at work",
                changed(decoding(), all_cores),
                "`train_images` (DecodeJpeg) is the limit: 1,480 images/s on 2 workers, 60 % of \
                 whose time it takes; `trainer` could take 2,960: 2 cores have no more to give; \
                 smaller image files help",
            ),
            (
                "more workers than cores",
                changed(figures([0.05, 0.2, 0.1], 0.5), |figures| {
                    figures.workers.count = 7;
                    figures.workers.cores = 2;
                }),
                "`train_images` (DecodeJpeg) is the limit: 1,480 images/s on 7 workers, 20 % of \
                 whose time it takes; `trainer` could take 2,960: 2 cores have no more to give; \
                 smaller image files help",
            ),
            (
                "resizing, all cores at work",
                changed(figures([0.1, 0.2, 0.65], 0.5), all_cores),
                "`train_sizes` (Resize) is the limit: 1,480 images/s on 2 workers, 65 % of whose \
                 time it takes; `trainer` could take 2,960: 2 cores have no more to give; fewer or \
                 smaller `train_sizes.sizes` help",
            ),
            (
                "the disk",
                figures([0.7, 0.2, 0.05], 0.9),
                "`train_files` (ImageFolder) is the limit: 1,480 images/s on 2 workers, 70 % of \
                 whose time it takes; `trainer` could take 14,800: it is reading that takes the \
                 time; a faster disk helps, or `cpu_workers: 8`, so that more reads are on their \
                 way at once",
            ),
            (
                "the data nodes alone",
                changed(decoding(), no_trainer),
                "`train_images` (DecodeJpeg) is the limit: 1,480 images/s on 2 workers, 60 % of \
                 whose time it takes: set `cpu_workers: 8`",
            ),
            (
                "the trainer",
                figures([0.01, 0.1, 0.05], 0.004),
                "`trainer` (RsNet) is the limit: it takes 1,480 images/s and waits for data 0.4 % \
                 of the time; the data nodes keep 2 workers busy for 16 %, so `cpu_workers: 1` is \
                 enough",
            ),
            (
                "the trainer, just so",
                figures([0.1, 0.6, 0.25], 0.04),
                "`trainer` (RsNet) is the limit: it takes 1,480 images/s and waits for data 4 % of \
                 the time; the data nodes keep 2 workers busy for 95 %, so `cpu_workers: 3` is \
                 enough",
            ),
            (
                "a queue that is too short",
                figures([0.1, 0.2, 0.1], 0.2),
                "no node is the limit: 1,480 images/s with 2 workers busy 40 % of the time; \
                 `trainer` could take 1,850: raise `train_batches.prefetch`, so that more is ready \
                 when it is asked for",
            ),
            (
                "single images that take long",
                changed(figures([0.1, 0.2, 0.1], 0.2), |figures| {
                    figures.nodes[1].p99 = Some(Duration::from_millis(700));
                }),
                "no node is the limit: 1,480 images/s with 2 workers busy 40 % of the time; \
                 `trainer` could take 1,850: single items keep the others waiting in \
                 `train_images` (DecodeJpeg) (half take up to 1.0 ms, one in a hundred 700 ms and \
                 more); raise `train_batches.prefetch`",
            ),
            (
                "a slow sink",
                changed(figures([0.1, 0.2, 0.1], 0.0), |figures| {
                    figures.nodes[4].wait_output = 0.3;
                    figures.nodes[5].busy = 0.6;
                }),
                "`log` (MetricsLog) is the limit: `trainer` (RsNet) waits for it 30 % of the time; \
                 a faster disk for the run directory helps, or a larger `trainer.log_every`",
            ),
            (
                "the trainer alone",
                changed(figures([0.0; 3], 0.0), |figures| {
                    for node in &mut figures.nodes[..4] {
                        node.items = 0;
                    }
                    figures.images_per_second = 3.123;
                }),
                "if data were free, `trainer` (RsNet) would take 3.1 images/s: that is the \
                 headroom, and `--only pipeline` shows what the data nodes bring",
            ),
        ];
        for (case, figures, expected) in cases {
            assert_eq!(verdict(&figures), expected, "{case}");
        }
    }
}
