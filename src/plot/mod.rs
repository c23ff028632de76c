//! Charts as SVG: lines with marks on a pair of axes, by functions on plain data.
//!
//! The same text is a part of a page (`rsflow report`) and a file of its own (`--plot`). Colours are
//! attributes, which every program that shows SVG understands; a page overrides them by the classes, which is
//! how they follow a dark background. Lines differ by colour, by dashes and by the shape of their marks, and the
//! colours are those of Okabe and Ito, darkened until they have contrast on white: so they differ
//! for the colour-blind and in a black-and-white print, too.

mod axis;

use std::fmt::Write as _;

use maud::{Markup, html};

use axis::Scale;

/// Width and height of a chart, in its own units; pixels where it is not scaled.
pub const SIZE: (f64, f64) = (480.0, 320.0);
const FONT: f64 = 13.0;
/// Mean width of a character, in units of the font's size. An estimate, since no font is measured.
const CHARACTER: f64 = 0.56;
const MARGIN: f64 = 10.0;
const LEGEND_ROW: f64 = 20.0;
const SAMPLE: f64 = 30.0;
/// With more points than this, a line is marked at its last one only.
const MOST_MARKS: usize = 30;

const INK: &str = "#22262a";
const FAINT: &str = "#68707a";
const GRID: &str = "#d9dde2";

/// Number of colours, dashes and marks; see [`Look`].
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#00805e", "#a8498a", "#9a6b00", "#5b4fbf",
];
const DASHES: [&str; 6] = ["", "8 4", "2 3", "9 3 2 3", "14 4", "5 2 1 2 1 2"];

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// One of 36 combinations of colour, dashes and marks.
    Number(usize),
    /// In the colour of text, solid and thicker.
    Ink,
}

impl Look {
    fn colour(self) -> &'static str {
        match self {
            Look::Number(number) => COLOURS[number % 6],
            Look::Ink => INK,
        }
    }

    /// The class of its stroke; pages give it another colour on a dark background.
    fn class(self) -> String {
        match self {
            Look::Number(number) => format!("c{}", number % 6),
            Look::Ink => "ink".to_owned(),
        }
    }

    fn shape(self) -> usize {
        match self {
            Look::Number(number) => (number + number / 6) % 6,
            Look::Ink => 6,
        }
    }

    fn dashes(self) -> &'static str {
        match self {
            Look::Number(_) => DASHES[self.shape()],
            Look::Ink => "",
        }
    }

    fn width(self) -> &'static str {
        match self {
            Look::Number(_) => "2",
            Look::Ink => "2.6",
        }
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub look: Look,
    /// In the order in which they are joined. One whose values are not finite leaves a gap.
    pub points: Vec<Point>,
}

#[derive(Clone, Debug, Default)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// What is written beside it; may be empty.
    pub label: String,
}

impl Point {
    pub fn new(x: f64, y: f64) -> Self {
        Point {
            x,
            y,
            label: String::new(),
        }
    }
}

/// An axis: what it shows, with its unit.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    /// Only integers have a meaning, as with epochs.
    pub whole: bool,
}

impl Axis {
    pub fn new(label: impl Into<String>) -> Self {
        Axis {
            label: label.into(),
            whole: false,
        }
    }

    pub fn whole(label: impl Into<String>) -> Self {
        Axis {
            label: label.into(),
            whole: true,
        }
    }
}

/// Lines on a pair of axes. Without a line that has a point, the axes are empty.
#[derive(Clone, Debug)]
pub struct Chart {
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

/// Charts beside each other, as the text of an SVG file on white.
pub fn file(charts: &[Chart]) -> String {
    let width = SIZE.0 * charts.len() as f64;
    let markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(SIZE.1)
            viewBox={ "0 0 " (width) " " (SIZE.1) } font-family="system-ui, 'Helvetica Neue', Arial, sans-serif" {
            rect width="100%" height="100%" fill="#ffffff" {}
            @for (at, chart) in charts.iter().enumerate() {
                g transform={ "translate(" (SIZE.0 * at as f64) " 0)" } { (content(chart)) }
            }
        }
    };
    markup.into_string()
}

/// A chart as a part of a page; `name` says what it shows to those who do not see it.
pub fn inline(chart: &Chart, name: &str) -> Markup {
    html! {
        svg.chart role="img" aria-label=(name) viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } {
            (content(chart))
        }
    }
}

/// Where the parts of a chart are, in its own units.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
}

impl Frame {
    fn new(chart: &Chart, legend_rows: usize) -> Self {
        let points = || chart.lines.iter().flat_map(|line| &line.points);
        let x = Scale::around(points().map(|point| point.x), 6, chart.x.whole);
        let y = Scale::around(points().map(|point| point.y), 5, chart.y.whole);
        let widest = y.ticks.iter().map(|(_, text)| width(text));
        let widest = widest.fold(0.0, f64::max);
        Frame {
            left: MARGIN + FONT + 8.0 + widest + 6.0,
            right: SIZE.0 - MARGIN - 8.0,
            top: MARGIN + LEGEND_ROW * legend_rows as f64,
            bottom: SIZE.1 - MARGIN - 2.0 * FONT - 12.0,
            x,
            y,
        }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.place(value) * (self.bottom - self.top)
    }

