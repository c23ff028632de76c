//! The sources of images that a plan's trainers read.

use rsflow_graph::{ListedImages, Plan};

/// A source of images, as far as it is known before it is opened.
#[derive(Clone)]
pub struct Source {
    pub node: String,
    pub listed: ListedImages,
    /// Whether it is trained on; else it is validated on.
    pub trains: bool,
}

/// Each once.
pub fn sources(plan: &Plan) -> Vec<Source> {
    let mut found: Vec<Source> = Vec::new();
    for trainer in plan.trainers() {
        let training = trainer.training_input();
        for edge in &trainer.inputs {
            let mut source = &plan.nodes()[edge.node];
            while let Some(before) = source.inputs.first() {
                source = &plan.nodes()[before.node];
            }
            let node = &source.id.name;
            let Some(listed) = source.lists() else {
                continue;
            };
            if found.iter().all(|other| other.node != *node) {
                found.push(Source {
                    node: node.clone(),
                    listed,
                    trains: training == Some(edge),
                });
            }
        }
    }
    found
}
