//! `--set`: splices values into the recipe's text, so that they pass the same checks.

use std::ops::Range;

use super::lets::entries;
use super::read::{Recipe, SETTINGS, has_name, read};
use super::suggest;
use super::syntax::syntax;
use crate::fields::{self, Shape, Value};
use crate::problem::Problem;
use crate::schema::{Reader, properties};
use crate::text::{Text, name_and_value};
use crate::words::{did_you_mean, listed, one_of};

/// What the first part of an override's name means.
enum Target {
    /// A field of the recipe.
    Recipe,
    /// A node, or a value of `let`: its place in the text.
    Entry(Range<usize>),
}

/// Where a value goes.
struct Insertion {
    range: Range<usize>,
    before: String,
    after: String,
    /// Whether it is all of a node.
    is_node: bool,
}

/// The recipe with one override applied. Errors are about the argument, with spans in it; an invalid
/// value is a problem of the returned recipe.
pub(super) fn with_override(recipe: &Recipe, argument: &str) -> Result<Recipe, Box<Problem>> {
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
    let (target, value) = (
        &argument[target_span.clone()],
        &argument[value_span.clone()],
    );
    let insertion = insertion(recipe, target, &target_span)?;
    if let Some(name) = name_in_text(value) {
        return wrong(
            format!("`{name}` is a whole value, not a part of one"),
            value_span,
            format!(
                "write the whole value, or in quotes if it is meant as it is: `'{target}={value:?}'`"
            ),
        );
    }
    if (insertion.is_node || is_name(value))
        && let Err(error) = fields::ron(value)
    {
        let mut problem = syntax(value, &error, "the value", recipe.catalogue);
        problem.span = value_span.start + problem.span.start..value_span.start + problem.span.end;
        for (span, _) in &mut problem.also {
            *span = value_span.start + span.start..value_span.start + span.end;
        }
        return Err(Box::new(problem));
    }
    let set = Set {
        recipe,
        argument,
        insertion: &insertion,
        value_span,
    };
    set.chosen(value).ok_or_else(|| {
        let problem = Problem::new(format!("cannot set `{target}`"), 0..argument.len());
        let within = target.contains('.');
        let help = "the value before the last dot has no fields in the recipe; set all of it";
        Box::new(problem.maybe_help(within.then(|| help.to_owned())))
    })
}

/// Whether a value is one word that begins with `$`, as `$name` and `$name-1` do.
fn is_name(value: &str) -> bool {
    fields::tokens(value).len() == 1 && has_name(value)
}

/// The `$name` that a part of a path begins with, where the value is a bare text such as `$data/train`: what was
/// meant is neither the name of a folder nor a value of `let`.
fn name_in_text(value: &str) -> Option<&str> {
    if fields::ron(value).is_ok() || is_name(value) {
        return None;
    }
    let mut parts = value.split(['/', '\\']);
    let part = parts.find(|part| {
        part.strip_prefix('$')
            .is_some_and(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
    })?;
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '$' | '_');
    Some(&part[..part.find(|c| !is_of_name(c)).unwrap_or(part.len())])
}

fn wrong<T>(message: String, span: Range<usize>, help: String) -> Result<T, Box<Problem>> {
    Err(Box::new(Problem::new(message, span).help(help)))
}

/// An override whose place is known.
struct Set<'a> {
    recipe: &'a Recipe,
    argument: &'a str,
    insertion: &'a Insertion,
    /// The value in the argument.
    value_span: Range<usize>,
}

impl Set<'_> {
    /// The value is RON; a bare word or a path, which is not, is tried as a string. A `$name` never is.
    fn chosen(&self, value: &str) -> Option<Recipe> {
        let is_ron = fields::ron(value).is_ok();
        let as_it_is = is_ron.then(|| self.attempt(value)).flatten();
        // A misspelt `$name` must not become the name of a folder.
        if self.insertion.is_node || (is_ron && has_name(value)) {
            return as_it_is;
        }
        let as_text = self.attempt(&format!("{value:?}"));
        match (as_it_is, as_text) {
            (Some(one), Some(other))
                if other.problems.len() < one.problems.len()
                    && !other
                        .problems
                        .iter()
                        .any(|it| self.is_value(&other.text, it)) =>
            {
                Some(other)
            }
            (one, other) => one.or(other),
        }
    }

    fn attempt(&self, value: &str) -> Option<Recipe> {
        let Insertion {
            range,
            before,
            after,
            ..
        } = self.insertion;
        let text = &self.recipe.text;
        let text = text.spliced(range.clone(), before, value, after, self.argument);
        read(text, self.recipe.catalogue).ok()
    }

    /// Whether a problem is about all of the value.
    fn is_value(&self, text: &Text, problem: &Problem) -> bool {
        let place = text.place(problem.span.clone());
        place.text == self.argument && (place.start..place.end) == self.value_span
    }
}

