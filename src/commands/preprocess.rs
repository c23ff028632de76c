//! How `eval` and `predict` make images: as the checkpoint says.

use rsflow_graph::{Interpolation, Plan, Preprocess, Recipe, Resize, Text};
use rsflow_model::checkpoint::Metadata;

use crate::catalogue::CATALOGUE;

/// How images of these sizes are made: as in the validation of the checkpoint's training, and as the
/// reference does where that is not known. A `fraction` that is given is the user's. `tell` gets what
/// a user has to know, who did not ask for it.
pub fn like_training(
    metadata: &Metadata,
    sizes: &[u32],
    fraction: Option<f64>,
    tell: impl Fn(&str),
) -> Preprocess {
    let usual = Preprocess::default();
    let of_recipe = |recipe: &str| {
        let found = of_recipe(recipe);
        if found.is_none() && !recipe.is_empty() {
            tell(
                "the checkpoint does not say how images were made for validation, and its recipe cannot be read: \
                 they are made as the reference does",
            );
        }
        found
    };
    let trained = metadata.image_input(of_recipe).preprocess;
    let mut by = Preprocess {
        fraction: fraction.unwrap_or(trained.fraction),
        ..trained
    };
    let mut notes = Vec::new();
    if let Resize::Cascade { side } = trained.resize {
        if !sizes.iter().all(|size| trained.reaches(*size)) {
            tell(&format!(
                "preprocessing differs from the training run's validation, whose sizes are samples of a picture of \
                 {side} pixels: to compare with it, leave larger sizes out"
            ));
            by.resize = usual.resize;
            by.interpolation = usual.interpolation;
            return by;
        }
        notes.push(format!(
            "samples of a picture of {side} pixels (CascadedCenterCrop)"
        ));
    }
    let usual_interpolation = match trained.resize {
        Resize::ShortSide => usual.interpolation,
        Resize::Cascade { .. } => Interpolation::Bicubic,
    };
    if trained.interpolation != usual_interpolation {
        notes.push(format!("interpolation {:?}", trained.interpolation));
    }
    if trained.exif_orientation {
        notes.push("turned by their EXIF orientation".to_owned());
    }
    let but = match by.fraction == trained.fraction {
        true => "",
        false => " (except --fraction)",
    };
    if but.is_empty() && trained.fraction != usual.fraction {
        notes.push(format!("fraction {}", trained.fraction));
    }
    if !notes.is_empty() {
        tell(&format!(
            "preprocessing as in the training run's validation{but}: {}",
            notes.join(", ")
        ));
    }
    by
}

/// How the validation of a recipe makes images, for checkpoints that do not say it themselves. `None`
/// for a recipe that this program does not understand any more.
fn of_recipe(recipe: &str) -> Option<Preprocess> {
    let text = Text::new("the checkpoint's recipe", recipe);
    let plan = Plan::new(Recipe::parse(text, CATALOGUE, &[]).ok()?).ok()?;
    let mut streams = plan.nodes().iter().flat_map(|node| plan.incoming(node));
    let (_, validated) = streams.find(|(port, _)| *port == "validate")?;
    validated.preprocess
}
