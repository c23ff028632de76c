//! Tables, and numbers and times as text.

use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table as Grid, TableStyle};
use rsflow_base::shown::Shown as _;
use rsflow_model::train::metrics::{Row, Table};

/// The top-5 accuracy of a row; `None` with so few classes that all are among the first five.
pub fn top5(row: &Row, classes: u32) -> Option<String> {
    (classes > 5).then(|| format!("{:.2}", row.top5))
}

/// One row for each resolution and one for the ensemble, and then the same of the average of the weights, if
/// there is one. A column names the batch norms where a
/// resolution uses those of another.
pub fn render(table: &Table) -> String {
    let borrows = |row: &Row| row.batch_norm != row.resolution || row.between.is_some();
    let any_borrows = table.rows.iter().any(borrows);
    let has_average = !table.average.is_empty();
    let mut header = vec!["resolution"];
    header.extend(has_average.then_some("weights"));
    header.extend(any_borrows.then_some("batch norm"));
    header.push("top-1 %");
    header.extend((table.classes > 5).then_some("top-5 %"));
    header.extend(["loss", "MAdds", "params"]);
    let size = |size: Option<u32>, none: &str| size.map_or(none.to_owned(), |s| s.to_string());
    let trained = table.rows.iter().map(|row| (row, "trained"));
    let averages = table.average.iter().map(|row| (row, "average"));
    let rows = trained.chain(averages).map(|(row, weights)| {
        let mut cells = vec![size(row.resolution, "ensemble")];
        cells.extend(has_average.then(|| weights.to_owned()));
        cells.extend(any_borrows.then(|| match row.between {
            Some((below, above)) => format!("{below}..{above}"),
            None => size(row.batch_norm, ""),
        }));
        cells.push(format!("{:.2}", row.top1));
        cells.extend(top5(row, table.classes));
        cells.extend([
            format!("{:.4}", row.loss),
            millions(row.multiply_adds),
            millions(row.parameters),
        ]);
        cells
    });
    grid(&header, rows)
}

/// Top-1 accuracies: a row for each resolution, a column for the batch norms of each, and one for interpolated ones if
/// there are some. The best of each row has a star.
pub fn matrix(table: &Table) -> String {
    let mut sizes: Vec<Option<u32>> = Vec::new();
    let mut norms: Vec<Option<u32>> = Vec::new();
    for row in &table.rows {
        for (list, value) in [(&mut sizes, row.resolution), (&mut norms, row.batch_norm)] {
            if !list.contains(&value) {
                list.push(value);
            }
        }
    }
    // Interpolated ones are of no resolution.
    norms.sort_by_key(Option::is_none);
    let name = |norm: &Option<u32>| norm.map_or("interpolated".to_owned(), |norm| norm.to_string());
    let header = norms.iter().map(name);
    let header: Vec<String> = ["top-1 % at".to_owned()]
        .into_iter()
        .chain(header)
        .collect();
    let rows = sizes.iter().map(|size| {
        let of_size = table.rows.iter().filter(|row| row.resolution == *size);
        let best = of_size.clone().map(|row| row.top1).fold(f64::MIN, f64::max);
        let cells = norms.iter().map(|norm| {
            let mut rows = of_size.clone();
            match rows.find(|row| row.batch_norm == *norm) {
                Some(row) if row.top1 == best => format!("*{:.2}", row.top1),
                Some(row) => format!("{:.2}", row.top1),
                None => String::new(),
            }
        });
        let size = size.map_or_else(String::new, |size| size.to_string());
        [size].into_iter().chain(cells).collect()
    });
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_5_is_shown_where_it_says_something() {
        let table = |classes| Table {
            epoch: 0,
            step: 1,
            rows: vec![Row {
                resolution: Some(64),
                batch_norm: Some(64),
                between: None,
                top1: 50.0,
                top5: 75.25,
                loss: 1.5,
                multiply_adds: 10,
                parameters: 20,
            }],
            average: vec![],
            classes,
            images: 4,
            left_out: 0,
            seconds: 2.0,
            training: None,
        };
        for (classes, shown) in [(2, false), (5, false), (6, true)] {
            let text = render(&table(classes));
            let found = ["top-5 %", "75.25"].map(|words| text.contains(words));
            assert_eq!(found, [shown; 2], "{classes}: {text}");
        }
    }
}
