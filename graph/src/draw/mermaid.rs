//! A Mermaid flowchart.

use std::fmt::Write as _;

use super::parts::{INK, Paint, Role, arrows, visible};
use crate::plan::Plan;

pub(super) fn mermaid(plan: &Plan) -> String {
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
            arrow.label.join("<br/>"),
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
