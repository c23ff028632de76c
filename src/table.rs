//! The table of resolutions.

use comfy_table::{CellAlignment, LineStyle, Table as Grid, TableStyle};
use rsflow_model::metrics::Table;

/// One row for each resolution, and the ensemble's.
pub fn render(table: &Table) -> String {
    let mut grid = Grid::new();
    let line = LineStyle::none().fill('─').junction('─');
    grid.load_style(TableStyle::new().header_separator(line));
    grid.set_header([
        "resolution",
        "top-1 %",
        "top-5 %",
        "loss",
        "MAdds",
        "params",
    ]);
    for row in &table.rows {
        grid.add_row([
            row.resolution
                .map_or("ensemble".to_owned(), |resolution| resolution.to_string()),
            format!("{:.2}", row.top1),
            format!("{:.2}", row.top5),
            format!("{:.4}", row.loss),
            millions(row.multiply_adds),
            millions(row.parameters),
        ]);
    }
    for column in grid.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = grid
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    format!(
        "{}\nafter {} epochs ({} steps), {} validation images",
        lines.join("\n"),
        table.epoch + 1,
        table.step,
        table.images
    )
}

/// In millions, with as many digits as the published tables.
fn millions(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions < 10.0 {
        format!("{millions:.2} M")
    } else {
        format!("{millions:.1} M")
    }
}
