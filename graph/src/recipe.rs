//! Reading a recipe: what was written, with the place of everything.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use ron::error::{Error as RonError, SpannedError};
use ron::value::RawValue;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::fields;
use crate::node::{Catalogue, Kind, Node};
use crate::problem::{Problem, Problems, did_you_mean, listed};
use crate::text::{Text, offset_of};

/// A recipe as written. Its nodes are read, but nothing connects them yet: that is [`crate::Plan`].
pub struct Recipe {
    pub(crate) text: Text,
    pub(crate) seed: u64,
    pub(crate) cpu_workers: Option<usize>,
    pub(crate) nodes: Vec<Written>,
    pub(crate) catalogue: Catalogue,
    /// What is wrong with single nodes. Kept until the plan, so that all is reported in one go.
    pub(crate) problems: Vec<Problem>,
}

/// A node as written.
pub(crate) struct Written {
    pub name: String,
    pub name_span: Range<usize>,
    /// `Kind(...)`.
    pub span: Range<usize>,
    pub kind: Option<&'static Kind>,
    /// `None` if it could not be read.
    pub node: Option<Arc<dyn Node>>,
}

impl Recipe {
    /// Reads `text` with `overrides` (`node.field=value`, or `field=value` for the recipe's own
    /// fields) applied. An error is one that leaves no list of nodes to look at; what is wrong
    /// with a single node is reported by [`crate::Plan::new`].
    pub fn parse(text: Text, catalogue: Catalogue, overrides: &[String]) -> Result<Self, Problems> {
        let mut recipe = read(text, catalogue)?;
        for argument in overrides {
            recipe = with_override(recipe, argument)?;
        }
        Ok(recipe)
    }

