//! Drawing a plan: as text that Mermaid or graphviz lays out, or as a finished SVG picture.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use dugong::graphlib::{EdgeKey, Graph, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, NodeLabel};

use crate::plan::{Plan, Planned};

/// What a drawing is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A Mermaid flowchart, for Markdown.
    Mermaid,
    /// A graphviz graph.
    Dot,
    /// A picture that any browser shows.
    Svg,
}

/// Draws the plan: every node with its name and kind, every edge with what it carries.
///
/// # Errors
/// Fails only where the layout of a picture does.
pub fn draw(plan: &Plan, format: Format) -> Result<String> {
    match format {
        Format::Mermaid => Ok(mermaid(plan)),
        Format::Dot => Ok(dot(plan)),
        Format::Svg => svg(plan),
    }
}

/// What a node is to its neighbours; told by colour and outline.
#[derive(Clone, Copy)]
enum Role {
    /// Reads nothing.
    Source,
    /// Reads one stream.
    Step,
    /// Reads several streams.
    Join,
    /// Yields nothing.
    Sink,
}

/// How all three formats paint a role.
struct Paint {
    name: &'static str,
    fill: &'static str,
    stroke: &'static str,
}

impl Role {
    const ALL: [Role; 4] = [Role::Source, Role::Step, Role::Join, Role::Sink];

    fn of(node: &Planned) -> Role {
        match (node.inputs.len(), node.kind.outputs.len()) {
            (0, _) => Role::Source,
            (_, 0) => Role::Sink,
            (1, _) => Role::Step,
            _ => Role::Join,
        }
    }

    fn paint(self) -> Paint {
        let (name, fill, stroke) = match self {
            Role::Source => ("source", "#e7f6ec", "#3f9d63"),
            Role::Step => ("step", "#eaf1fd", "#5584c8"),
            Role::Join => ("join", "#fff3d9", "#d08a1d"),
            Role::Sink => ("sink", "#f2ecfb", "#8763bd"),
        };
        Paint { name, fill, stroke }
    }
}

/// A connection with its words.
struct Arrow {
    from: usize,
    to: usize,
    /// What flows; then the reader's port, where the reader has several.
    words: Vec<String>,
}

fn arrows(plan: &Plan) -> Vec<Arrow> {
    let nodes = plan.nodes();
    let mut arrows = Vec::new();
    for (to, reader) in nodes.iter().enumerate() {
        for edge in &reader.inputs {
            let writer = &nodes[edge.node];
            let port = &writer.kind.outputs[edge.output];
            let mut flows = port.carries.to_owned();
            let sizes = &writer.outputs[edge.output].resolutions;
            if !sizes.is_empty() {
                let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
                let _ = write!(flows, " {}", sizes.join("/"));
            }
            // A port is often named after what it carries: `trainer.metrics` yields metrics.
            if writer.kind.outputs.len() > 1 && port.name != port.carries {
                flows = format!("{}: {flows}", port.name);
            }
            let mut words = vec![flows];
            if reader.kind.inputs.len() > 1 {
                words.push(format!("→ {}", edge.port));
            }
            arrows.push(Arrow {
                from: edge.node,
                to,
                words,
            });
        }
    }
    arrows
}

/// A name as one line of characters that can be seen: RON strings may hold any character, the
/// formats below may not.
fn visible(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart TD\n");
    for (index, node) in plan.nodes().iter().enumerate() {
        let role = Role::of(node);
        let (open, close) = match role {
            Role::Source => ("([", "])"),
            Role::Step => ("[", "]"),
            Role::Join => ("[[", "]]"),
            Role::Sink => ("[(", ")]"),
        };
        let _ = writeln!(
            out,
            "    n{index}{open}\"<b>{}</b><br/>{}\"{close}:::{}",
            mermaid_text(&node.id.name),
            node.kind.name,
            role.paint().name,
        );
    }
    for arrow in arrows(plan) {
        let _ = writeln!(
            out,
            "    n{} -->|\"{}\"| n{}",
            arrow.from,
            arrow.words.join("<br/>"),
            arrow.to,
        );
    }
    for Paint { name, fill, stroke } in Role::ALL.map(Role::paint) {
        let _ = writeln!(
            out,
            "    classDef {name} fill:{fill},stroke:{stroke},color:{INK}"
        );
    }
    out
}