    fn place(&self, point: &Point) -> Option<(f64, f64)> {
        let (x, y) = (self.x(point.x), self.y(point.y));
        (x.is_finite() && y.is_finite()).then_some((x, y))
    }
}

/// An estimate of a text's width.
fn width(text: &str) -> f64 {
    text.chars().count() as f64 * FONT * CHARACTER
}

fn content(chart: &Chart) -> Markup {
    let legend = legend(chart);
    let rows = legend.last().map_or(0, |entry| entry.row + 1);
    let frame = Frame::new(chart, rows);
    html! {
        (axes(chart, &frame))
        @for line in &chart.lines { (drawn(line, &frame)) }
        @for line in &chart.lines { (labels(line, &frame)) }
        @for entry in &legend {
            @let (x, y) = (entry.x, MARGIN + LEGEND_ROW * (entry.row as f64 + 0.5) - 2.0);
            (stroke(entry.line.look, &format!("M{x:.1} {y:.1}h{SAMPLE}")))
            (mark(entry.line.look, x + SAMPLE / 2.0, y, None))
            text.ink-text x=(short(x + SAMPLE + 6.0)) y=(short(y + 4.5)) font-size=(FONT) fill=(INK) {
                (entry.name)
            }
        }
    }
}

/// A line's sample and name above the plot.
struct Entry<'a> {
    line: &'a Line,
    name: String,
    x: f64,
    row: usize,
}

/// In rows from left to right; of a single line the axis says what it is.
fn legend(chart: &Chart) -> Vec<Entry<'_>> {
    if chart.lines.len() < 2 {
        return Vec::new();
    }
    let (left, right) = (MARGIN + 40.0, SIZE.0 - MARGIN);
    // A single name fills a row at most.
    let most = ((right - left - SAMPLE - 6.0) / (FONT * CHARACTER)) as usize;
    let (mut x, mut row) = (left, 0);
    let entry = |line| {
        let line: &Line = line;
        let name = shortened(&line.name, most);
        let needs = SAMPLE + 6.0 + width(&name);
        if x > left && x + needs > right {
            (x, row) = (left, row + 1);
        }
        let at = x;
        x += needs + 18.0;
        Entry {
            line,
            name,
            x: at,
            row,
        }
    };
    chart.lines.iter().map(entry).collect()
}

/// Without its beginning, where it is longer than `most` characters: the ends of names of runs differ.
fn shortened(name: &str, most: usize) -> String {
    let count = name.chars().count();
    match count > most {
        true => {
            let end: String = name.chars().skip(count - most + 1).collect();
            format!("…{end}")
        }
        false => name.to_owned(),
    }
}

fn axes(chart: &Chart, frame: &Frame) -> Markup {
    let Frame {
        left,
        right,
        top,
        bottom,
        ..
    } = *frame;
    let middle = (top + bottom) / 2.0;
    let label_x = MARGIN + FONT * 0.8;
    html! {
        g.grid stroke=(GRID) stroke-width="1" {
            @for (value, _) in &frame.y.ticks {
                path d={ "M" (short(left)) " " (short(frame.y(*value))) "H" (short(right)) } {}
            }
        }
        path.frame d={ "M" (short(left)) " " (short(bottom)) "H" (short(right)) } stroke=(FAINT) fill="none" {}
        g.axis font-size=(FONT) fill=(FAINT) {
            @for (value, text) in &frame.y.ticks {
                text x=(short(left - 6.0)) y=(short(frame.y(*value) + 4.5)) text-anchor="end" { (text) }
            }
            @for (value, text) in &frame.x.ticks {
                @let x = frame.x(*value);
                path.frame d={ "M" (short(x)) " " (short(bottom)) "v4" } stroke=(FAINT) {}
                text x=(short(x)) y=(short(bottom + FONT + 6.0)) text-anchor="middle" { (text) }
            }
            text x=(short((left + right) / 2.0)) y=(short(SIZE.1 - MARGIN)) text-anchor="middle" { (chart.x.label) }
            text transform={ "translate(" (short(label_x)) " " (short(middle)) ") rotate(-90)" }
                text-anchor="middle" { (chart.y.label) }
        }
    }
}