    /// The text with overrides applied.
    pub fn text(&self) -> &Text {
        &self.text
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Recipe")]
struct Document<'a> {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    cpu_workers: Option<usize>,
    #[serde(borrow)]
    nodes: Nodes<'a>,
}

/// The fields of a recipe beside its nodes.
pub(crate) const SETTINGS: &[&str] = &["seed", "cpu_workers"];

/// Every entry of the map, also those with equal names.
struct Nodes<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Nodes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Nodes<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map of node names to nodes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    entries.push((name, map.next_value()?));
                }
                Ok(Nodes(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A string that borrows where it can.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a node's name in quotes")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

fn read(text: Text, catalogue: Catalogue) -> Result<Recipe, Problems> {
    let whole = text.resolved();
    let document: Document = match fields::options().from_str(whole) {
        Ok(document) => document,
        Err(error) => {
            let problem = explain(whole, 0, None, error);
            return Err(Problems::new(text, vec![problem]));
        }
    };
    let mut problems = Vec::new();
    let mut nodes: Vec<Written> = Vec::new();
    for (name, raw) in document.nodes.0 {
        let span = fields::trimmed_span(whole, raw.get_ron());
        let name_span = match &name {
            Cow::Borrowed(name) => fields::trimmed_span(whole, name),
            Cow::Owned(_) => span.clone(),
        };
        if let Some(first) = nodes.iter().find(|node| node.name == name) {
            problems.push(
                Problem::new(format!("two nodes are named `{name}`"), name_span.clone())
                    .also(first.name_span.clone(), "the first one")
                    .help("give each node a name of its own"),
            );
        }
        if name.is_empty() || name.contains(['.', '=', '/', '\\']) || name.trim() != name {
            problems.push(
                Problem::new(
                    format!("`{name}` cannot be a node's name"),
                    name_span.clone(),
                )
                .help("use letters, digits, `_` and `-`"),
            );
        }
        let body = &whole[span.clone()];
        let (kind, node) = match read_node(body, span.start, catalogue) {
            Ok((kind, node)) => (Some(kind), Some(node)),
            Err((kind, problem)) => {
                problems.push(*problem);
                (kind, None)
            }
        };
        nodes.push(Written {
            name: name.into_owned(),
            name_span,
            span,
            kind,
            node,
        });
    }
    if nodes.is_empty() {
        let span = fields::value_span(whole, "nodes").unwrap_or(0..whole.len());
        problems.push(
            Problem::new("the recipe has no nodes", span)
                .help("`rsflow nodes` lists the kinds of node that there are"),
        );
    }
    let (seed, cpu_workers) = (document.seed, document.cpu_workers);
    if cpu_workers == Some(0) {
        let span = fields::value_span(whole, "cpu_workers").unwrap_or(0..0);
        problems.push(
            Problem::new("`cpu_workers` must be at least 1", span)
                .help("leave it out for one worker a core"),
        );
    }
    Ok(Recipe {
        seed,
        cpu_workers,
        nodes,
        catalogue,
        problems,
        text,
    })
}

type ReadNode = Result<(&'static Kind, Arc<dyn Node>), (Option<&'static Kind>, Box<Problem>)>;

fn read_node(body: &str, base: usize, catalogue: Catalogue) -> ReadNode {
    let kind_span = fields::kind_span(body);
    let name = &body[kind_span.clone()];
    let span = base + kind_span.start..base + kind_span.end;
    if name.is_empty() {
        let span = base..base + body.chars().next().map_or(0, char::len_utf8);
        let problem = Problem::new("expected a kind of node", span)
            .label("such as `ImageFolder(...)`")
            .help("`rsflow nodes` lists them");
        return Err((None, Box::new(problem)));
    }
    let Some(kind) = catalogue.find(name) else {
        let problem = Problem::new(format!("there is no kind of node named `{name}`"), span)
            .label("unknown kind")
            .help(
                did_you_mean(name, catalogue.names())
                    .unwrap_or_else(|| "`rsflow nodes` lists them".to_owned()),
            );
        return Err((None, Box::new(problem)));
    };
    match (kind.parse)(body) {
        Ok(node) => Ok((kind, node)),
        Err(error) => Err((Some(kind), Box::new(explain(body, base, Some(kind), error)))),
    }
}

/// Turns an error of the RON reader into a problem. Everything is computed from the error's data,
/// nothing from its words.
fn explain(text: &str, base: usize, kind: Option<&Kind>, error: SpannedError) -> Problem {
    let start = offset_of(text, error.span.start.line, error.span.start.col);
    let end = offset_of(text, error.span.end.line, error.span.end.col);
    let found_at = |found: &str| {
        // The span ends behind the name that was not expected.
        let end = end.min(text.len());
        let start = text[..end].rfind(found).unwrap_or(start);
        base + start..base + start + found.len()
    };
    let one_of = |expected: &'static [&'static str]| match expected {
        [] => "nothing may stand here".to_owned(),
        expected => format!("expected {}", listed(expected.iter().copied())),
    };
    let kind_name = kind.map_or("Recipe", |kind| kind.name);
    match error.code {
        RonError::NoSuchStructField {
            expected,
            found,
            outer,
        } => {
            let owner = outer.unwrap_or_else(|| kind_name.to_owned());
            Problem::new(
                format!("`{owner}` has no field `{found}`"),
                found_at(&found),
            )
            .label("unknown field")
            .help(
                did_you_mean(&found, expected.iter().copied()).unwrap_or_else(|| one_of(expected)),
            )
        }
        RonError::NoSuchEnumVariant {
            expected,
            found,
            outer,
        } => {
            let what = outer.map_or_else(String::new, |outer| format!("{outer} "));
            Problem::new(format!("there is no {what}`{found}`"), found_at(&found))
                .label(one_of(expected))
                .maybe_help(did_you_mean(&found, expected.iter().copied()))
        }
        RonError::MissingStructField { field, outer } => {
            // The error stands at the closing parenthesis; the name in front of the opening one
            // is what a reader looks for.
            let owner = outer.unwrap_or_else(|| kind_name.to_owned());
            let before = &text[..end.min(text.len())];
            let at = before.rfind(&owner).unwrap_or(0);
            let length = if before[at..].starts_with(&owner) {
                owner.len()
            } else {
                1
            };
            let input = kind.and_then(|kind| kind.inputs.iter().find(|port| port.name == field));
            let help = match input {
                Some(port) => format!(
                    "add `{field}: \"NODE\"`, a node that yields {}",
                    port.carries
                ),
                None if kind.is_some() => format!("`rsflow nodes {kind_name}` shows all fields"),
                None => format!("add `{field}: ...`"),
            };
            Problem::new(
                format!("`{owner}` needs the field `{field}`"),
                base + at..base + at + length,
            )
            .label(format!("`{field}` is missing"))
            .help(help)
        }
        RonError::DuplicateStructField { field, .. } => Problem::new(
            format!("the field `{field}` stands here twice"),
            found_at(field),
        )
        .label("the second one"),
        RonError::InvalidValueForType { expected, found } => {
            let (start, end) = value_around(text, start, end);
            Problem::new(
                format!("expected {expected}, found {found}"),
                base + start..base + end,
            )
            .label(format!("expected {expected}"))
        }
        code => {
            let (start, end) = value_around(text, start, end);
            let words = code.to_string();
            let mut characters = words.chars();
            let message: String = characters
                .next()
                .map(|first| first.to_lowercase().chain(characters).collect())
                .unwrap_or_default();
            Problem::new(message, base + start..base + end)
        }
    }
}

/// Widens an error's place, which may be a single position behind a value, to something that can
/// be underlined.
fn value_around(text: &str, start: usize, end: usize) -> (usize, usize) {
    let end = end.min(text.len());
    let start = start.min(end);
    if text[start..end].trim().is_empty() {
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '"');
        let rest = &text[start..];
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let length = length.max(rest.chars().next().map_or(0, char::len_utf8));
        return (start, start + length);
    }
    let trimmed = text[start..end].trim_start();
    let start = end - trimmed.len();
    (start, start + trimmed.trim_end().len())
}

