//! The verdict of `profile` and `run`: what limits the speed.

use std::time::Duration;

use rsflow_graph::{Batch, NodeKind as _, Payload as _, Workers, WorksOn, counted};
use rsflow_model::sinks::Checkpoints;

use crate::catalogue::CATALOGUE;
use crate::figures::{Figures, NodeFigures, percent, rate};

/// A trainer that waits for more than this share of its time is starved.
const STARVED_SHARE: f64 = 0.05;
/// Workers that are busy for this share of their time are saturated.
const SATURATED_SHARE: f64 = 0.8;

/// Whether the trainer waits for data.
pub fn is_starved(figures: &Figures) -> bool {
    let trainer = figures.trainer();
    trainer.is_some_and(|trainer| trainer.wait_input > STARVED_SHARE)
}

/// One sentence: which node limits the speed, and which parameter to change.
pub fn verdict(figures: &Figures) -> String {
    let workers = &figures.workers;
    let speed = rate(figures.images_per_second);
    // Share of all workers' time.
    let worked: f64 = figures.on(WorksOn::Workers).map(|node| node.busy).sum();
    let at_work = figures.on(WorksOn::Workers).filter(|node| node.items > 0);
    let Some(slowest) = at_work.max_by(|a, b| a.busy.total_cmp(&b.busy)) else {
        return match figures.trainer() {
            Some(trainer) => format!(
                "if data were free, {} would take {speed} images/s: that is the headroom, and \
                 `--only pipeline` shows what the data nodes bring",
                trainer.title()
            ),
            None => "no node has finished an item".to_owned(),
        };
    };
    // More workers than cores share them, and waiting for a core counts as busy.
    let saturated =
        SATURATED_SHARE * workers.count.min(workers.cores) as f64 / workers.count as f64;
    let on_workers = counted(workers.count, "worker");
    if let Some(verdict) = slow_reader(figures) {
        return verdict;
    }
    let could = match figures.trainer() {
        None => None,
        Some(trainer) if trainer.wait_input < STARVED_SHARE => {
            let enough = (workers.count as f64 * worked / SATURATED_SHARE)
                .ceil()
                .max(1.0) as usize;
            let advice = match enough == workers.count {
                true => String::new(),
                false => format!(", so `cpu_workers: {enough}` is enough"),
            };
            return format!(
                "{} is the limit: it takes {speed} images/s and waits for data {} of the time; \
                 the data nodes keep {on_workers} busy for {}{advice}",
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
    if worked >= saturated {
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

/// How to make the data nodes faster. `wanted`: by which factor the trainer is faster, if known.
fn more_speed(slowest: &NodeFigures, workers: &Workers, wanted: Option<f64>) -> String {
    let room = workers.cores > workers.count;
    let more = wanted.map_or(workers.cores, |wanted| {
        (workers.count as f64 * wanted).ceil() as usize
    });
    let more = more.clamp(workers.count + 1, workers.cores.max(workers.count + 1));
    let kind = CATALOGUE.find(slowest.kind);
    let hint = kind
        .map_or("", |kind| kind.tuning_hint)
        .replace("NODE", &slowest.name);
    // A source waits for the disk, not for a core.
    if kind.is_some_and(|kind| kind.inputs.is_empty()) {
        return format!(
            "it is reading that takes the time; {hint}, or `cpu_workers: {more}`, so that more \
             reads are on their way at once"
        );
    }
    if room {
        return format!("set `cpu_workers: {more}`");
    }
    let cores = counted(workers.cores, "core");
    match hint.as_str() {
        "" => format!("all {cores} are busy"),
        hint => format!("all {cores} are busy; {hint}"),
    }
}

/// What helps where no node is saturated and still one waits.
fn smoother(figures: &Figures) -> String {
    let makes_batches = |node: &&NodeFigures| {
        let kind = CATALOGUE.find(node.kind);
        kind.is_some_and(|kind| kind.output_of(Batch::NAME).is_some())
    };
    let batches = figures.nodes.iter().filter(makes_batches);
    let prefetch = match batches.max_by_key(|node| node.items) {
        Some(batches) => format!("raise `{}.prefetch`", batches.name),
        None => {
            return "handing over one item at a time takes the rest; `--until` a `Batch` shows more"
                .to_owned();
        }
    };
    // Order is kept: while one item is late, each worker can finish some eight others.
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

/// The verdict where the trainer waits for a sink.
fn slow_reader(figures: &Figures) -> Option<String> {
    let trainer = figures
        .trainer()
        .filter(|trainer| trainer.wait_output >= STARVED_SHARE)?;
    let readers = figures
        .on(WorksOn::Sink)
        .filter(|sink| sink.busy >= STARVED_SHARE);
    let slowest = readers.max_by(|a, b| a.busy.total_cmp(&b.busy))?;
    let less = match slowest.kind {
        Checkpoints::NAME => format!("a larger `{}.every_steps` (or none)", slowest.name),
        _ => format!("a larger `{}.log_every`", trainer.name),
    };
    Some(format!(
        "{} is the limit: {} waits for it {} of the time; a faster disk for the run directory \
         helps, or {less}",
        slowest.title(),
        trainer.title(),
        percent(trainer.wait_output),
    ))
}

#[cfg(test)]
mod tests {
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

    /// With the shares that reading, decoding and resizing are busy, and that the trainer waits.
    fn figures(busy: [f64; 3], wait: f64) -> Figures {
        let mut nodes = vec![
            node("train_files", "ImageFolder", WorksOn::Workers),
            node("train_images", "DecodeImage", WorksOn::Workers),
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
            exchanged: Default::default(),
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
                "`train_images` (DecodeImage) is the limit: 1,480 images/s on 2 workers, 60 % of \
                 whose time it takes; `trainer` could take 2,960: set `cpu_workers: 4`",
            ),
            (
                "decoding, all cores at work",
                changed(decoding(), all_cores),
                "`train_images` (DecodeImage) is the limit: 1,480 images/s on 2 workers, 60 % of \
                 whose time it takes; `trainer` could take 2,960: all 2 cores are busy; \
                 smaller image files help",
            ),
            (
                "more workers than cores",
                changed(figures([0.05, 0.2, 0.1], 0.5), |figures| {
                    figures.workers.count = 7;
                    figures.workers.cores = 2;
                }),
                "`train_images` (DecodeImage) is the limit: 1,480 images/s on 7 workers, 20 % of \
                 whose time it takes; `trainer` could take 2,960: all 2 cores are busy; \
                 smaller image files help",
            ),
            (
                "resizing, all cores at work",
                changed(figures([0.1, 0.2, 0.65], 0.5), all_cores),
                "`train_sizes` (Resize) is the limit: 1,480 images/s on 2 workers, 65 % of whose \
                 time it takes; `trainer` could take 2,960: all 2 cores are busy; fewer or \
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
                "`train_images` (DecodeImage) is the limit: 1,480 images/s on 2 workers, 60 % of \
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
                "the trainer, with as few workers as are enough",
                changed(figures([0.01, 0.1, 0.05], 0.004), |figures| {
                    figures.workers.count = 1;
                }),
                "`trainer` (RsNet) is the limit: it takes 1,480 images/s and waits for data 0.4 % \
                 of the time; the data nodes keep 1 worker busy for 16 %",
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
                 `train_images` (DecodeImage) (half take up to 1.0 ms, one in a hundred 700 ms and \
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
                "checkpoints that are written too often",
                changed(figures([0.1, 0.2, 0.1], 0.0), |figures| {
                    figures.nodes[4].wait_output = 0.3;
                    figures.nodes[5] = node("saved", "Checkpoints", WorksOn::Sink);
                    figures.nodes[5].busy = 0.9;
                }),
                "`saved` (Checkpoints) is the limit: `trainer` (RsNet) waits for it 30 % of the time; \
                 a faster disk for the run directory helps, or a larger `saved.every_steps` (or none)",
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