fn insertion(
    recipe: &Recipe,
    target: &str,
    span: &Range<usize>,
) -> Result<Insertion, Box<Problem>> {
    let whole = recipe.text.written();
    let Some(shape) = fields::shape(whole) else {
        return wrong(
            format!("cannot set `{target}`"),
            span.clone(),
            String::new(),
        );
    };
    let (name, path) = match target.split_once('.') {
        Some((name, path)) => (name, Some(path)),
        None => (target, None),
    };
    let names_field =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let (body, path, is_node) = match (find(recipe, whole, &shape, target, span)?, path) {
        (Target::Entry(value), None) => {
            let is_node = recipe.nodes.iter().any(|node| node.name == name);
            return Ok(Insertion {
                range: value,
                before: String::new(),
                after: String::new(),
                is_node,
            });
        }
        (Target::Entry(value), Some(path)) => (value, path, false),
        (Target::Recipe, _) => (0..whole.len(), target, false),
    };
    if !path.split('.').all(names_field) {
        return wrong(
            format!("`{target}` does not name a field"),
            span.clone(),
            "write `--set NODE.FIELD=VALUE`".to_owned(),
        );
    }
    if let Some((name, rest)) = name_on_the_way(&whole[body.clone()], path) {
        let inner = settable(recipe, [&name[1..], rest].join("."));
        let settable = match is_settable(whole, &shape, &inner) {
            true => inner,
            false => name[1..].to_owned(),
        };
        return wrong(
            format!("cannot set `{target}`: the recipe has `{name}` there"),
            span.clone(),
            format!("set its value: `--set {settable}=...`"),
        );
    }
    let Some((range, before, after)) = fields::insertion(&whole[body.clone()], path) else {
        return wrong(
            format!("cannot set `{target}`"),
            span.clone(),
            "the value before the last dot has no fields in the recipe; set all of it".to_owned(),
        );
    };
    Ok(Insertion {
        range: body.start + range.start..body.start + range.end,
        before,
        after,
        is_node,
    })
}

/// The `$name` that is the value of a part of `path`, in which a field cannot be set, and the rest of `path`.
fn name_on_the_way<'a, 'p>(text: &'a str, path: &'p str) -> Option<(&'a str, &'p str)> {
    let whole = fields::shape(text)?;
    let mut value = &whole;
    let mut rest = path;
    loop {
        let word = &text[value.span.clone()];
        if matches!(value.shape, Shape::Word) && word.starts_with('$') {
            return Some((word, rest));
        }
        let (name, after) = rest.split_once('.')?;
        (value, rest) = (value.at(text, name)?, after);
    }
}

/// How `--set` calls the field `path`: by the name in `let` where the recipe has a `$name`.
fn settable(recipe: &Recipe, path: String) -> String {
    let whole = recipe.text.written();
    let Some(shape) = fields::shape(whole) else {
        return path;
    };
    let mut path = path;
    // One that is within itself has no end.
    for _ in recipe.text.let_names() {
        let Some(named) = named(whole, &shape, &path) else {
            break;
        };
        path = named;
    }
    path
}

/// `net.depth` for `trainer.network.depth` where `network: $net` is written, `net` for `trainer.network`.
fn named(whole: &str, shape: &Value, path: &str) -> Option<String> {
    let (name, mut rest) = path.split_once('.').unwrap_or((path, ""));
    let mut value = value_of(whole, shape, name)?;
    loop {
        let word = &whole[value.span.clone()];
        if let (Shape::Word, Some(name)) = (&value.shape, word.strip_prefix('$')) {
            value_of(whole, shape, name)?;
            return Some([name, rest].join(".").trim_end_matches('.').to_owned());
        }
        let (name, after) = rest.split_once('.').unwrap_or((rest, ""));
        (value, rest) = (value.at(whole, name)?, after);
    }
}

