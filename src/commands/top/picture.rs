//! What is drawn where. A terminal may have any size: what does not fit is left out, the least important first.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Stylize as _;
use ratatui::text::{Line, Text};
use ratatui::widgets::Widget;

use super::{curves, lines, nodes};
use crate::now::Now;
use crate::run_log::RunLog;

/// What is known of a run.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub name: &'a str,
    /// `None`: the run writes none, or did not yet.
    pub now: Option<&'a Now>,
    /// Whether it says that it is running, but was killed on this machine.
    pub was_killed: bool,
    /// How old the files are.
    pub age: Option<Duration>,
    pub log: &'a RunLog,
    /// Sentences about what cannot be read.
    pub problems: &'a [String],
    /// When this is drawn.
    pub time: Timestamp,
}

/// Rows of the parts of a picture, from top to bottom. A part without rows is not drawn.
struct Rows {
    head: u16,
    curves: u16,
    nodes: u16,
    words: u16,
    keys: u16,
}

/// Fewer rows of nodes are not enough to see what is going on.
const LEAST_NODES: u16 = 5;

/// Rows of a picture with everything in it but the keys.
pub fn height(view: &View, width: u16) -> u16 {
    let wanted = wanted(view, width);
    let all = [wanted.head, wanted.curves, wanted.nodes, wanted.words];
    all.into_iter().fold(0, u16::saturating_add)
}

fn wanted(view: &View, width: u16) -> Rows {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    Rows {
        head: rows(lines::head(view).len()),
        curves: curves::height(view.log),
        nodes: match view.now {
            Some(now) => rows(now.nodes.len()).saturating_add(2),
            None => 0,
        },
        words: rows(lines::words(view, width.into()).len()),
        keys: 1,
    }
}

fn rows(view: &View, area: Rect, has_keys: bool) -> Rows {
    let wanted = wanted(view, area.width);
    let mut left = area.height;
    let mut take = |wanted: u16, keeps: u16| {
        let taken = wanted.min(left.saturating_sub(keeps));
        left -= taken;
        taken
    };
    let head = take(wanted.head, 0);
    let keys = match has_keys {
        true => take(wanted.keys, 6),
        false => 0,
    };
    // Half a sentence is worth little, but a problem is to be seen before the nodes are.
    let keeps = wanted.nodes.min(match view.now {
        Some(_) if view.problems.is_empty() => LEAST_NODES,
        _ => 0,
    });
    let words = take(wanted.words, keeps);
    // All or nothing, and not in place of the nodes.
    let keeps = wanted.nodes.min(LEAST_NODES + 2);
    let fits = wanted.curves.saturating_add(keeps) <= area.height - head - keys - words;
    let curves = take(if fits { wanted.curves } else { 0 }, 0);
    Rows {
        head,
        curves,
        nodes: take(wanted.nodes, 0),
        words,
        keys,
    }
}

/// Draws it all; `has_keys`: also which keys there are.
pub fn draw(view: &View, area: Rect, has_keys: bool, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    let rows = rows(view, area, has_keys);
    let mut top = area.y;
    let mut part = |height: u16| {
        let part = Rect {
            y: top,
            height,
            ..area
        };
        top += height;
        part
    };
    Text::from(lines::head(view)).render(part(rows.head), buffer);
    curves::draw(view.log, part(rows.curves), buffer);
    if let Some(now) = view.now {
        nodes::draw(now, part(rows.nodes), buffer);
    }
    Text::from(lines::words(view, area.width.into())).render(part(rows.words), buffer);
    let bottom = Rect {
        y: area.bottom().saturating_sub(rows.keys),
        height: rows.keys,
        ..area
    };
    Line::from("q leaves").dim().render(bottom, buffer);
}
