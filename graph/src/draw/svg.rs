//! A finished SVG picture.

use std::fmt::Write as _;

use super::layout::{Edge, Layout, Place, Size, layout};
use super::parts::{Arrow, FADED, INK, LINE, Role, arrows, visible, xml};
use crate::plan::{Plan, Planned};

/// Pixels, as all lengths below.
const NAME_FONT: f64 = 14.0;
const KIND_FONT: f64 = 12.0;
const LABEL_FONT: f64 = 11.0;
const LABEL_LINE: f64 = 14.0;
const NODE_HEIGHT: f64 = 48.0;
const MARGIN: f64 = 24.0;

pub(super) fn svg(plan: &Plan) -> String {
    let nodes = plan.nodes();
    let arrows = arrows(plan);
    let layout = lay_out(nodes, &arrows);
    let everything = || {
        let labels = layout.routes.iter().map(|route| &route.label);
        layout.nodes.iter().chain(labels)
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
    // A label hides the line that it is on.
    for (arrow, route) in arrows.iter().zip(&layout.routes) {
        let place = &route.label;
        let _ = writeln!(
            out,
            r##"<rect class="label" {} fill="#ffffff"/>"##,
            corner(place)
        );
        for (row, line) in arrow.label.iter().enumerate() {
            let base = place.top() + LABEL_LINE * (row as f64 + 0.75);
            let _ = writeln!(
                out,
                r##"<text x="{:.1}" y="{base:.1}" font-size="{LABEL_FONT}" fill="{FADED}">{}</text>"##,
                place.x,
                xml(line),
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
    out
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

/// The width of a line of text in an unknown sans-serif font, estimated rather too wide.
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

fn lay_out(nodes: &[Planned], arrows: &[Arrow]) -> Layout {
    let nodes = nodes.iter().map(|node| {
        let name = 1.08 * text_width(&visible(&node.id.name), NAME_FONT);
        let kind = text_width(node.kind.name, KIND_FONT);
        Size {
            width: (name.max(kind) + 32.0).max(120.0).ceil(),
            height: NODE_HEIGHT,
        }
    });
    let edges = arrows.iter().map(|arrow| {
        let widths = arrow.label.iter().map(|line| text_width(line, LABEL_FONT));
        Edge {
            from: arrow.from,
            to: arrow.to,
            label: Size {
                width: widths.fold(0.0, f64::max).ceil() + 6.0,
                height: LABEL_LINE * arrow.label.len() as f64,
            },
        }
    });
    let nodes: Vec<Size> = nodes.collect();
    let edges: Vec<Edge> = edges.collect();
    let mut layout = layout(&nodes, &edges);
    let routes = layout.routes.iter_mut();
    let edges = routes.flat_map(|route| route.crossings.iter_mut().chain([&mut route.label]));
    for place in layout.nodes.iter_mut().chain(edges) {
        place.x += MARGIN;
        place.y += MARGIN;
    }
    layout
}

/// The arrows as SVG paths: they leave a node downwards, cross each rank downwards, where they
/// have their own place beside the nodes, and swing only between the ranks.
fn paths(arrows: &[Arrow], layout: &Layout) -> Vec<String> {
    let crossings = || layout.routes.iter().map(|route| &route.crossings);
    let starts = arrows.iter().map(|arrow| arrow.from);
    let starts = ends(starts.zip(crossings().map(|places| places.first())), layout);
    let stops = arrows.iter().map(|arrow| arrow.to);
    let stops = ends(stops.zip(crossings().map(|places| places.last())), layout);
    let mut paths = Vec::new();
    for (index, (arrow, crossings)) in arrows.iter().zip(crossings()).enumerate() {
        let mut path = String::new();
        let (mut x, mut y) = (starts[index], layout.nodes[arrow.from].bottom());
        let _ = write!(path, "M{x:.1} {y:.1}");
        let mut swing = |to_x: f64, to_y: f64| {
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
        for place in crossings {
            swing(place.x, place.top());
            swing(place.x, place.bottom());
        }
        swing(stops[index], layout.nodes[arrow.to].top());
        paths.push(path);
    }
    paths
}

/// Where on its node each arrow ends (the x of it), from the node and the place where it crosses
/// the next rank: an arrow alone as near to that as can be; several spread out, in the same order.
fn ends<'a>(arrows: impl Iterator<Item = (usize, Option<&'a Place>)>, layout: &Layout) -> Vec<f64> {
    const CORNER: f64 = 18.0;
    const APART: f64 = 40.0;
    let mut at: Vec<Vec<(f64, usize)>> = vec![Vec::new(); layout.nodes.len()];
    for (arrow, (node, next)) in arrows.enumerate() {
        at[node].push((next.map_or(layout.nodes[node].x, |next| next.x), arrow));
    }
    let mut ends = vec![0.0; layout.routes.len()];
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
