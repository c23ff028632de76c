//! `--set`: splices values into the recipe's text, so that they pass the same checks.

use std::ops::Range;

use super::read::{Recipe, SETTINGS, read};
use crate::fields;
use crate::problem::Problem;
use crate::text::name_and_value;
use crate::words::{did_you_mean, listed};

/// The recipe with one override applied. Errors are about the argument, with spans in it; an invalid
/// value is a problem of the returned recipe.
pub(super) fn with_override(recipe: &Recipe, argument: &str) -> Result<Recipe, Box<Problem>> {
    let wrong = |message: String, span: Range<usize>, help: String| {
        Err(Box::new(Problem::new(message, span).help(help)))
    };
    let (target_span, value_span) = match name_and_value(argument) {
        Some((target, value)) if !value.is_empty() => (target, value),
        _ => {
            return wrong(
                "an override needs a value".to_owned(),
                0..argument.len(),
                "write `--set NODE.FIELD=VALUE`".to_owned(),
            );
        }
    };
    let (target, value) = (&argument[target_span.clone()], &argument[value_span]);
    let whole = recipe.text.resolved();
    // `body`: the node that the field belongs to, or the recipe.
    let (body, path) = match target.split_once('.') {
        None if SETTINGS.contains(&target) => (0..whole.len(), target),
        None => {
            let is_node = recipe.nodes.iter().any(|node| node.name == target);
            let help = match did_you_mean(target, SETTINGS.iter().copied()) {
                _ if is_node => format!("a node's field is written `{target}.FIELD=VALUE`"),
                Some(meant) => meant,
                None => "a node's field is written `NODE.FIELD=VALUE`".to_owned(),
            };
            return wrong(
                format!("the recipe has no field `{target}`"),
                target_span,
                help,
            );
        }
        Some((name, path)) => {
            let Some(node) = recipe.nodes.iter().find(|node| node.name == name) else {
                let names = || recipe.nodes.iter().map(|node| node.name.as_str());
                let span = target_span.start..target_span.start + name.len();
                let all = || format!("the recipe has {}", listed(names()));
                let help = did_you_mean(name, names()).unwrap_or_else(all);
                return wrong(format!("there is no node `{name}`"), span, help);
            };
            (node.value.span.clone(), path)
        }
    };
    if path
        .split('.')
        .any(|name| name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_'))
    {
        let help = "write `--set NODE.FIELD=VALUE`".to_owned();
        return wrong(
            format!("`{target}` does not name a field"),
            target_span,
            help,
        );
    }
    let Some((range, before, after)) = fields::insertion(&whole[body.clone()], path) else {
        return wrong(
            format!("cannot set `{target}`"),
            target_span,
            "the value before the last dot has no fields in the recipe; set all of it".to_owned(),
        );
    };
    let range = body.start + range.start..body.start + range.end;
    let attempt = |value: &str| {
        let text = recipe
            .text
            .spliced(range.clone(), &before, value, &after, argument);
        read(text, recipe.catalogue).ok()
    };
    // The value is RON; a bare word or a path, which is not, is tried as a string.
    let is_ron = fields::ron(value).is_ok();
    let as_it_is = is_ron.then(|| attempt(value)).flatten();
    let quoted = format!("{value:?}");
    let as_text = attempt(&quoted);
    let start = range.start + before.len();
    let is_wrong = |problem: &Problem| problem.span == (start..start + quoted.len());
    let chosen = match (as_it_is, as_text) {
        (Some(one), Some(other))
            if other.problems.len() < one.problems.len()
                && !other.problems.iter().any(is_wrong) =>
        {
            Some(other)
        }
        (one, other) => one.or(other),
    };
    let unreadable = || {
        Box::new(Problem::new(
            format!("cannot set `{target}`"),
            0..argument.len(),
        ))
    };
    chosen.ok_or_else(unreadable)
}
