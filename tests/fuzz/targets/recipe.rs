//! Any text as a recipe: read, planned, drawn, or refused with an explanation. Nothing may panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ron::extensions::Extensions;
use rsflow_graph::{Catalogue, Format, Kind, Plan, Recipe, Text, differences, draw};
use rsflow_pipeline::nodes::{
    Batch, CascadedCenterCrop, CascadedRandomCrop, ColorJitter, DecodeImage, ImageFolder, ImageNetArchives, ImageTar,
    Lighting, RandAugment, RandomErasing, RandomFlip, RandomResizedCrop, Resize, ResizeAndCenterCrop, ShapesFolder,
    TrivialAugment,
};
use serde::de::IgnoredAny;

const KINDS: &[Kind] = &[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<ShapesFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<RandomFlip>(),
    Kind::of::<RandAugment>(),
    Kind::of::<TrivialAugment>(),
    Kind::of::<ColorJitter>(),
    Kind::of::<RandomErasing>(),
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
    // What is read in parts is also valid as a whole.
    if recipe.is_ok() {
        let options = ron::Options::default();
        let options = options.with_default_extension(Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES);
        options.from_str::<IgnoredAny>(text).expect("a recipe is RON");
    }
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
