//! Reads a recipe: the RON reader and serde decide what is valid, `syntax` and `validate` explain.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rsflow_base::shown::Shown as _;
use serde::de::DeserializeOwned;
use serde_json::{Value as Schema, json};

use super::formats::foreign_format;
use super::lets::{self, expanded};
use super::syntax::{syntax, unexplained};
use super::validate::Validator;
use crate::fields::{self, Shape, Token, Value};
use crate::node::{Catalogue, Kind, Node};
use crate::problem::{Problem, Problems};
use crate::text::{Text, offset_of};
use crate::words::did_you_mean;

/// A recipe as written. Its nodes are parsed, but not connected yet: see [`crate::Plan`].
pub struct Recipe {
    pub(crate) text: Text,
    pub(crate) seed: u64,
    pub(crate) cpu_workers: Option<usize>,
    pub(crate) nodes: Vec<Written>,
    pub(crate) catalogue: Catalogue,
    /// Errors of single nodes, kept for the plan so that all are reported together.
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// A node as written.
pub(crate) struct Written {
    pub name: String,
    pub name_span: Range<usize>,
    /// `Kind(...)`.
    pub value: Value,
    pub kind: Option<&'static Kind>,
    /// `None` if it could not be read.
    pub node: Option<Arc<dyn Node>>,
    /// Its inputs; of a node that could not be read, those that were recognized.
    pub inputs: Vec<Reference>,
}

/// An input as written.
pub(crate) struct Reference {
    /// `None` where the kind is not known.
    pub port: Option<&'static str>,
    /// `node` or `node.port`.
    pub name: String,
    pub span: Range<usize>,
}

/// The fields of a recipe beside its nodes.
pub(super) const SETTINGS: &[&str] = &["seed", "cpu_workers"];

/// `cpu_workers: Auto` means the same as leaving it out.
const AUTO: &str = "Auto";

/// Upper bound that catches typos.
const MAX_WORKERS: u32 = 1024;

/// The JSON schema of a recipe.
fn schema() -> Schema {
    json!({
        "type": "object",
        "properties": {
            "seed": { "type": "integer", "format": "uint64", "minimum": 0 },
            "cpu_workers": { "type": ["integer", "null"], "format": "uint", "minimum": 1, "maximum": MAX_WORKERS, "default": AUTO },
            "let": { "type": "object", "additionalProperties": {} },
            "nodes": { "type": "object", "additionalProperties": { "type": "node" } },
        },
        "required": ["nodes"],
        "additionalProperties": false,
    })
}

/// `text` is not expanded yet.
pub(super) fn read(text: Text, catalogue: Catalogue) -> Result<Recipe, Problems> {
    let expanded = expanded(text, catalogue);
    let (text, warnings) = (expanded.text, expanded.warnings);
    let whole = text.resolved();
    let contents = Contents::read(&text, catalogue, expanded.problems);
    // Of a sound recipe every part has been read by then. The whole text is read where that is not so:
    // to explain its syntax.
    if !contents.as_ref().is_ok_and(|contents| contents.is_sound)
        && let Err(error) = fields::ron(whole)
    {
        let problem = foreign_format(text.path(), whole)
            .unwrap_or_else(|| syntax(whole, &error, "the recipe", catalogue));
        return Err(Problems::new(text, vec![problem]));
    }
    match contents {
        Ok(contents) => Ok(Recipe {
            text,
            seed: contents.seed,
            cpu_workers: contents.cpu_workers,
            nodes: contents.nodes,
            catalogue,
            problems: contents.problems,
            warnings,
        }),
        Err(problems) => Err(Problems::new(text, problems)),
    }
}

/// What a text says, if it is valid RON.
struct Contents {
    seed: u64,
    cpu_workers: Option<usize>,
    nodes: Vec<Written>,
    problems: Vec<Problem>,
    /// Whether all of the text is known to be valid.
    is_sound: bool,
}

impl Contents {
    /// Without a list of nodes, the problems.
    fn read(text: &Text, catalogue: Catalogue, known: Vec<Problem>) -> Result<Self, Vec<Problem>> {
        let whole = text.resolved();
        let Some(shape) = fields::shape(whole) else {
            let problem = Problem::new("a recipe is written `(nodes: {...})`", 0..0);
            return Err(vec![problem]);
        };
        if !matches!(shape.shape, Shape::Fields(_) | Shape::Tuple(_))
            && let Some(problem) =
                foreign_format(text.path(), whole).or_else(|| in_braces(whole, &shape))
        {
            return Err(vec![problem]);
        }
        let schema = schema();
        let mut validator = Validator::new(text, &schema, None);
        validator.object(&shape, &schema, "the recipe");
        let mut problems = known;
        problems.extend(validator.found);
        if !matches!(&whole[shape.head.clone()], "" | "Recipe") {
            let problem = Problem::new(
                "a recipe has no name in front of its `(`",
                shape.head.clone(),
            );
            problems.push(problem.help("remove it"));
        }
        if !matches!(shape.shape, Shape::Fields(_) | Shape::Tuple(_)) {
            let help = "a recipe is written `(nodes: {...})`";
            problems = problems
                .into_iter()
                .map(|problem| problem.help(help))
                .collect();
        }
        let seed = setting(whole, &shape, "seed");
        // `None` within for all of the machine's cores.
        let cpu_workers: Option<Option<usize>> = setting(whole, &shape, "cpu_workers");
        // Attributes, and comments that are not closed, are in nothing that is read below.
        // Nor are the values of `let`.
        let outside = whole.trim_start().starts_with('#')
            || whole[shape.span.end..].contains("/*")
            || shape.at(whole, "let").is_some();
        let Some(Value {
            shape: Shape::Map(entries),
            span: all,
            ..
        }) = shape.take(whole, "nodes")
        else {
            return Err(problems);
        };
        let mut nodes: Vec<Written> = Vec::new();
        let mut first_of: HashMap<String, usize> = HashMap::new();
        for (key, value) in entries {
            let written = &whole[key.span.clone()];
            let name = match fields::options().from_str::<String>(written) {
                Ok(name) => name,
                Err(_) => {
                    let problem = Problem::new("a node's name must be in quotes", key.span.clone());
                    problems.push(match key.shape {
                        Shape::Word => problem.help(format!("write `\"{written}\"`")),
                        _ => problem,
                    });
                    written.to_owned()
                }
            };
            let (name_span, _) = lets::key(whole, &key);
            if let Some(&first) = first_of.get(&name) {
                let first: &Written = &nodes[first];
                problems.push(
                    Problem::new(format!("two nodes are named `{name}`"), name_span.clone())
                        .label("the second one")
                        .also(first.name_span.clone(), "the first one")
                        .help("give each node a name of its own"),
                );
            }
            if name.is_empty() || name.contains(['.', '=', '/', '\\']) || name.trim() != name {
                let message = match name.as_str() {
                    "" => "a node needs a name".to_owned(),
                    _ => format!("`{}` cannot be a node's name", name.shown()),
                };
                problems.push(
                    Problem::new(message, name_span.clone())
                        .help("use letters, digits, `_` and `-`"),
                );
            }
            first_of.entry(name.clone()).or_insert(nodes.len());
            let read = read_node(text, &value, catalogue);
            problems.extend(read.problems);
            nodes.push(Written {
                name,
                name_span,
                value,
                kind: read.kind,
                node: read.node,
                inputs: read.inputs,
            });
        }
        if nodes.is_empty() {
            problems.push(
                Problem::new("the recipe has no nodes", all)
                    .help("`rsflow nodes` lists the kinds of node that there are"),
            );
        }
        Ok(Contents {
            is_sound: !outside && problems.is_empty() && seed.is_some() && cpu_workers.is_some(),
            seed: seed.unwrap_or_default(),
            cpu_workers: cpu_workers.flatten(),
            nodes,
            problems,
        })
    }
}

/// A recipe in `{}`, as JSON is, or the nodes alone.
fn in_braces(whole: &str, shape: &Value) -> Option<Problem> {
    let Shape::Map(entries) = &shape.shape else {
        return None;
    };
    let open = shape.span.start..shape.span.start + 1;
    let is_field = |key: &Value| {
        let name = whole[key.span.clone()].trim_matches('"');
        matches!(name, "nodes" | "let") || SETTINGS.contains(&name)
    };
    Some(match entries.iter().any(|(key, _)| is_field(key)) {
        true => Problem::new("a recipe is in parentheses, not in braces", open)
            .help("write `(nodes: {...})`, with names of fields without quotes"),
        false => Problem::new("the nodes must be in the field `nodes`", open)
            .help("write `(nodes: {...})`"),
    })
}

/// The default if it is missing, `None` if it is invalid.
fn setting<T: DeserializeOwned + Default>(whole: &str, shape: &Value, name: &str) -> Option<T> {
    let Some(value) = shape.at(whole, name) else {
        return Some(T::default());
    };
    fields::options().from_str(&whole[value.span.clone()]).ok()
}

struct ReadNode {
    kind: Option<&'static Kind>,
    node: Option<Arc<dyn Node>>,
    inputs: Vec<Reference>,
    problems: Vec<Problem>,
}

fn read_node(text: &Text, value: &Value, catalogue: Catalogue) -> ReadNode {
    let whole = text.resolved();
    let mut read = ReadNode {
        kind: None,
        node: None,
        inputs: Vec::new(),
        problems: Vec::new(),
    };
    let name = &whole[value.head.clone()];
    let Some(kind) = catalogue.find(name) else {
        // A name that is not in `let` is reported there.
        if is_name(whole, value) {
            return read;
        }
        read.problems.push(if name.is_empty() {
            let problem = Problem::new("expected a kind of node", value.span.clone())
                .label("such as `ImageFolder(...)`");
            problem.help(match value.shape {
                Shape::Map(_) => "a node is written `KIND(FIELD: VALUE)`, without braces",
                _ => "`rsflow nodes` lists them",
            })
        } else {
            let message = format!("there is no kind of node named `{name}`");
            Problem::new(message, value.head.clone())
                .label("unknown kind")
                .help(
                    did_you_mean(name, catalogue.names())
                        .unwrap_or_else(|| "`rsflow nodes` lists them".to_owned()),
                )
        });
        let values = value.fields().iter().map(|field| &field.value);
        read.inputs = values
            .filter_map(|value| reference(whole, None, value))
            .collect();
        return read;
    };
    read.kind = Some(kind);
    // serde knows the kind by its present name only; fields without a name in front are any kind's.
    let body_start = match name == kind.name {
        true => value.span.start,
        false => value.head.end,
    };
    let body = &whole[body_start..value.span.end];
    match (kind.parse)(body) {
        Ok(node) => {
            let inputs = node.inputs().into_iter();
            read.inputs = inputs
                .map(|(port, input)| Reference {
                    port: Some(port),
                    name: input.reference.clone(),
                    span: input
                        .span_in(whole)
                        .or_else(|| Some(value.at(whole, port)?.span.clone()))
                        .unwrap_or_else(|| value.span.clone()),
                })
                .collect();
            read.node = Some(node);
        }
        Err(error) => {
            let ports = kind.inputs.iter().map(|port| port.name);
            read.inputs = ports
                .filter_map(|port| reference(whole, Some(port), value.at(whole, port)?))
                .collect();
            let schema = (kind.parameters)();
            let schema = schema.as_value();
            let mut validator = Validator::new(text, schema, Some(kind));
            validator.object(value, schema, kind.name);
            read.problems = validator.found;
            if read.problems.is_empty() && !has_name(&whole[value.span.clone()]) {
                let at = body_start + offset_of(body, error.span.end.line, error.span.end.col);
                read.problems.push(unexplained(whole, at, &error));
            }
        }
    }
    read
}

/// Whether it is a `$name` that `let` has no value for.
pub(super) fn is_name(whole: &str, value: &Value) -> bool {
    matches!(value.shape, Shape::Word) && whole[value.span.clone()].starts_with('$')
}

/// Whether a text has a `$name` outside of quotes.
pub(super) fn has_name(text: &str) -> bool {
    let tokens = fields::tokens(text);
    let mut words = tokens.iter().filter(|(token, _)| *token == Token::Word);
    words.any(|(_, span)| text[span.clone()].starts_with('$'))
}

/// A name in quotes.
fn reference(whole: &str, port: Option<&'static str>, value: &Value) -> Option<Reference> {
    let name: String = fields::options()
        .from_str(&whole[value.span.clone()])
        .ok()?;
    let inner = value.span.start + 1..value.span.end.saturating_sub(1);
    let plain = whole.get(inner.clone()) == Some(&name);
    let span = if plain { inner } else { value.span.clone() };
    Some(Reference { port, name, span })
}