fn with_override(recipe: Recipe, argument: &str) -> Result<Recipe, Problems> {
    let wrong = |message: String, span: Range<usize>, help: String| {
        let text = Text::new("command line", argument);
        Problems::new(text, vec![Problem::new(message, span).help(help)])
    };
    let Some((target, value)) = argument.split_once('=') else {
        return Err(wrong(
            "an override needs a value".to_owned(),
            0..argument.len(),
            "write `--set node.field=value`".to_owned(),
        ));
    };
    let (target, value) = (target.trim(), value.trim());
    let whole = recipe.text.resolved();
    // `body`: the text that the field belongs to.
    let (body, path) = match target.split_once('.') {
        None => {
            if !SETTINGS.contains(&target) {
                return Err(wrong(
                    format!("the recipe has no field `{target}`"),
                    0..target.len(),
                    did_you_mean(target, SETTINGS.iter().copied())
                        .unwrap_or_else(|| "a node's field is written `node.field`".to_owned()),
                ));
            }
            (0..whole.len(), target)
        }
        Some((name, path)) => {
            let Some(node) = recipe.nodes.iter().find(|node| node.name == name) else {
                let names = || recipe.nodes.iter().map(|node| node.name.as_str());
                return Err(wrong(
                    format!("there is no node `{name}`"),
                    0..name.len(),
                    did_you_mean(name, names())
                        .unwrap_or_else(|| format!("the recipe has {}", listed(names()))),
                ));
            };
            (node.span.clone(), path)
        }
    };
    let Some((range, before, after)) = splice(&whole[body.clone()], path) else {
        return Err(wrong(
            format!("cannot set `{target}`"),
            0..target.len(),
            "the value before the last dot has no fields in the recipe; set it whole".to_owned(),
        ));
    };
    let range = body.start + range.start..body.start + range.end;
    let catalogue = recipe.catalogue;
    let attempt = |value: &str| {
        let text = recipe
            .text
            .spliced(range.clone(), &before, value, &after, argument);
        read(text, catalogue)
    };
    // The value is RON; what is not, as a bare word or a path, is meant as a string.
    let quoted = format!("{value:?}");
    let count = |read: &Result<Recipe, Problems>| match read {
        Ok(recipe) => recipe.problems.len(),
        Err(problems) => usize::MAX - 1 + usize::from(problems.list().is_empty()),
    };
    let as_it_is = attempt(value);
    let as_string = attempt(&quoted);
    if count(&as_it_is) <= count(&as_string) {
        as_it_is
    } else {
        as_string
    }
}

/// Where in `Kind(...)` the value of `path` is to be written, and what must stand around it: in
/// place of the old value, or before the closing parenthesis.
fn splice(body: &str, path: &str) -> Option<(Range<usize>, String, String)> {
    if let Some(span) = fields::value_span(body, path) {
        return Some((span, String::new(), String::new()));
    }
    let (parent, field) = match path.rsplit_once('.') {
        Some((parent, field)) => (fields::value_span(body, parent)?, field),
        None => (0..body.len(), path),
    };
    let owner = &body[parent.clone()];
    let entries = fields::entries(owner);
    let Some(close) = owner.rfind(')') else {
        // `Cosine` has no parentheses to write into: make them.
        let at = parent.end;
        return Some((at..at, format!("({field}: "), ")".to_owned()));
    };
    let close = parent.start + close;
    // The last value may be followed by a comma, white space and comments.
    let comma = match entries.as_deref() {
        None | Some([]) => "",
        Some([.., (_, last)]) => {
            let rest = owner[last.end..].trim_start();
            if rest.starts_with(',') { " " } else { ", " }
        }
    };
    // A line of its own: the line above may end in a comment.
    let newline = if body[..close]
        .lines()
        .last()
        .is_some_and(|line| line.contains("//"))
    {
        "\n"
    } else {
        ""
    };
    Some((
        close..close,
        format!("{comma}{newline}{field}: "),
        String::new(),
    ))
}
