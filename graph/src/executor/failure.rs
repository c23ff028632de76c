//! Errors of a run.

use std::fmt;

use super::skipped::Skipped;
use crate::counters::Blame;
use crate::node_id::NodeId;
use crate::plan::Planned;
use crate::stage::Budget;

/// A node's error.
#[derive(Debug)]
pub struct Failure {
    pub node: NodeId,
    /// The path of the sample, where there is one.
    pub item: Option<String>,
    pub error: anyhow::Error,
    /// The budget with which the node would pass over such samples, if the recipe can give it one.
    pub budget: Option<Budget>,
    /// What to do where the files of a source are not there. A command whose recipe nobody wrote says it otherwise.
    pub way_out: Option<String>,
}

/// What a source reads is not where its recipe says.
#[derive(Debug)]
pub struct NotThere(pub String);

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotThere {}

impl Failure {
    /// A failure of `node`, unless the error names another one.
    pub(crate) fn new(node: &NodeId, item: Option<String>, error: anyhow::Error) -> Self {
        let node = error
            .downcast_ref::<Blame>()
            .map_or(node, |blame| blame.0.node())
            .clone();
        Failure {
            node,
            item,
            error,
            budget: None,
            way_out: None,
        }
    }

    /// A failure of a node that could not be built.
    pub(crate) fn at_start(planned: &Planned, error: anyhow::Error) -> Self {
        let listed = planned.lists().filter(|_| error.is::<NotThere>());
        let node = &planned.id.name;
        Failure {
            way_out: listed.map(|listed| {
                format!(
                    "`--set {node}.{}=PLACE` names another place",
                    listed.parameter
                )
            }),
            ..Failure::new(&planned.id, None, error)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node)?;
        if let Some(item) = &self.item {
            write!(f, ": {item}")?;
        }
        let blame = self.node.to_string();
        let chain = self.error.chain().map(ToString::to_string);
        let mut causes = chain.filter(|cause| *cause != blame);
        if let Some(first) = causes.next() {
            write!(f, ": {first}")?;
        }
        for cause in causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(way_out) = &self.way_out {
            write!(f, "\n  help: {way_out}")?;
        }
        if let Some(budget) = self.budget {
            write!(
                f,
                "\n  help: `on_error: Skip(budget: {budget})` in this node passes over such images, up to that share or number, and lists them"
            )?;
        }
        Ok(())
    }
}

/// Why a run failed. Nodes that ended only because their reader or writer was gone are not listed.
#[derive(Debug)]
pub struct RunError {
    /// In the order of time; at least one.
    pub failures: Vec<Failure>,
    /// By node and sample.
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