/// The line and its marks.
fn drawn(line: &Line, frame: &Frame) -> Markup {
    let places: Vec<_> = line.points.iter().map(|point| frame.place(point)).collect();
    let mut path = String::new();
    let mut is_joined = false;
    for place in &places {
        if let Some((x, y)) = place {
            let command = if is_joined { 'L' } else { 'M' };
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        is_joined = place.is_some();
    }
    let last = places.iter().rposition(Option::is_some);
    let is_marked = |at: usize| places.len() <= MOST_MARKS || Some(at) == last;
    html! {
        (stroke(line.look, &path))
        @for (at, place) in places.iter().enumerate().filter(|(at, _)| is_marked(*at)) {
            @if let Some((x, y)) = place {
                (mark(line.look, *x, *y, Some(&title(line, &line.points[at]))))
            }
        }
    }
}

/// What a pointer over a mark shows.
fn title(line: &Line, point: &Point) -> String {
    let x = match point.label.as_str() {
        "" => trimmed(point.x),
        label => label.to_owned(),
    };
    format!("{} · {x}: {}", line.name, trimmed(point.y))
}

/// With four digits after the point at most.
fn trimmed(value: f64) -> String {
    match value != 0.0 && value.abs() < 1e-3 {
        true => format!("{value:.2e}"),
        false => {
            let text = format!("{value:.4}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            text.to_owned()
        }
    }
}

/// What is written beside the points, on the side where there is room.
fn labels(line: &Line, frame: &Frame) -> Markup {
    html! {
        g class={ "label " (line.look.class()) } font-size=(FONT - 1.0) fill=(line.look.colour()) {
            @for point in line.points.iter().filter(|point| !point.label.is_empty()) {
                @if let Some((x, y)) = frame.place(point) {
                    @let fits = x + 8.0 + width(&point.label) < SIZE.0 - 2.0;
                    text x=(short(if fits { x + 8.0 } else { x - 8.0 })) y=(short((y + 15.0).min(frame.bottom - 3.0)))
                        text-anchor=(if fits { "start" } else { "end" }) { (point.label) }
                }
            }
        }
    }
}

fn stroke(look: Look, path: &str) -> Markup {
    html! {
        path class=(look.class()) d=(path) fill="none" stroke=(look.colour()) stroke-width=(look.width())
            stroke-dasharray=[Some(look.dashes()).filter(|dashes| !dashes.is_empty())]
            stroke-linejoin="round" {}
    }
}

fn mark(look: Look, x: f64, y: f64, title: Option<&str>) -> Markup {
    let outline = match look.shape() {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        1 => "m-3.6-3.6h7.2v7.2h-7.2z",
        2 => "m0-4.8l4.6 8h-9.2z",
        3 => "m0-5l5 5l-5 5l-5-5z",
        4 => "m0 4.8l4.6-8h-9.2z",
        5 => "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
        _ => {
            "m-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0m2.4 0a2.2 2.2 0 1 1 4.4 0a2.2 2.2 0 1 1-4.4 0z"
        }
    };
    html! {
        path class={ "mark " (look.class()) } d={ "M" (short(x)) " " (short(y)) (outline) } fill=(look.colour())
            fill-rule="evenodd" {
            @if let Some(title) = title { title { (title) } }
        }
    }
}

/// A coordinate with as many digits as can be seen.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> Chart {
        Chart {
            x: Axis::whole("epoch"),
            y: Axis::new("top-1 %"),
            lines,
        }
    }

    fn line(name: &str, look: Look, points: &[(f64, f64)]) -> Line {
        Line {
            name: name.to_owned(),
            look,
            points: points.iter().map(|(x, y)| Point::new(*x, *y)).collect(),
        }
    }

    #[test]
    fn lines_differ_by_more_than_colour() {
        let looks: Vec<Look> = (0..36).map(Look::Number).chain([Look::Ink]).collect();
        for (at, look) in looks.iter().enumerate() {
            for other in &looks[..at] {
                let [one, two] = [look, other].map(|of| (of.colour(), of.shape()));
                assert_ne!(one, two, "{look:?} {other:?}");
                // Of those that are used together most, each has its own marks.
                assert!(at >= 6 || one.1 != two.1, "{look:?} {other:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_leaves_a_gap() {
        let points = [(1.0, 1.0), (2.0, f64::NAN), (3.0, 3.0), (4.0, 2.0)];
        let text = file(&[chart(vec![line("a", Look::Ink, &points)])]);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        let path = text.split("<path class=\"ink\" d=\"").nth(1).unwrap();
        let path = path.split('"').next().unwrap();
        assert_eq!(
            (path.matches('M').count(), path.matches('L').count()),
            (2, 1)
        );
        assert!(file(&[chart(Vec::new())]).contains("epoch"));
    }

    #[test]
    fn names_are_escaped_and_kept_inside() {
        let long = format!("<script>{}</script>", "x".repeat(200));
        let lines = vec![
            line(&long, Look::Number(0), &[(0.0, 0.0)]),
            line("b", Look::Number(1), &[(1.0, 1.0)]),
        ];
        let text = file(&[chart(lines)]);
        assert!(!text.contains("<script"), "{text}");
        assert!(text.contains("…xx"), "{text}");
    }
}
