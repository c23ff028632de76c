//! Where `eval` and `predict` find out that a network was validated on samples of one picture.

use rsflow_graph::{Plan, Recipe, Text};
use rsflow_model::checkpoint::Metadata;
use rsflow_pipeline::nodes::CascadedCenterCrop;

use crate::catalogue::CATALOGUE;

/// The side of the picture that images of these sizes are to be samples of, if the recipe that a
/// checkpoint was trained with has a `CascadedCenterCrop`. `tell` gets what a user has to know, who did
/// not ask for it.
pub fn picture_side(metadata: &Metadata, sizes: &[u32], tell: impl Fn(&str)) -> Option<u32> {
    let text = Text::new("the checkpoint's recipe", metadata.recipe.clone());
    // One that this program does not understand any more says nothing.
    let plan = Plan::new(Recipe::parse(text, CATALOGUE, &[]).ok()?).ok()?;
    let mut nodes = plan.nodes().iter();
    let node = nodes.find_map(|planned| planned.node::<CascadedCenterCrop>())?;
    let side = node.picture_side();
    if sizes.iter().any(|size| *size > side) {
        tell(&format!(
            "images are not made as in the training's validation, whose sizes are samples of a picture of {side} pixels: \
             to compare with it, leave larger sizes out"
        ));
        return None;
    }
    tell(&format!(
        "images are made as in the training's validation (CascadedCenterCrop): samples of a picture of {side} pixels"
    ));
    Some(side)
}
