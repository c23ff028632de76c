//! The lines of text of a picture.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::style::{Color, Stylize as _};
use ratatui::text::{Line, Span};
use rsflow_base::run_files::{METRICS, NOW};
use rsflow_base::shown::{Shown as _, lines};

use super::picture::View;
use crate::commands::usage::many;
use crate::epoch_line::significant;
use crate::figures::{percent, rate};
use crate::now::{Now, State};
use crate::progress::duration;
use crate::table::thousands;

/// A run that writes every two seconds is silent after so long.
const SILENT: Duration = Duration::from_secs(10);
/// Characters of a bar.
const BAR: usize = 20;

/// Whose run, in which state, how far, and its newest figures.
pub fn head<'a>(view: &View<'a>) -> Vec<Line<'a>> {
    let mut lines = vec![Line::from(view.name.bold())];
    match view.now {
        Some(now) => {
            lines.push(state(now, view));
            lines.extend(position(now));
            lines.push(figures(now));
        }
        None => lines.extend(state_by_log(view)),
    }
    lines
}

/// The state, where and since when; if it gives no sign of life, for how long.
fn state(now: &Now, view: &View) -> Line<'static> {
    let silent = view
        .age
        .filter(|age| *age > SILENT && !now.state.has_ended());
    let name = match view.was_killed {
        true => "killed",
        false => now.state.name(),
    };
    let state = match (silent, now.state) {
        _ if view.was_killed => name.fg(Color::Red),
        (Some(_), _) => name.fg(Color::Yellow),
        (None, State::Failed) => name.fg(Color::Red),
        (None, _) => name.fg(Color::Green),
    };
    let mut spans = vec![state];
    if let Some(age) = silent {
        let text = format!("  no sign of life for {}", seconds(age));
        spans.push(text.fg(Color::Yellow).bold());
    }
    spans.push(Span::from(format!(
        "  on {}, process {}",
        now.host.shown(),
        now.pid
    )));
    if now.processes > 1 {
        spans.push(Span::from(format!(
            ", the first of {} processes",
            now.processes
        )));
    }
    if let Some(started) = now.started {
        let until = match now.state.has_ended() {
            true => now.written.unwrap_or(view.time),
            false => view.time,
        };
        let took = Duration::try_from(until.duration_since(started)).unwrap_or_default();
        let text = format!("  since {} ({})", local(started), duration(took));
        spans.push(Span::from(text));
    }
    Line::from(spans)
}

/// Seconds up to two minutes, else as a clock.
fn seconds(age: Duration) -> String {
    match age.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        _ => duration(age),
    }
}

fn local(time: Timestamp) -> String {
    let time = time.to_zoned_datetime(TimeZone::system());
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How far it is; nothing before the first step.
fn position(now: &Now) -> Option<Line<'static>> {
    let (epoch, epochs) = (now.epoch?, now.epochs?);
    let (step, steps) = (
        now.step_in_epoch.unwrap_or(0),
        now.steps_per_epoch.unwrap_or(0),
    );
    let mut text = format!("epoch {epoch}/{epochs}");
    match &now.validation {
        Some(validation) => text.push_str(&format!(
            "  validating, batch {}/{}",
            thousands(validation.batches),
            thousands(validation.of)
        )),
        None if steps > 0 => {
            text.push_str(&format!("  step {}/{}", thousands(step), thousands(steps)))
        }
        None => {}
    }
    let share = share_done(now);
    if let Some(share) = share {
        text.push_str(&format!("  {}", percent(share)));
    }
    if let Some(left) = now.seconds_left {
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        text.push_str(&format!("  {} left", duration(left)));
    }
    // Last: a narrow terminal cuts it off.
    if let Some(share) = share {
        text.push_str(&format!("  [{}]", bar(share, BAR)));
    }
    Some(Line::from(text))
}

/// Of the whole training.
fn share_done(now: &Now) -> Option<f64> {
    let (epoch, epochs) = (now.epoch? as f64, now.epochs? as f64);
    let part = now.step_in_epoch.unwrap_or(0) as f64 / now.steps_per_epoch.unwrap_or(0) as f64;
    let part = match now.validation {
        Some(_) => 1.0,
        None if part.is_finite() => part,
        None => 0.0,
    };
    let share = (epoch - 1.0 + part) / epochs;
    share.is_finite().then(|| share.clamp(0.0, 1.0))
}

