//! Reading and checking a recipe, and its one trainer.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rsflow_base::input_file;
use rsflow_base::run_files::RECIPE;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Kind, Plan, Planned, Recipe, Role, Text, nearest, training_classes};
use rsflow_model::train::lookup::trainer_of;
use rsflow_model::train::trains::Trains;

use super::usage::Usage;
use crate::catalogue::CATALOGUE;
use crate::cli::Overrides;

/// Upper bound of a recipe, in bytes.
pub const MAX_RECIPE: u64 = 16 << 20;

/// Reads and checks a recipe.
pub fn plan(path: &Path, overrides: &Overrides) -> Result<Plan> {
    Ok(Plan::new(recipe(path, overrides)?)?)
}

/// The same, with the number of classes of the training data where the recipe leaves it out.
pub fn plan_with_classes(path: &Path, overrides: &Overrides) -> Result<Plan> {
    let found = plan(path, overrides)?;
    let (planned, trainer) = the_trainer(&found, path)?;
    if trainer.classes().is_some() {
        return Ok(found);
    }
    let field = format!("{}.classes", planned.id.name);
    let counted = training_classes(&found, planned).with_context(|| {
        format!(
            "the recipe leaves `classes` to the data, which cannot be opened\n\
             help: give the number, such as `--set {field}=1000`"
        )
    })?;
    let classes = counted.map(|classes| format!("{field}={classes}"));
    let set = overrides.set.iter().cloned().chain(classes).collect();
    plan(path, &Overrides { set })
}

/// The one trainer of a recipe.
pub fn the_trainer<'a>(plan: &'a Plan, recipe: &Path) -> Result<(&'a Planned, &'a dyn Trains)> {
    let nodes = plan.nodes().iter();
    let trainers: Vec<_> = nodes
        .filter_map(|planned| Some((planned, trainer_of(planned)?)))
        .collect();
    match trainers[..] {
        [found] => Ok(found),
        _ => {
            let trains = |kind: &&Kind| matches!(kind.role, Role::Trainer { .. });
            let kinds = CATALOGUE.0.iter().filter(trains).map(|kind| kind.name);
            bail!(Usage(format!(
                "expected one trainer, but {} has {}; see `rsflow nodes {}`",
                recipe.shown(),
                trainers.len(),
                kinds.collect::<Vec<_>>().join("` or `rsflow nodes ")
            )))
        }
    }
}

/// Help where there is no such recipe: that of a run, or one of that name with its ending, in the same folder or in
/// `recipes`.
fn meant(path: &Path) -> String {
    let of_run = path.join(RECIPE);
    if of_run.is_file() {
        return format!(
            "\nhelp: it is a run's directory; its recipe is {}",
            of_run.shown()
        );
    }
    if path
        .extension()
        .is_some_and(|ending| ending == "safetensors")
    {
        let place = path.shown();
        return format!(
            "\nhelp: it is a checkpoint: `rsflow run RECIPE --resume {place}` resumes its run, `rsflow eval \
             --checkpoint {place}` evaluates it"
        );
    }
    if path.is_dir() {
        return format!(
            "\nhelp: `rsflow train {}` trains on pictures in it",
            path.shown()
        );
    }
    let Some(name) = path.file_name().filter(|_| !path.exists()) else {
        return String::new();
    };
    let name = name.to_string_lossy();
    let stem = name.strip_suffix(".ron").unwrap_or(&name);
    let here = path.parent().unwrap_or(Path::new(""));
    for folder in [here, Path::new("recipes")] {
        let listed = std::fs::read_dir(match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        });
        let files = listed.into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let names: Vec<String> = names.filter(|name| name.ends_with(".ron")).collect();
        let exact = names
            .iter()
            .find(|it| it.strip_suffix(".ron") == Some(stem));
        let whole = format!("{stem}.ron");
        let near = || nearest(&whole, names.iter().map(String::as_str));
        if let Some(found) = exact.map(String::as_str).or_else(near) {
            let found = folder.join(found);
            return format!("\nhelp: did you mean {}?", found.shown());
        }
    }
    String::new()
}

/// The recipe's file: with its ending where that was left out.
fn with_ending(path: &Path) -> Cow<'_, Path> {
    let mut name = path.as_os_str().to_owned();
    name.push(".ron");
    let whole = PathBuf::from(name);
    match !path.exists() && whole.is_file() {
        true => whole.into(),
        false => path.into(),
    }
}

/// Reads a recipe. `good` is `good.ron`, if there is no file `good`.
pub fn recipe(path: &Path, overrides: &Overrides) -> Result<Recipe> {
    let path = &with_ending(path);
    let text = input_file::read_to_string(path, MAX_RECIPE).with_context(|| {
        Usage(format!(
            "cannot read the recipe {}{}",
            path.shown(),
            meant(path)
        ))
    })?;
    // Some editors begin a file with an invisible mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = Text::new(path.shown().to_string(), text);
    Ok(Recipe::parse(text, CATALOGUE, &overrides.set)?)
}
