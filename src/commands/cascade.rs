//! Where `eval` and `predict` find out that a network was validated on samples of one picture.

use rsflow_graph::{Plan, Recipe, Text};
use rsflow_model::checkpoint::Metadata;
use rsflow_pipeline::nodes::CascadedCenterCrop;

use crate::catalogue::CATALOGUE;

/// The side of the picture that all resolutions were samples of, if the recipe that a checkpoint was
/// trained with has a `CascadedCenterCrop`.
pub fn picture_side(metadata: &Metadata) -> Option<u32> {
    let text = Text::new("the checkpoint's recipe", metadata.recipe.clone());
    // One that this program does not understand any more says nothing.
    let plan = Plan::new(Recipe::parse(text, CATALOGUE, &[]).ok()?).ok()?;
    let mut nodes = plan.nodes().iter();
    nodes.find_map(|planned| Some(planned.node::<CascadedCenterCrop>()?.picture_side()))
}

/// What a user is told where sizes are too large for that.
pub fn tell_otherwise(side: u32) -> String {
    format!(
        "images are not made as in the training's validation, whose sizes are samples of a picture of {side} pixels: \
         to compare with it, leave larger sizes out"
    )
}

/// What a user is told who did not ask for it.
pub fn tell(side: u32) -> String {
    format!(
        "images are made as in the training's validation (CascadedCenterCrop): samples of a picture of {side} pixels"
    )
}