/// `█████·····`
pub fn bar(share: f64, cells: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * cells as f64).round() as usize;
    "█".repeat(full) + &"·".repeat(cells - full.min(cells))
}

fn figures(now: &Now) -> Line<'static> {
    let gigabytes = now.peak_gpu_bytes.map(|bytes| bytes as f64 / 1e9);
    let parts = [
        now.step.map(|step| format!("step {}", thousands(step))),
        now.images_per_second
            .map(|speed| format!("{} images/s", rate(speed))),
        now.loss.map(|loss| format!("loss {loss:.4}")),
        now.learning_rate
            .map(|rate| format!("lr {}", significant(rate))),
        gigabytes.map(|gigabytes| format!("GPU {gigabytes:.1} GB")),
        (now.workers > 0).then(|| {
            let (workers, cores) = (many(now.workers, "worker"), many(now.cores, "core"));
            format!("{workers} on {cores}")
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    Line::from(parts.join("  "))
}

/// What the log alone says.
fn state_by_log(view: &View) -> Vec<Line<'static>> {
    let log = view.log;
    let last = log.steps.last();
    let (epoch, step) = match (log.last_epoch(), last) {
        (Some(newest), Some(last)) if last.step > newest.step => (last.epoch, last.step),
        (Some(newest), _) => (newest.epoch, newest.step),
        (None, Some(last)) => (last.epoch, last.step),
        (None, None) => return vec![Line::from("nothing is logged yet")],
    };
    let state = match (&log.end, view.age) {
        (Some(_), _) => "finished".to_owned(),
        (None, Some(age)) => format!(
            "running or killed: {METRICS} was last written {} ago",
            seconds(age)
        ),
        (None, None) => "running or killed".to_owned(),
    };
    let mut text = format!("epoch {epoch}  step {}", thousands(step));
    let terms = last.map(|last| &last.terms);
    if let Some(loss) = terms.and_then(|terms| terms.loss) {
        text.push_str(&format!("  loss {loss:.4}"));
    }
    if let Some(speed) = terms.and_then(|terms| terms.images_per_second) {
        text.push_str(&format!("  {} images/s", rate(speed)));
    }
    vec![Line::from(state), Line::from(text)]
}

/// What there is to say below the table, at most so wide: the verdict, why the run failed, what cannot be read.
pub fn words(view: &View, width: usize) -> Vec<Line<'static>> {
    let mut words: Vec<(String, Color)> = Vec::new();
    match view.now {
        Some(now) => {
            let error = now.error.iter().map(|it| (lines(it).into_owned(), Color::Red));
            words.extend(error);
            let verdict = now.verdict.iter().map(|it| lines(it).into_owned());
            words.extend(verdict.map(|it| (it, Color::Reset)));
        }
        None if view.problems.is_empty() => words.push((
            format!(
                "Nodes are not shown: there is no {NOW} in the run directory. An older version of rsflow runs it, or \
                 it has not started yet."
            ),
            Color::Reset,
        )),
        None => {}
    }
    let problems = view.problems.iter().cloned().chain(of_log(view));
    words.extend(problems.map(|problem| (problem, Color::Yellow)));
    let wrapped = words.iter().flat_map(|(text, color)| {
        let lines = textwrap::wrap(text, width.max(1));
        lines
            .into_iter()
            .map(|line| Line::from(line.into_owned().fg(*color)))
    });
    wrapped.collect()
}

fn of_log(view: &View) -> Vec<String> {
    let log = view.log;
    let has_ended = view.now.is_some_and(|now| now.state.has_ended());
    let mut words = log.notes();
    // While it runs, that is a moment.
    if log.is_cut && (has_ended || view.age.is_some_and(|age| age > SILENT)) {
        words.push(format!(
            "The last line of {METRICS} lacks its end: the run was killed while it wrote it."
        ));
    }
    words
}
