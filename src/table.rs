//! Tables, and numbers and times as text.

use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table as Grid, TableStyle};
use rsflow_base::shown::Shown as _;
use rsflow_model::train::metrics::{Row, Table};

/// One row for each resolution and one for the ensemble, and then the same of the average of the weights, if
/// there is one. A column names the batch norms where a
/// resolution uses those of another.
pub fn render(table: &Table) -> String {
    let borrows = |row: &Row| row.batch_norm.is_some() && row.batch_norm != row.resolution;
    let any_borrows = table.rows.iter().any(borrows);
    let has_average = !table.average.is_empty();
    let mut header = vec!["resolution"];
    header.extend(has_average.then_some("weights"));
    header.extend(any_borrows.then_some("batch norm"));
    header.extend(["top-1 %", "top-5 %", "loss", "MAdds", "params"]);
    let size = |size: Option<u32>, none: &str| size.map_or(none.to_owned(), |s| s.to_string());
    let trained = table.rows.iter().map(|row| (row, "trained"));
    let averages = table.average.iter().map(|row| (row, "average"));
    let rows = trained.chain(averages).map(|(row, weights)| {
        let mut cells = vec![size(row.resolution, "ensemble")];
        cells.extend(has_average.then(|| weights.to_owned()));
        cells.extend(any_borrows.then(|| size(row.batch_norm, "")));
        cells.extend([
            format!("{:.2}", row.top1),
            format!("{:.2}", row.top5),
            format!("{:.4}", row.loss),
            millions(row.multiply_adds),
            millions(row.parameters),
        ]);
        cells
    });
    grid(&header, rows)
}

/// Right-aligned columns, with a line below the header.
pub fn grid(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut grid = Grid::new();
    let line = LineStyle::none().fill('─').junction('─');
    grid.load_style(TableStyle::new().header_separator(line));
    let shown = |row: Vec<String>| row.iter().map(|cell| cell.shown().into_owned()).collect();
    grid.set_header(header)
        .add_rows(rows.map::<Vec<String>, _>(shown));
    for column in grid.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = grid
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// In millions, with as many digits as the papers' tables: `3.64 M`, `25.8 M`.
pub fn millions(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions < 10.0 {
        format!("{millions:.2} M")
    } else {
        format!("{millions:.1} M")
    }
}

/// `11,727,912`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `120 us`, `3.4 ms`, `1.2 s`; empty for `None`.
pub fn time(time: Option<Duration>) -> String {
    let Some(time) = time else {
        return String::new();
    };
    let (value, unit) = match time.as_secs_f64() {
        seconds if seconds >= 1.0 => (seconds, "s"),
        seconds if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        seconds => (seconds * 1e6, "us"),
    };
    match value < 10.0 {
        true => format!("{value:.1} {unit}"),
        false => format!("{value:.0} {unit}"),
    }
}
