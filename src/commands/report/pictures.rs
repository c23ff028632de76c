//! The pictures of mistakes, as the network got them, from the images that the run was validated on.

use std::path::Path;

use anyhow::{Context as _, Result};
use jpeg_encoder::{ColorType, Encoder};
use rsflow_base::run_files::RECIPE;
use rsflow_graph::{Plan, Preprocess, Recipe, Text};
use rsflow_pipeline::nodes::NamedImages;
use rsflow_pipeline::preprocess;

use super::run::Run;
use crate::catalogue::CATALOGUE;
use crate::commands::images::{Half, Images};

/// The side of a picture in the page, in pixels.
const SIDE: u32 = 160;
const QUALITY: u8 = 80;

/// Adds the pictures of the first `most` mistakes of a run. Where there are none, it says why. `data` is where they
/// are read, in place of what the recipe says.
///
/// # Errors
/// `data` has no images.
pub fn add(run: &mut Run, data: Option<&Path>, most: usize) -> Result<()> {
    let recipe = run.recipe.clone();
    let by = run.about.preprocess;
    let Some(Ok(answers)) = &mut run.answers else {
        return Ok(());
    };
    answers.mistakes.truncate(most);
    if answers.mistakes.is_empty() {
        return Ok(());
    }
    let source = match data {
        Some(path) => Ok(Images::find(path, Half::Val, "--data")?.node(false)),
        None => source_of(&recipe),
    };
    let images = match source.and_then(|source| open(&source)) {
        Ok(images) => images,
        Err(error) if data.is_some() => return Err(error),
        Err(error) => {
            answers.without_pictures = Some(format!("{error:#}"));
            return Ok(());
        }
    };
    let mut failed = None;
    for mistake in &mut answers.mistakes {
        match picture(&images, &by, &mistake.image) {
            Ok(jpeg) => mistake.picture = Some(jpeg),
            Err(error) => failed = failed.or(Some(format!("{error:#}"))),
        }
    }
    answers.without_pictures = failed;
    Ok(())
}

/// The source of the recipe's validation images, as written.
fn source_of(recipe: &str) -> Result<String> {
    let recipe = Recipe::parse(Text::new(RECIPE, recipe), CATALOGUE, &[]);
    let recipe = recipe.ok().context("the recipe cannot be read")?;
    let source = recipe.source_of("validate");
    let source = source.context("the recipe does not say which images the run was validated on")?;
    Ok(source.to_owned())
}

fn open(source: &str) -> Result<NamedImages> {
    let recipe = format!("(seed: 0, nodes: {{ \"val_files\": {source} }})");
    let recipe = Recipe::parse(Text::new("the validation images", recipe), CATALOGUE, &[])?;
    let plan = Plan::with_unread(recipe)?;
    let planned = plan.nodes().first();
    NamedImages::of(planned.context("there is no source of images")?)
}

fn picture(images: &NamedImages, by: &Preprocess, name: &str) -> Result<Vec<u8>> {
    let bytes = images.read(name)?;
    // A cascade makes no larger ones than its square.
    let side = (1..=SIDE).rev().find(|side| by.reaches(*side));
    let side = side.context("no size can be made of it")?;
    let pixels = preprocess::pixels(by, &bytes, side)?;
    let mut jpeg = Vec::new();
    let encoder = Encoder::new(&mut jpeg, QUALITY);
    let side = u16::try_from(side)?;
    encoder.encode(&pixels, side, side, ColorType::Rgb)?;
    Ok(jpeg)
}
