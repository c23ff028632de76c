//! Where `eval` and `predict` find out how the images were made that a network was validated on.

use rsflow_graph::{Plan, Planned, Recipe, Text};
use rsflow_model::checkpoint::Metadata;
use rsflow_model::train::trainer::Trainer;
use rsflow_pipeline::nodes::{CascadedCenterCrop, DecodeJpeg, ResizeAndCenterCrop};
use rsflow_pipeline::pixels::Center;

use crate::catalogue::CATALOGUE;

/// How images of these sizes are made: as in the validation of the recipe that a checkpoint was trained
/// with, and as the reference does where it has none. A `fraction` that is given is the user's. `tell`
/// gets what a user has to know, who did not ask for it.
pub fn like_training(
    metadata: &Metadata,
    sizes: &[u32],
    fraction: Option<f64>,
    tell: impl Fn(&str),
) -> Center {
    let mut center = Center::default();
    let mut told = Vec::new();
    let mut is_unlike = false;
    // A recipe that this program does not understand any more says nothing.
    let text = Text::new("the checkpoint's recipe", metadata.recipe.clone());
    let recipe = Recipe::parse(text, CATALOGUE, &[]);
    let plan = recipe.and_then(Plan::new).ok();
    for planned in plan.iter().flat_map(validation) {
        if let Some(node) = planned.node::<DecodeJpeg>() {
            center.limits = node.limits();
            center.exif_orientation = node.exif_orientation();
            if center.exif_orientation {
                told.push("turned by their EXIF orientation".to_owned());
            }
        } else if let Some(node) = planned.node::<ResizeAndCenterCrop>() {
            center.fraction = node.fraction();
        } else if let Some(node) = planned.node::<CascadedCenterCrop>() {
            center.fraction = node.fraction();
            let side = node.picture_side();
            if sizes.iter().any(|size| *size > side) {
                is_unlike = true;
                tell(&format!(
                    "preprocessing differs from the training run's validation, whose sizes are samples of a picture of \
                     {side} pixels: to compare with it, leave larger sizes out"
                ));
            } else {
                center.picture_side = Some(side);
                told.push(format!(
                    "samples of a picture of {side} pixels (CascadedCenterCrop)"
                ));
            }
        }
    }
    let but = match fraction {
        Some(fraction) if fraction != center.fraction => " (except --fraction)",
        _ => "",
    };
    if but.is_empty() && center.fraction != Center::default().fraction {
        told.push(format!("fraction {}", center.fraction));
    }
    center.fraction = fraction.unwrap_or(center.fraction);
    if !told.is_empty() && !is_unlike {
        let told = told.join(", ");
        tell(&format!(
            "preprocessing as in the training run's validation{but}: {told}"
        ));
    }
    center
}

/// The nodes that a trainer is validated through, from the last to the first.
fn validation(plan: &Plan) -> Vec<&Planned> {
    let nodes = plan.nodes();
    let trainer = nodes.iter().find(|node| node.node::<Trainer>().is_some());
    let inputs = trainer.map_or(&[][..], |trainer| &trainer.inputs);
    let mut edge = inputs.iter().find(|edge| edge.port == "validate");
    let mut found = Vec::new();
    while let Some(planned) = edge.map(|edge| &nodes[edge.node]) {
        found.push(planned);
        edge = planned.inputs.first();
    }
    found
}
