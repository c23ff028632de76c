//! What all formats draw: roles of nodes with their colours, edges with their labels.

use std::fmt::Write as _;

use crate::plan::{Plan, Planned};

/// Colours of names, of other text and of lines.
pub(super) const INK: &str = "#1f2937";
pub(super) const FADED: &str = "#4b5563";
pub(super) const LINE: &str = "#8a94a3";

/// A node's place in the graph, shown by its colour and outline.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Reads nothing.
    Source,
    /// Reads one stream.
    Step,
    /// Reads several streams.
    Join,
    /// Has no outputs.
    Sink,
}

pub(super) struct Paint {
    pub name: &'static str,
    pub fill: &'static str,
    pub stroke: &'static str,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Source, Role::Step, Role::Join, Role::Sink];

    pub fn of(node: &Planned) -> Role {
        match (node.inputs.len(), node.kind.outputs.len()) {
            (0, _) => Role::Source,
            (_, 0) => Role::Sink,
            (1, _) => Role::Step,
            _ => Role::Join,
        }
    }

    pub fn paint(self) -> Paint {
        let (name, fill, stroke) = match self {
            Role::Source => ("source", "#e7f6ec", "#3f9d63"),
            Role::Step => ("step", "#eaf1fd", "#5584c8"),
            Role::Join => ("join", "#fff3d9", "#d08a1d"),
            Role::Sink => ("sink", "#f2ecfb", "#8763bd"),
        };
        Paint { name, fill, stroke }
    }
}

pub(super) struct Arrow {
    pub from: usize,
    pub to: usize,
    /// Lines of its label: what flows; then the reader's port, where the reader has several.
    pub label: Vec<String>,
}

pub(super) fn arrows(plan: &Plan) -> Vec<Arrow> {
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
            let mut label = vec![flows];
            if reader.kind.inputs.len() > 1 {
                label.push(format!("→ {}", edge.port));
            }
            arrows.push(Arrow {
                from: edge.node,
                to,
                label,
            });
        }
    }
    arrows
}

/// A name as one line of printable characters: a RON string may hold any character, a drawing may
/// not.
pub(super) fn visible(name: &str) -> String {
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

pub(super) fn xml(text: &str) -> String {
    visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
