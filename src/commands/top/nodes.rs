//! The table of nodes.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Row, Table, Widget};
use rsflow_base::shown::Shown as _;

use super::lines::bar;
use crate::figures::{percent, rate};
use crate::now::{Node, Now};
use crate::table::thousands;

/// Characters of a bar.
const BAR: usize = 10;
/// Work for more than this share of the time is marked.
const MUCH: f64 = 0.8;
/// The longest name that is seen whole.
const NAME: u16 = 24;

/// A column: its title, columns of the terminal, from which width of the terminal on it is there, and its cell.
struct Column {
    title: &'static str,
    width: u16,
    from: u16,
    cell: fn(&Node) -> Cell<'static>,
}

/// Those behind the name.
const COLUMNS: [Column; 7] = [
    Column {
        title: "kind",
        width: 22,
        from: 105,
        cell: |node| Cell::from(node.kind.shown().into_owned()),
    },
    Column {
        title: "items",
        width: 11,
        from: 84,
        cell: |node| right(thousands(node.items)),
    },
    Column {
        title: "items/s",
        width: 8,
        from: 36,
        cell: |node| right(rate(node.items_per_second)),
    },
    Column {
        title: "busy",
        width: 17,
        from: 0,
        cell: busy,
    },
    Column {
        title: "wait in",
        width: 8,
        from: 60,
        cell: |node| right(percent(node.wait_input_share)),
    },
    Column {
        title: "wait out",
        width: 8,
        from: 60,
        cell: |node| right(percent(node.wait_output_share)),
    },
    Column {
        title: "queue",
        width: 9,
        from: 74,
        cell: |node| right(queue(node)),
    },
];

/// A row for each node, as far as they fit; then how many there are more.
pub fn draw(now: &Now, area: Rect, buffer: &mut Buffer) {
    if area.height < 2 || now.nodes.is_empty() {
        return;
    }
    let columns: Vec<&Column> = COLUMNS.iter().filter(|it| it.from <= area.width).collect();
    let fits = usize::from(area.height) - 1;
    // An empty row at the end is no loss.
    let shown = match now.nodes.len() <= fits {
        true => now.nodes.len(),
        false => fits - 1,
    };
    let rows = now.nodes[..shown].iter().map(|node| {
        let name = Cell::from(node.name.shown().into_owned());
        let cells = columns.iter().map(|column| (column.cell)(node));
        Row::new([name].into_iter().chain(cells))
    });
    let longest = now
        .nodes
        .iter()
        .map(|node| node.name.shown().chars().count());
    let longest = u16::try_from(longest.max().unwrap_or(0)).unwrap_or(u16::MAX);
    let name = Constraint::Length(longest.clamp(4, NAME));
    let widths = columns
        .iter()
        .map(|column| Constraint::Length(column.width));
    let titles = columns.iter().map(|column| match column.title {
        "kind" | "busy" => Cell::from(column.title),
        title => right(title.to_owned()),
    });
    let header = Row::new([Cell::from("node")].into_iter().chain(titles));
    let table = Table::new(rows, [name].into_iter().chain(widths))
        .header(header.style(Style::new().bold()))
        .column_spacing(1);
    Widget::render(table, area, buffer);
    if shown < now.nodes.len() {
        let more = now.nodes.len() - shown;
        let line = Line::from(format!("... and {more} more; a higher terminal shows them"));
        let bottom = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        line.dim().render(bottom, buffer);
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Text::from(text).right_aligned())
}

fn busy(node: &Node) -> Cell<'static> {
    let color = match node.busy_share > MUCH {
        true => Color::Red,
        false => Color::Cyan,
    };
    let bar = Span::from(bar(node.busy_share, BAR)).fg(color);
    let percent = Span::from(format!(" {:>6}", percent(node.busy_share)));
    Cell::from(Line::from(vec![bar, percent]))
}

/// `2.5 of 8`.
fn queue(node: &Node) -> String {
    match &node.queue {
        None => String::new(),
        Some(queue) => match queue.waiting {
            Some(waiting) => format!("{waiting:.1} of {}", queue.bound),
            None => format!("- of {}", queue.bound),
        },
    }
}
