//! Which samples were skipped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::context::Tally;

/// The first skipped samples are logged as warnings, later ones as info: thousands of warnings
/// would hide all others.
const MAX_WARNINGS: usize = 10;

/// A sample that was skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The node that could not use it.
    pub node: String,
    /// Its path.
    pub item: String,
    /// The latest error.
    pub reason: String,
    /// How often another sample took its place.
    pub times: u64,
}

/// Every sample that this process has skipped, by node and sample; its length is bounded by the budgets.
pub(crate) struct SkipLog {
    nodes: Mutex<BTreeMap<String, BTreeMap<u32, Skipped>>>,
    /// The budgets are those of all processes.
    tally: Option<Arc<dyn Tally>>,
}

impl SkipLog {
    pub fn new(tally: Option<Arc<dyn Tally>>) -> Self {
        SkipLog {
            nodes: Mutex::default(),
            tally,
        }
    }

    /// Notes a skipped sample; returns false if its node has skipped `allowed` others already.
    ///
    /// # Errors
    /// Another process is lost.
    pub fn note(&self, sample: u32, skipped: Skipped, allowed: u64) -> Result<bool> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = nodes.values().map(BTreeMap::len).sum::<usize>();
        let samples = nodes.entry(skipped.node.clone()).or_default();
        let Skipped {
            node, item, reason, ..
        } = &skipped;
        if let Some(again) = samples.get_mut(&sample) {
            tracing::info!(node, item, reason, "skipped again");
            again.times += skipped.times;
            again.reason = skipped.reason;
            return Ok(true);
        }
        let others = match &self.tally {
            None => samples.len() as u64,
            // Another process may have skipped it, which counts once.
            Some(tally) => match tally.count(&format!("skipped {sample} of {node}"))? {
                1 => tally.count(&format!("skipped of {node}"))? - 1,
                _ => 0,
            },
        };
        if others >= allowed {
            return Ok(false);
        }
        if noted < MAX_WARNINGS {
            tracing::warn!(node, item, reason, "skipped");
        } else {
            tracing::info!(node, item, reason, "skipped");
        }
        samples.insert(sample, skipped);
        Ok(true)
    }

    /// Ordered by node and sample.
    pub fn list(&self) -> Vec<Skipped> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.values().flat_map(BTreeMap::values).cloned().collect()
    }
}
