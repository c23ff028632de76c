//! Any text as a recipe: read, planned, drawn, or told what is wrong with it. Nothing may panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rsflow_graph::{Catalogue, Format, Kind, Plan, Recipe, Text, differences, draw};
use rsflow_pipeline::nodes::{
    Batch, CascadedCenterCrop, CascadedRandomCrop, DecodeImage, ImageFolder, ImageNetArchives, ImageTar, Lighting,
    RandomResizedCrop, Resize, ResizeAndCenterCrop, ShapesFolder,
};

const KINDS: &[Kind] = &[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<ShapesFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<Resize>(),
    Kind::of::<ResizeAndCenterCrop>(),
    Kind::of::<CascadedRandomCrop>(),
    Kind::of::<CascadedCenterCrop>(),
    Kind::of::<Lighting>(),
    Kind::of::<Batch>(),
];

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // What stands behind a NUL is an override.
    let (text, set) = text.split_once('\0').map_or((text, None), |(text, set)| (text, Some(set)));
    let set: Vec<String> = set.map(str::to_owned).into_iter().collect();
    differences(text, text, Catalogue(KINDS));
    let recipe = Recipe::parse(Text::new("fuzz.ron", text), Catalogue(KINDS), &set);
    let plan = recipe.and_then(Plan::new);
    match plan {
        Ok(plan) => {
            for format in [Format::Mermaid, Format::Dot, Format::Svg] {
                drop(draw(&plan, format));
            }
        }
        Err(problems) => drop(problems.render(true)),
    }
});
