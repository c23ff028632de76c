//! What a node is called in errors, logs and measurements.

use rsflow_base::shown::Shown as _;
use std::fmt;

/// Displayed as `name (Kind)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId {
    /// The name in the recipe.
    pub name: String,
    pub kind: &'static str,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name.shown(), self.kind)
    }
}
