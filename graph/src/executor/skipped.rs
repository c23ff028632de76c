//! Which samples were skipped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    #[serde(rename = "image")]
    pub item: String,
    /// The latest error.
    pub reason: String,
    /// How often another sample took its place.
    pub times: u64,
}

type Nodes = BTreeMap<String, BTreeMap<u32, Skipped>>;

/// Every sample that this process has skipped, by node and sample; its length is bounded by the budgets.
pub(crate) struct SkipLog {
    nodes: Mutex<Nodes>,
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
        let again = |nodes: &mut Nodes| {
            let samples = nodes.entry(skipped.node.clone()).or_default();
            let found = samples.get_mut(&sample);
            found.map(|found| {
                let Skipped { node, item, .. } = &*found;
                tracing::info!(node, item, reason = skipped.reason, "skipped again");
                found.times += skipped.times;
                found.reason.clone_from(&skipped.reason);
            })
        };
        if again(&mut self.lock()).is_some() {
            return Ok(true);
        }
        // The answer takes a while: without the lock.
        let others = match &self.tally {
            None => None,
            // Another process may have skipped it, which counts once.
            Some(tally) => Some(
                match tally.count(&format!("skipped {sample} of {}", skipped.node))? {
                    1 => tally.count(&format!("skipped of {}", skipped.node))? - 1,
                    _ => 0,
                },
            ),
        };
        let mut nodes = self.lock();
        if again(&mut nodes).is_some() {
            return Ok(true);
        }
        let noted = nodes.values().map(BTreeMap::len).sum::<usize>();
        let samples = nodes.entry(skipped.node.clone()).or_default();
        if others.unwrap_or(samples.len() as u64) >= allowed {
            return Ok(false);
        }
        let Skipped {
            node, item, reason, ..
        } = &skipped;
        if noted < MAX_WARNINGS {
            tracing::warn!(node, item, reason, "skipped");
        } else {
            tracing::info!(node, item, reason, "skipped");
        }
        samples.insert(sample, skipped);
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ordered by node and sample.
    pub fn list(&self) -> Vec<Skipped> {
        self.lock()
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }
}
