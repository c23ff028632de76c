//! Drawing a plan: as text that Mermaid or graphviz lays out, or as a finished SVG picture.

mod dot;
mod layout;
mod mermaid;
mod parts;
mod svg;

use crate::plan::Plan;

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
pub fn draw(plan: &Plan, format: Format) -> String {
    match format {
        Format::Mermaid => mermaid::mermaid(plan),
        Format::Dot => dot::dot(plan),
        Format::Svg => svg::svg(plan),
    }
}
