//! Which part of a recipe is run and measured.

use anyhow::{Context as _, Result};
use rsflow_graph::{Batch, Feed, FeedWith, Payload as _, Plan, Planned};

/// Batches that a trainer without data nodes is fed again and again.
const CACHED: usize = 2;

/// A part of a recipe, up to the node whose output is counted.
pub struct Part {
    /// For messages.
    pub title: String,
    pub plan: Plan,
    pub node: String,
    /// Inputs of the trainer that are not fed as the recipe says.
    pub feeds: Vec<Feed>,
    /// Items that come out before anything is measured.
    pub warm_up: u64,
}

/// Where a trainer that is measured gets its batches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Batches {
    /// From the recipe's data nodes.
    Fresh,
    /// The first [`CACHED`] of them, again and again: as if data were free.
    Cached,
}

impl Part {
    /// Data nodes; the output of the last one is counted.
    pub fn data(plan: Plan) -> Result<Self> {
        let last = plan.nodes().last().context("the plan has no nodes")?;
        let node = last.id.name.clone();
        let is_map = !last.inputs.is_empty() && last.kind.output_of(Batch::NAME).is_none();
        let remark = match is_map {
            true => " (which plans pixels; decoding and resizing begin at a `Batch`)",
            false => "",
        };
        Ok(Part {
            title: format!("the data nodes up to `{node}`{remark}"),
            plan,
            node,
            feeds: Vec::new(),
            warm_up: 1,
        })
    }

    /// A trainer of `plan` and what it needs for its training batches. Nothing is validated or kept.
    pub fn trainer(plan: &Plan, trainer: &Planned, batches: Batches) -> Result<Self> {
        let node = trainer.id.name.clone();
        let train = match batches {
            Batches::Fresh => FeedWith::Endless,
            Batches::Cached => FeedWith::Replay(CACHED),
        };
        let learns_from = trainer.training_input();
        let feeds = trainer.inputs.iter().map(|edge| Feed {
            node: node.clone(),
            port: edge.port,
            with: match Some(edge) == learns_from {
                true => train,
                false => FeedWith::Nothing,
            },
        });
        Ok(Part {
            title: match batches {
                Batches::Fresh => format!("`{node}` and its data nodes"),
                Batches::Cached => format!("`{node}` on {CACHED} batches, again and again"),
            },
            feeds: feeds.collect(),
            warm_up: match batches {
                Batches::Fresh => 1,
                Batches::Cached => CACHED as u64 + 1,
            },
            plan: plan
                .until(&node)
                .context("the trainer is not in its plan")?,
            node,
        })
    }
}

/// The node that a trainer's training batches come from.
pub fn source_of_batches<'a>(plan: &'a Plan, trainer: &Planned) -> Option<&'a Planned> {
    let edge = trainer.training_input()?;
    Some(&plan.nodes()[edge.node])
}
