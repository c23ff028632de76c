//! Whether images that are measured on are those that the network was trained on.

use std::path::Path;

use rsflow_base::shown::Shown as _;
use rsflow_graph::{ListedImages, Plan, Recipe, Text, source_contents};
use rsflow_model::checkpoint::Metadata;

use crate::catalogue::CATALOGUE;
use crate::commands::sources::sources;

/// A warning, if the source `node` of an evaluation lists images that the network was trained on: by their place, or
/// by their names where they were moved. `way_out` ends it.
pub fn warning(plan: &Plan, node: &str, metadata: &Metadata, way_out: &str) -> Option<String> {
    let source = plan.nodes().iter().find(|it| it.id.name == node)?;
    let measured = source.lists()?;
    let place = measured.root.shown();
    let what = match share(&measured, metadata) {
        Share::All => format!("the images in {place} are those that the network was trained on"),
        Share::Some => format!("the network was trained on a part of the images in {place}"),
        Share::None if are_named_alike(plan, node, metadata) => format!(
            "the images in {place} have the names of those that the network was trained on, and seem to be the same"
        ),
        Share::None => return None,
    };
    Some(format!(
        "{what}: their figures are better than those of other images; {way_out}"
    ))
}

/// How many of the images that are measured on were trained on.
enum Share {
    None,
    Some,
    All,
}

fn share(measured: &ListedImages, metadata: &Metadata) -> Share {
    let text = Text::new("the checkpoint's recipe", metadata.recipe.as_str());
    // A recipe that this version cannot read does not say.
    let plan = Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new);
    let Ok(plan) = plan else {
        return Share::None;
    };
    let mut found = Share::None;
    for source in sources(&plan).into_iter().filter(|source| source.trains) {
        let trained = source.listed;
        if !are_of_one_place(measured, &trained) {
            continue;
        }
        match (&measured.part, &trained.part) {
            (Some(one), Some(other))
                if one.by == other.by && one.is_held_out != other.is_held_out => {}
            (one, other) if one == other => return Share::All,
            (_, None) => return Share::All,
            _ => found = Share::Some,
        }
    }
    found
}

/// Of a tar whose folder is left out, it is the only one.
fn are_of_one_place(one: &ListedImages, other: &ListedImages) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let same = one.within == other.within || one.within.is_empty() || other.within.is_empty();
    same && real(&one.root) == real(&other.root)
}

fn are_named_alike(plan: &Plan, node: &str, metadata: &Metadata) -> bool {
    // The evaluation says what cannot be opened.
    let contents = source_contents(plan, node).ok().flatten();
    let names = contents.and_then(|contents| contents.names_hash);
    let names = names.map(|hash| format!("{hash:016x}"));
    // Where both halves have the same names, these say nothing.
    names.is_some() && names == metadata.training_names && names != metadata.validation_names
}
