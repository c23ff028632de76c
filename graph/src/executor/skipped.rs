//! Which samples were skipped.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The first skipped samples are logged as warnings, later ones as info: thousands of warnings
/// would hide all others.
const MAX_WARNINGS: usize = 10;

#[derive(Clone, Debug)]
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

/// Every skipped sample of a run, by node and sample; its length is bounded by the budgets.
#[derive(Default)]
pub(crate) struct SkipLog(Mutex<BTreeMap<String, BTreeMap<u32, Skipped>>>);

impl SkipLog {
    /// Notes a skipped sample; returns false if its node has skipped `allowed` others already.
    pub fn note(&self, sample: u32, skipped: Skipped, allowed: u64) -> bool {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = nodes.values().map(BTreeMap::len).sum::<usize>();
        let samples = nodes.entry(skipped.node.clone()).or_default();
        let Skipped {
            node, item, reason, ..
        } = &skipped;
        if let Some(again) = samples.get_mut(&sample) {
            tracing::info!(node, item, reason, "skipped again");
            again.times += skipped.times;
            again.reason = skipped.reason;
            return true;
        }
        if samples.len() as u64 >= allowed {
            return false;
        }
        if noted < MAX_WARNINGS {
            tracing::warn!(node, item, reason, "skipped");
        } else {
            tracing::info!(node, item, reason, "skipped");
        }
        samples.insert(sample, skipped);
        true
    }

    /// Ordered by node and sample.
    pub fn list(&self) -> Vec<Skipped> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.values().flat_map(BTreeMap::values).cloned().collect()
    }
}