/// Whether a field can be set at `path`, which begins with a value of `let`.
fn is_settable(whole: &str, shape: &Value, path: &str) -> bool {
    let Some((name, path)) = path.split_once('.') else {
        return true;
    };
    value_of(whole, shape, name).is_some_and(|value| {
        let text = &whole[value.span.clone()];
        let is_value = matches!(value.shape, Shape::Word) && !text.starts_with(char::is_uppercase);
        !is_value && fields::insertion(text, path).is_some()
    })
}

/// The value of the node or name of `let`.
fn value_of<'a>(whole: &str, shape: &'a Value, name: &str) -> Option<&'a Value> {
    let mut all = entries(whole, shape, "nodes")
        .into_iter()
        .chain(entries(whole, shape, "let"));
    all.find(|(_, other, _)| other == name)
        .map(|(_, _, value)| value)
}

/// The node, value of `let` or field of the recipe that `target` begins with.
fn find(
    recipe: &Recipe,
    whole: &str,
    shape: &Value,
    target: &str,
    span: &Range<usize>,
) -> Result<Target, Box<Problem>> {
    let name = target.split('.').next().unwrap_or(target);
    let is_field = target.len() > name.len();
    if !is_field && SETTINGS.contains(&name) {
        return Ok(Target::Recipe);
    }
    let nodes = entries(whole, shape, "nodes");
    let lets = entries(whole, shape, "let");
    let mut all = nodes.iter().chain(&lets);
    if let Some((_, _, value)) = all.find(|(_, other, _)| other == name) {
        return Ok(Target::Entry(value.span.clone()));
    }
    let names = || {
        let names = nodes.iter().chain(&lets);
        names.map(|(_, name, _)| name.as_str())
    };
    let all = || format!("the recipe has {}", listed(names()));
    let is_known = |part: &str| names().any(|name| name == part);
    if let ("nodes" | "let", Some((_, inner))) = (name, target.split_once('.'))
        && is_known(inner.split('.').next().unwrap_or_default())
    {
        let help = match inner.contains('.') || lets.iter().any(|(_, name, _)| name == inner) {
            true => format!("write `--set {inner}=...`"),
            false => format!("write `--set {inner}.FIELD=VALUE` or `--set '{inner}=KIND(...)'`"),
        };
        let message = format!("an override begins with the name, without `{name}.`");
        return wrong(message, span.start..span.start + name.len() + 1, help);
    }
    if matches!(name, "nodes" | "let") {
        return wrong(
            format!("`{name}` cannot be set as a whole"),
            span.clone(),
            match name {
                "let" => "set a value of it by its name: `--set NAME=VALUE`".to_owned(),
                _ => "set a node or a field: `--set 'NODE=KIND(...)'`, `--set NODE.FIELD=VALUE`"
                    .to_owned(),
            },
        );
    }
    let span = span.start..span.start + name.len();
    if is_field {
        let help = did_you_mean(name, names()).unwrap_or_else(all);
        return wrong(format!("there is no node `{name}`"), span, help);
    }
    let settings = SETTINGS.iter().copied();
    let help = did_you_mean(name, settings)
        .or_else(|| with_node(recipe, name))
        .or_else(|| did_you_mean(name, names()))
        .unwrap_or_else(|| "a node's field is written `NODE.FIELD=VALUE`".to_owned());
    wrong(format!("the recipe has no field `{name}`"), span, help)
}

/// Help for a field without its node.
fn with_node(recipe: &Recipe, field: &str) -> Option<String> {
    let paths = paths_to(recipe, field);
    match paths.as_slice() {
        [] => None,
        [path] => Some(format!("write `--set {path}=...`")),
        paths => {
            let paths = paths.iter().map(String::as_str);
            Some(format!("write {}", one_of(paths)))
        }
    }
}

/// The fields of nodes called `field`: `trainer.epochs` for `epochs`, `trainer.optimizer.lr` for `lr`; for
/// one that is a value of `let`, its name there. Each once.
pub(super) fn paths_to(recipe: &Recipe, field: &str) -> Vec<String> {
    let text = recipe.text.resolved();
    let paths = recipe.nodes.iter().filter_map(|node| {
        let schema = (node.kind?.parameters)();
        let root = schema.as_value();
        let is_there = properties(root)?.contains_key(field);
        let path = match is_there {
            true => Some(field.to_owned()),
            false => suggest::within(&Reader { root }, text, &node.value, root, field),
        };
        Some(settable(recipe, format!("{}.{}", node.name, path?)))
    });
    let mut each: Vec<String> = Vec::new();
    for path in paths {
        if !each.contains(&path) {
            each.push(path);
        }
    }
    each
}
