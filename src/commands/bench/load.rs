//! `rsflow bench --serve`: what a server does under load.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::seq::SliceRandom as _;
use rsflow_base::shown::Shown as _;
use rsflow_base::{input_file, keyed};
use rsflow_pipeline::MAX_IMAGE_BYTES;
use rsflow_serve::load::{self, Report, Sample, Status, Target};
use serde_json::json;

use crate::cli::{Bench, Load};
use crate::commands::usage::Usage;
use crate::files::{check_output, is_stdout, replace, write_json};
use crate::plot::{self, Axis, Chart, Line, Look, Point};
use crate::process;
use crate::progress::{Count, Screen};
use crate::table::grid;

/// The most images that are read, and kept in memory.
const MOST_IMAGES: usize = 1000;
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);
/// The most requests at one rate.
const MOST_REQUESTS: f64 = 5e6;
const CAPACITIES: [f64; 5] = [0.5, 1.0, 2.0, 3.0, 4.0];

/// The times at which requests are sent, and over how long.
struct Stage {
    /// What the rate is of the server's capacity at its largest size, if that was asked for.
    times_capacity: Option<f64>,
    times: Vec<Duration>,
    length: Duration,
}

pub fn run(arguments: &Bench, url: &str, out: &mut dyn Write) -> Result<ExitCode> {
    let Load { plot, images, .. } = &arguments.load;
    for (option, path) in [("--json", &arguments.json), ("--plot", plot)] {
        if let Some(path) = path {
            check_output(path, option, arguments.force, &[])?;
        }
    }
    process::end_on_signals()?;
    let screen = Screen::new(std::io::stderr().is_terminal());
    let url = load::url(url).map_err(|error| Usage(format!("--serve: {error:#}")))?;
    let status = load::status(&url)?;
    let images = images.as_deref().unwrap_or(Path::new("."));
    let samples = samples(images, arguments.load.seed, &screen)?;
    let deadline_ms = arguments.load.deadline_ms.unwrap_or(status.deadline_ms);
    let target = Target {
        url: url.clone(),
        deadline: Duration::try_from_secs_f64(deadline_ms / 1e3)
            .ok()
            .filter(|deadline| *deadline <= LONGEST_DEADLINE)
            .with_context(|| Usage(format!("a deadline of {deadline_ms} ms is none")))?,
        size: arguments.load.size.clone(),
        connections: arguments.load.connections as usize,
    };
    let mut rows = Vec::new();
    for stage in stages(arguments, &status)? {
        let mut count = Count::new(screen.clone(), "requests", stage.times.len());
        let sent = load::run(&target, &samples, &stage.times, |ended| {
            count.done(ended as usize);
        })?;
        drop(count);
        let report = Report::new(&sent, target.deadline, stage.length);
        screen.line(&format!(
            "{:.0} requests a second: {:.1} % in time",
            report.rate,
            report.percent(report.in_time)
        ));
        for (why, times) in &report.failures {
            screen.line(&format!("{times} failed: {}", why.shown()));
        }
        rows.push((stage.times_capacity, report));
    }
    if !is_stdout(arguments.json.as_deref()) {
        writeln!(
            out,
            "{}\n{}",
            table(&rows),
            explained(deadline_ms, &samples)
        )?;
    }
    if let Some(path) = &arguments.json {
        let rows = rows.iter().map(|(times_capacity, report)| {
            let mut row = json!(report);
            row["times_capacity"] = json!(times_capacity);
            row
        });
        let value = json!({
            "url": url,
            "deadline_ms": deadline_ms,
            "size": target.size,
            "seconds": arguments.seconds,
            "seed": arguments.load.seed,
            "bursts": arguments.load.bursts,
            "rows": rows.collect::<Vec<_>>(),
        });
        write_json(path, &value, out)?;
    }
    if let Some(path) = plot {
        let written = replace(path, figure(&rows).as_bytes());
        written.with_context(|| format!("cannot write {}", path.shown()))?;
        screen.line(&format!("{} has the figure", path.shown()));
    }
    let answered = rows
        .iter()
        .any(|(_, report)| report.in_time + report.late > 0);
    Ok(match answered {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The images of a folder in a random order. If they lie in class folders, with the names of their classes.
fn samples(folder: &Path, seed: u64, screen: &Screen) -> Result<Vec<Sample>> {
    let (mut paths, _) = rsflow_pipeline::images_in(folder)?;
    ensure!(
        !paths.is_empty(),
        "--images: {} has no images",
        folder.shown()
    );
    paths.shuffle(&mut keyed::random(seed, "load", "images", &[]));
    if paths.len() > MOST_IMAGES {
        screen.line(&format!("{MOST_IMAGES} of {} images are sent", paths.len()));
        paths.truncate(MOST_IMAGES);
    }
    let read = paths.iter().map(|path| {
        let file = input_file::read(path, MAX_IMAGE_BYTES);
        let file = file.with_context(|| format!("cannot read {}", path.shown()))?;
        let class = path.parent().filter(|parent| *parent != folder);
        let class = class.and_then(|parent| parent.file_name());
        Ok(Sample {
            file: file.into(),
            class: class.map(|name| name.to_string_lossy().into_owned()),
        })
    });
    read.collect()
}

fn stages(arguments: &Bench, status: &Status) -> Result<Vec<Stage>> {
    let Load {
        rate,
        times_capacity,
        trace,
        bursts,
        seed,
        ..
    } = &arguments.load;
    if let Some(path) = trace {
        let text = input_file::read(path, MAX_IMAGE_BYTES);
        let text = text.with_context(|| format!("cannot read {}", path.shown()))?;
        let text = String::from_utf8_lossy(&text);
        let times = load::read_trace(&text).map_err(|error| {
            anyhow::Error::new(Usage(format!("--trace: {}: {error:#}", path.shown())))
        })?;
        let length = times.last().copied().unwrap_or_default();
        return Ok(vec![Stage {
            times_capacity: None,
            length: length.max(Duration::from_secs(1)),
            times,
        }]);
    }
    let rates: Vec<(Option<f64>, f64)> = match rate.as_slice() {
        [] => {
            let numbers = status.sizes.iter();
            let numbers = numbers.filter_map(|of| Some((of.size.parse::<u32>().ok()?, of)));
            let largest = numbers.max_by_key(|(size, _)| *size);
            let (_, largest) =
                largest.context("the server names no sizes; --rate says how much")?;
            let multiples = match times_capacity.as_slice() {
                [] => &CAPACITIES,
                multiples => multiples,
            };
            let of = |&times: &f64| (Some(times), times * largest.images_per_second);
            multiples.iter().map(of).collect()
        }
        rates => rates.iter().map(|&rate| (None, rate)).collect(),
    };
    let length = Duration::from_secs_f64(arguments.seconds);
    let stages = rates.into_iter().map(|(times_capacity, rate)| {
        ensure!(
            rate * arguments.seconds <= MOST_REQUESTS,
            Usage(format!(
                "{rate} requests a second for {} s are more than {MOST_REQUESTS:e}; a lower --rate or fewer \
                 --seconds are enough",
                arguments.seconds
            ))
        );
        Ok(Stage {
            times_capacity,
            times: load::arrivals(rate, *bursts, length, *seed),
            length,
        })
    });
    stages.collect()
}

fn table(rows: &[(Option<f64>, Report)]) -> String {
    let header = [
        "of capacity",
        "requests/s",
        "in time %",
        "late %",
        "refused %",
        "failed %",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "top-1 %",
        "sizes of those in time, %",
    ];
    let rows = rows.iter().map(|(times_capacity, report)| {
        let percent = |count| format!("{:.1}", report.percent(count));
        vec![
            times_capacity.map_or(String::new(), |times| format!("{times}")),
            format!("{:.0}", report.rate),
            format!("{:.2}", report.percent(report.in_time)),
            percent(report.late + report.expired),
            percent(report.refused),
            percent(report.failed),
            format!("{:.1}", report.p50_ms),
            format!("{:.1}", report.p99_ms),
            format!("{:.1}", report.p999_ms),
            report
                .top1
                .map_or(String::new(), |top1| format!("{top1:.1}")),
            sizes(report),
        ]
    });
    grid(&header, rows)
}

/// `64 90, 32 10`: the largest size first.
fn sizes(report: &Report) -> String {
    let mut sizes: Vec<(&String, &usize)> = report.sizes.iter().collect();
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(size.parse::<u32>().unwrap_or(u32::MAX)));
    let share = |count: usize| 100.0 * count as f64 / report.in_time.max(1) as f64;
    let words = sizes
        .into_iter()
        .map(|(size, count)| format!("{size} {:.0}", share(*count)));
    words.collect::<Vec<_>>().join(", ")
}

fn explained(deadline_ms: f64, samples: &[Sample]) -> String {
    let top1 = match samples.iter().any(|sample| sample.class.is_some()) {
        true => "; top-1 is of those in time",
        false => "",
    };
    format!(
        "in time: within {deadline_ms} ms of the time at which a request was to be sent, which does not depend on \
         answers; latencies are of all answers{top1}"
    )
}

/// Goodput, latency and top-1 against the rate.
fn figure(rows: &[(Option<f64>, Report)]) -> String {
    let line = |name: &str, look, value: &dyn Fn(&Report) -> Option<f64>| Line {
        name: name.to_owned(),
        look: Look::Number(look),
        points: rows
            .iter()
            .filter_map(|(times, report)| {
                Some(Point {
                    x: report.rate,
                    y: value(report)?,
                    label: times.map_or(String::new(), |times| format!("{times}x")),
                })
            })
            .collect(),
    };
    let chart = |y: &str, lines| Chart {
        x: Axis::new("requests a second"),
        y: Axis::new(y),
        lines,
    };
    let mut charts = vec![
        chart(
            "a second",
            vec![
                line("answers in time", 0, &|report| Some(report.goodput)),
                line("requests", 1, &|report| Some(report.rate)),
            ],
        ),
        chart(
            "latency, ms",
            vec![
                line("p99", 1, &|report| Some(report.p99_ms)),
                line("median", 0, &|report| Some(report.p50_ms)),
            ],
        ),
    ];
    if rows.iter().any(|(_, report)| report.top1.is_some()) {
        charts.push(chart(
            "top-1 % of answers in time",
            vec![line("top-1", 0, &|report| report.top1)],
        ));
    }
    plot::file(&charts)
}