/// Mermaid reads HTML, Markdown and its own signs in a label; numbered entities are read as none
/// of them.
fn mermaid_text(name: &str) -> String {
    let mut out = String::new();
    for c in visible(name).chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/') {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}

fn dot(plan: &Plan) -> String {
    let mut out = format!(
        "digraph rsflow {{\n    \
         node [shape=box, style=filled, fontname=\"Helvetica,sans-serif\", fontsize=12, \
         fontcolor=\"{INK}\", margin=\"0.2,0.1\"];\n    \
         edge [fontname=\"Helvetica,sans-serif\", fontsize=10, fontcolor=\"{FADED}\", \
         color=\"{LINE}\", arrowsize=0.7];\n"
    );
    for (index, node) in plan.nodes().iter().enumerate() {
        let role = Role::of(node);
        let outline = match role {
            Role::Source => ", style=\"filled,rounded\"",
            Role::Step => "",
            Role::Join => ", penwidth=2",
            Role::Sink => ", shape=note",
        };
        let paint = role.paint();
        let _ = writeln!(
            out,
            "    n{index} [label=<<b>{}</b><br/>{}>, fillcolor=\"{}\", color=\"{}\"{outline}];",
            xml(&node.id.name),
            node.kind.name,
            paint.fill,
            paint.stroke,
        );
    }
    for arrow in arrows(plan) {
        let _ = writeln!(
            out,
            // The blanks keep the words off their line.
            "    n{} -> n{} [label=\"  {}  \"];",
            arrow.from,
            arrow.to,
            arrow.words.join("  \\n  "),
        );
    }
    out.push_str("}\n");
    out
}

fn xml(text: &str) -> String {
    visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const INK: &str = "#1f2937";
const FADED: &str = "#4b5563";
const LINE: &str = "#8a94a3";

/// Pixels, as all lengths below.
const NAME_FONT: f64 = 14.0;
const KIND_FONT: f64 = 12.0;
const WORDS_FONT: f64 = 11.0;
const WORDS_LINE: f64 = 14.0;
const NODE_HEIGHT: f64 = 48.0;
/// From a node to the words of its edge: room for the arrow's head, and for a curve to swing.
const GAP: f64 = 26.0;
const MARGIN: f64 = 24.0;

/// A rectangle by its centre.
#[derive(Clone, Copy)]
struct Place {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Place {
    fn left(&self) -> f64 {
        self.x - self.width / 2.0
    }

    fn right(&self) -> f64 {
        self.x + self.width / 2.0
    }

    fn top(&self) -> f64 {
        self.y - self.height / 2.0
    }

    fn bottom(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// Where everything stands.
struct Layout {
    nodes: Vec<Place>,
    /// For each arrow: where its words stand, and where it crosses the rows between its ends
    /// (the one with its words among them), from top to bottom.
    arrows: Vec<(Place, Vec<(f64, f64)>)>,
}

fn svg(plan: &Plan) -> Result<String> {
    let nodes = plan.nodes();
    let arrows = arrows(plan);
    let layout = lay_out(nodes, &arrows)?;
    let everything = || {
        let words = layout.arrows.iter().map(|(words, _)| words);
        layout.nodes.iter().chain(words)
    };
    let width = MARGIN + everything().map(Place::right).fold(MARGIN, f64::max);
    let height = MARGIN + everything().map(Place::bottom).fold(MARGIN, f64::max);

    let mut out = String::new();
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif" text-anchor="middle">
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 1L10 5L0 9z" fill="{LINE}"/></marker></defs>
<rect class="background" width="100%" height="100%" fill="#ffffff"/>
"##
    );
    for (arrow, path) in arrows.iter().zip(paths(&arrows, &layout)) {
        let _ = writeln!(
            out,
            r##"<path class="edge" d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#head)"><title>{} → {}</title></path>"##,
            xml(&nodes[arrow.from].id.name),
            xml(&nodes[arrow.to].id.name),
        );
    }
    // Words stand on their line, which is hidden behind them.
    for (arrow, (place, _)) in arrows.iter().zip(&layout.arrows) {
        let _ = writeln!(
            out,
            r##"<rect class="words" {} fill="#ffffff"/>"##,
            corner(place)
        );
        for (row, words) in arrow.words.iter().enumerate() {
            let base = place.top() + WORDS_LINE * (row as f64 + 0.75);
            let _ = writeln!(
                out,
                r##"<text x="{:.1}" y="{base:.1}" font-size="{WORDS_FONT}" fill="{FADED}">{}</text>"##,
                place.x,
                xml(words),
            );
        }
    }
    for (node, place) in nodes.iter().zip(&layout.nodes) {
        let role = Role::of(node);
        let paint = role.paint();
        let (round, line) = match role {
            Role::Source => (NODE_HEIGHT / 2.0, 1.5),
            Role::Step => (6.0, 1.5),
            Role::Join => (6.0, 3.0),
            Role::Sink => (0.0, 1.5),
        };
        let name = xml(&node.id.name);
        let kind = node.kind;
        let _ = write!(
            out,
            r##"<g><title>{name}: {}, {}</title>
<rect class="node {}" {} rx="{round}" fill="{}" stroke="{}" stroke-width="{line}"/>
<text x="{x:.1}" y="{:.1}" font-size="{NAME_FONT}" font-weight="600" fill="{INK}">{name}</text>
<text x="{x:.1}" y="{:.1}" font-size="{KIND_FONT}" fill="{FADED}">{}</text></g>
"##,
            kind.name,
            xml(kind.summary),
            paint.name,
            corner(place),
            paint.fill,
            paint.stroke,
            place.y - 4.0,
            place.y + 14.0,
            kind.name,
            x = place.x,
        );
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn corner(place: &Place) -> String {
    format!(
        r#"x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}""#,
        place.left(),
        place.top(),
        place.width,
        place.height
    )
}

/// The width of a line of text in a sans-serif font that is not known: rather too wide.
fn text_width(text: &str, font: f64) -> f64 {
    let ems: f64 = text
        .chars()
        .map(|c| match c {
            ' ' | '!' | '\'' | ',' | '.' | '/' | ':' | ';' | 'I' | 'f' | 'i' | 'j' | 'l' | 't'
            | '|' => 0.38,
            'M' | 'W' | 'm' | 'w' | '%' | '@' => 0.95,
            'A'..='Z' => 0.72,
            _ if c.is_ascii() => 0.62,
            _ => 1.0,
        })
        .sum();
    ems * font
}

fn lay_out(nodes: &[Planned], arrows: &[Arrow]) -> Result<Layout> {
    let mut graph: Graph<NodeLabel, EdgeLabel, GraphLabel> = Graph::new(GraphOptions {
        multigraph: true,
        // Without it, dagre's algorithm asks for a graph in one piece.
        compound: true,
        ..GraphOptions::default()
    });
    graph.set_graph(GraphLabel {
        nodesep: 44.0,
        edgesep: 24.0,
        ranksep: 2.0 * GAP,
        marginx: MARGIN,
        marginy: MARGIN,
        ..GraphLabel::default()
    });
    for (index, node) in nodes.iter().enumerate() {
        let name = 1.08 * text_width(&visible(&node.id.name), NAME_FONT);
        let kind = text_width(node.kind.name, KIND_FONT);
        let label = NodeLabel {
            width: (name.max(kind) + 32.0).max(120.0).ceil(),
            height: NODE_HEIGHT,
            ..NodeLabel::default()
        };
        graph.set_node(index.to_string(), label);
    }
    let key = |index: usize, arrow: &Arrow| {
        EdgeKey::new(
            arrow.from.to_string(),
            arrow.to.to_string(),
            // Two edges may join the same nodes.
            Some(index.to_string()),
        )
    };
    for (index, arrow) in arrows.iter().enumerate() {
        let widths = arrow
            .words
            .iter()
            .map(|words| text_width(words, WORDS_FONT));
        let label = EdgeLabel {
            width: widths.fold(0.0, f64::max).ceil() + 6.0,
            height: WORDS_LINE * arrow.words.len() as f64,
            weight: 1.0,
            ..EdgeLabel::default()
        };
        graph.set_edge_key(key(index, arrow), label);
    }
    dugong::layout_dagreish(&mut graph);
    let failed = "the picture could not be laid out; the formats mermaid and dot need no layout";
    Ok(Layout {
        nodes: (0..nodes.len())
            .map(|index| {
                let node = graph.node(&index.to_string())?;
                Some(Place {
                    x: node.x?,
                    y: node.y?,
                    width: node.width,
                    height: node.height,
                })
            })
            .collect::<Option<_>>()
            .context(failed)?,
        arrows: arrows
            .iter()
            .enumerate()
            .map(|(index, arrow)| {
                let edge = graph.edge_by_key(&key(index, arrow))?;
                let words = Place {
                    x: edge.x?,
                    y: edge.y?,
                    width: edge.width,
                    height: edge.height,
                };
                // The ends are on the nodes' outlines; `paths` chooses its own.
                let between = edge.points.get(1..edge.points.len().checked_sub(1)?)?;
                let mut between: Vec<_> = between.iter().map(|p| (p.x, p.y)).collect();
                if between.is_empty() {
                    between.push((words.x, words.y));
                }
                Some((words, between))
            })
            .collect::<Option<_>>()
            .context(failed)?,
    })
}

/// The arrows as SVG paths: they leave a node downwards, cross each row downwards, where they
/// have their own place beside the nodes, and swing only between the rows.
fn paths(arrows: &[Arrow], layout: &Layout) -> Vec<String> {
    let starts = ends(arrows.iter().map(|arrow| arrow.from), layout, |points| {
        points.first()
    });
    let stops = ends(arrows.iter().map(|arrow| arrow.to), layout, |points| {
        points.last()
    });
    let mut paths = Vec::new();
    for (index, (arrow, (words, between))) in arrows.iter().zip(&layout.arrows).enumerate() {
        let mut path = String::new();
        let (mut x, mut y) = (starts[index], layout.nodes[arrow.from].bottom());
        let _ = write!(path, "M{x:.1} {y:.1}");
        let mut swing = |to_x: f64, to_y: f64, path: &mut String| {
            let middle = f64::midpoint(y, to_y);
            if (to_x - x).abs() < 0.05 {
                let _ = write!(path, "V{to_y:.1}");
            } else {
                let _ = write!(
                    path,
                    "C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}"
                );
            }
            (x, y) = (to_x, to_y);
        };
        for &(row_x, row_y) in between {
            let half = if layout.nodes.iter().any(|n| (n.y - row_y).abs() < 1.0) {
                NODE_HEIGHT / 2.0
            } else {
                words.height / 2.0
            };
            swing(row_x, row_y - half, &mut path);
            swing(row_x, row_y + half, &mut path);
        }
        swing(stops[index], layout.nodes[arrow.to].top(), &mut path);
        paths.push(path);
    }
    paths
}

/// Where on its node each arrow ends (the x of it): alone as near as can be to `next`, the point
/// that it goes on to; several spread out, in the order of theirs.
fn ends(
    nodes: impl Iterator<Item = usize>,
    layout: &Layout,
    next: impl Fn(&[(f64, f64)]) -> Option<&(f64, f64)>,
) -> Vec<f64> {
    const CORNER: f64 = 18.0;
    const APART: f64 = 40.0;
    let mut at: Vec<Vec<(f64, usize)>> = vec![Vec::new(); layout.nodes.len()];
    for (arrow, node) in nodes.enumerate() {
        let x = next(&layout.arrows[arrow].1).map_or(layout.nodes[node].x, |point| point.0);
        at[node].push((x, arrow));
    }
    let mut ends = vec![0.0; layout.arrows.len()];
    for (node, mut arrows) in layout.nodes.iter().zip(at) {
        if let [(x, arrow)] = arrows[..] {
            ends[arrow] = x.clamp(node.left() + CORNER, node.right() - CORNER);
            continue;
        }
        arrows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let gaps = arrows.len().saturating_sub(1) as f64;
        let span = (gaps * APART).min(node.width - 2.0 * CORNER);
        for (place, (_, arrow)) in arrows.into_iter().enumerate() {
            ends[arrow] = node.x - span / 2.0 + span * place as f64 / gaps;
        }
    }
    ends
}
