//! Images that a network is both trained and validated on.

use std::collections::{BTreeSet, HashSet};

use super::links::Links;
use super::training::upstream;
use crate::node::{ListedImages, ListedPart, Report, Role};
use crate::problem::Problem;
use crate::recipe::{Recipe, Written};

/// Refuses parts of one data set that are not each other's rest, and warns of validation on all training images,
/// with which a first try may check that a network learns at all.
pub(super) fn overlap(
    recipe: &Recipe,
    links: &Links,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let listed = |node: usize| recipe.nodes[node].node.as_ref()?.lists();
    let mut seen = HashSet::new();
    for (trainer, node) in recipe.nodes.iter().enumerate() {
        let Some(Role::Trainer { port }) = node.kind.map(|kind| kind.role) else {
            continue;
        };
        // In the order of the recipe.
        let sources = |trains: bool| -> BTreeSet<usize> {
            let links_of = links.of[trainer].iter();
            let chosen = links_of.filter(|link| (link.port == Some(port)) == trains);
            upstream(links, chosen.map(|link| link.from))
                .into_iter()
                .collect()
        };
        let validated = sources(false);
        for train in sources(true) {
            for &validate in &validated {
                let (Some(of_train), Some(of_validate)) = (listed(train), listed(validate)) else {
                    continue;
                };
                if (&of_train.root, &of_train.within) == (&of_validate.root, &of_validate.within)
                    && seen.insert((train, validate))
                {
                    let [train, validate] = [train, validate].map(|node| &recipe.nodes[node]);
                    let written = (validate.name.as_str(), &validate.value);
                    let text = recipe.text.resolved();
                    let mut report = Report::new(text, written, None, &|_, _| None);
                    compare((train, &of_train), (validate, &of_validate), &mut report);
                    problems.append(&mut report.found);
                    warnings.append(&mut report.warnings);
                }
            }
        }
    }
}

/// Of two sources of one place, the second one's problem.
fn compare(
    train: (&Written, &ListedImages),
    validate: (&Written, &ListedImages),
    report: &mut Report,
) {
    let (train_name, validate_name) = (&train.0.name, &validate.0.name);
    match (&train.1.part, &validate.1.part) {
        (Some(one), Some(other)) if one.by == other.by && one.is_held_out != other.is_held_out => {}
        (Some(one), Some(other)) if one.by != other.by => report.parameter(
            "part",
            format!(
                "`{train_name}` and `{validate_name}` part the same images differently (`{}`, and `{}`): some images \
                 would be both trained and validated on",
                one.by, other.by
            ),
            format!("in both the same: `{}`", one.by),
        ),
        (one, other) if one == other => report.warning(
            "part",
            format!(
                "`{validate_name}` lists the same images as `{train_name}`: the accuracy will be that on images \
                 that the network was trained on"
            ),
            format!(
                "hold some out, with `part: Training(validation_percent: 10)` in `{train_name}` and \
                 `part: Validation(validation_percent: 10)` in `{validate_name}`"
            ),
        ),
        (one, other) => {
            let (all, part, name, other_name) = match (one, other) {
                (None, Some(part)) => (train_name, part, train_name, validate_name),
                (Some(part), _) => (validate_name, part, validate_name, train_name),
                (None, None) => return,
            };
            report.parameter(
                "part",
                format!(
                    "`{all}` lists all images, and `{other_name}` a part of the same: some would be both trained \
                     and validated on"
                ),
                format!("`part: {}` in `{name}`", rest(part)),
            );
        }
    }
}

/// The other part, as a recipe has it.
fn rest(part: &ListedPart) -> String {
    let kind = if part.is_held_out {
        "Training"
    } else {
        "Validation"
    };
    format!("{kind}({})", part.by)
}
