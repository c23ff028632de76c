//! How a run fails: which node, which item, why.

use std::fmt;

use super::skipped::Skipped;
use crate::counters::{Blame, NodeId};

/// A node's failure.
#[derive(Debug)]
pub struct Failure {
    /// The node that it belongs to.
    pub node: NodeId,
    /// The item in hand: a file, where there is one.
    pub item: Option<String>,
    /// What happened, with its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure of `node`, unless the error blames another one.
    pub(crate) fn new(node: &NodeId, item: Option<String>, error: anyhow::Error) -> Self {
        let node = error
            .downcast_ref::<Blame>()
            .map_or(node, |blame| blame.0.node())
            .clone();
        Failure { node, item, error }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node.name, self.node.kind)?;
        if let Some(item) = &self.item {
            write!(f, ": {item}")?;
        }
        let blame = format!("{} ({})", self.node.name, self.node.kind);
        let chain = self.error.chain().map(ToString::to_string);
        let mut causes = chain.filter(|cause| *cause != blame);
        if let Some(first) = causes.next() {
            write!(f, ": {first}")?;
        }
        for cause in causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        Ok(())
    }
}

/// Why a run ended before its time: every node that really failed, the first one first. Nodes that
/// only lost their partner are not listed.
#[derive(Debug)]
pub struct RunError {
    /// At least one.
    pub failures: Vec<Failure>,
    /// Every sample that was skipped before, by node.
    pub skipped: Vec<Skipped>,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, failure) in self.failures.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RunError {}
