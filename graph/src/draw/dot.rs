//! A graphviz graph.

use std::fmt::Write as _;

use super::parts::{FADED, INK, LINE, Role, arrows, xml};
use crate::plan::Plan;

pub(super) fn dot(plan: &Plan) -> String {
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
            // The blanks keep the label off its line.
            "    n{} -> n{} [label=\"  {}  \"];",
            arrow.from,
            arrow.to,
            arrow.label.join("  \\n  "),
        );
    }
    out.push_str("}\n");
    out
}
