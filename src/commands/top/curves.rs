//! Loss over the steps, and top-1 over the epochs.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Sparkline, Widget};

use crate::run_log::{Epoch, RunLog, called};

/// Rows of the curve of the loss.
const CURVE: u16 = 4;
/// Levels of a row: an eighth of a cell is the finest.
const LEVELS: f64 = 8.0;
/// Columns of what is written before a size's curve.
const LABEL: u16 = 30;

/// Rows that they take; none where there is nothing to draw.
pub fn height(log: &RunLog) -> u16 {
    if log.steps.is_empty() && log.validations().next().is_none() {
        return 0;
    }
    let sizes = u16::try_from(rows(log).len()).unwrap_or(u16::MAX);
    sizes.max(CURVE).saturating_add(2)
}

/// Both beside each other.
pub fn draw(log: &RunLog, area: Rect, buffer: &mut Buffer) {
    if area.height < 3 {
        return;
    }
    let area = Rect {
        height: area.height - 1,
        ..area
    };
    let halves = [
        Constraint::Fill(1),
        Constraint::Length(2),
        Constraint::Fill(1),
    ];
    let [left, _, right] = Layout::horizontal(halves).areas(area);
    loss(log, left, buffer);
    accuracies(log, right, buffer);
}

fn loss(log: &RunLog, area: Rect, buffer: &mut Buffer) {
    let losses: Vec<f64> = log
        .steps
        .iter()
        .filter_map(|step| step.terms.loss)
        .collect();
    let means = means(&losses, area.width.into());
    let (low, high) = range(&means);
    let title = match (losses.first(), losses.last()) {
        (Some(first), Some(last)) => {
            format!("loss {first:.3} to {last:.3}  (axis {low:.3} to {high:.3})")
        }
        _ => "no loss is logged yet".to_owned(),
    };
    let [above, below] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    Line::from(title).bold().render(above, buffer);
    curve(&means, below, Color::Magenta, buffer);
}

/// A row for each size: the newest, the best, and all of them.
fn accuracies(log: &RunLog, area: Rect, buffer: &mut Buffer) {
    let rows = rows(log);
    let title = match rows.is_empty() {
        true => "no validation yet",
        false => "top-1 %      last     best",
    };
    Line::from(title)
        .bold()
        .render(Rect { height: 1, ..area }, buffer);
    let below = Rect {
        y: area.y.saturating_add(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    for (row, (name, values)) in below.rows().zip(&rows) {
        let [label, line] =
            Layout::horizontal([Constraint::Length(LABEL), Constraint::Fill(1)]).areas(row);
        let last = values.last().copied().unwrap_or(f64::NAN);
        let best = values.iter().copied().fold(f64::NAN, f64::max);
        Line::from(format!("{name:>9}  {last:>6.2}   {best:>6.2}")).render(label, buffer);
        curve(&means(values, line.width.into()), line, Color::Cyan, buffer);
    }
}

/// Top-1 of each size over the epochs, in the order of the newest validation.
fn rows(log: &RunLog) -> Vec<(String, Vec<f64>)> {
    let Some(newest) = log.validations().last() else {
        return Vec::new();
    };
    let of = |size: Option<u32>| {
        let top1 = move |epoch: &Epoch| {
            let row = epoch.rows.iter().find(|row| row.resolution == size);
            row.and_then(|row| row.top1)
        };
        log.validations().filter_map(top1).collect()
    };
    let sizes = newest.rows.iter().map(|row| row.resolution);
    sizes.map(|size| (called(size), of(size))).collect()
}

/// The means of equal parts of the values, at most `count`.
fn means(values: &[f64], count: usize) -> Vec<f64> {
    let parts = values.len().min(count);
    let part = |at: usize| &values[at * values.len() / parts..(at + 1) * values.len() / parts];
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (0..parts).map(|at| mean(part(at))).collect()
}

fn range(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(*value), high.max(*value))
        })
}

/// From the smallest value, which is an eighth of a cell, to the largest.
fn curve(values: &[f64], area: Rect, color: Color, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let (low, high) = range(values);
    let top = f64::from(area.height) * LEVELS;
    let level = |value: &f64| match high > low {
        true => (1.0 + (value - low) / (high - low) * (top - 1.0)).round() as u64,
        false => 1,
    };
    let levels: Vec<u64> = values.iter().map(level).collect();
    let curve = Sparkline::default().data(&levels).max(top as u64);
    curve.fg(color).render(area, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_all_values() {
        let table: [(&[f64], usize, &[f64]); 6] = [
            (&[], 3, &[]),
            (&[1.0, 2.0], 0, &[]),
            (&[1.0, 2.0], 3, &[1.0, 2.0]),
            (&[1.0, 3.0, 5.0, 7.0], 2, &[2.0, 6.0]),
            (&[1.0, 2.0, 6.0], 2, &[1.0, 4.0]),
            (&[1.0, 2.0, 6.0], 1, &[3.0]),
        ];
        for (values, count, expected) in table {
            assert_eq!(means(values, count), expected, "{values:?} in {count}");
        }
    }
}
