//! Values that serde refuses, looked at again against the JSON schema of what belongs there: all
//! that is wrong with them, each at its place.

use std::ops::Range;

use schemars::Schema;

use super::syntax::{is_number, unpaired};
use crate::fields::{self, Field, Shape, Value};
use crate::node::Kind;
use crate::problem::{Problem, did_you_mean, listed, nearest, one_of};
use crate::text::Text;

/// Looks for what a schema does not allow. It never judges what serde accepts; see the module.
pub(super) struct Look<'a> {
    text: &'a Text,
    /// Where the definitions are.
    root: &'a Schema,
    kind: Option<&'static Kind>,
    pub found: Vec<Problem>,
}

impl<'a> Look<'a> {
    pub fn new(text: &'a Text, root: &'a Schema, kind: Option<&'static Kind>) -> Self {
        Look {
            text,
            root,
            kind,
            found: Vec::new(),
        }
    }

    fn word(&self, span: &Range<usize>) -> &'a str {
        &self.text.resolved()[span.clone()]
    }

    /// Follows references and options; tells whether the value may be left empty.
    fn resolved(&self, mut schema: &'a Schema) -> (&'a Schema, bool) {
        let mut optional = false;
        loop {
            let reference = schema.get("$ref").and_then(|path| path.as_str());
            let target = reference
                .and_then(|path| self.root.pointer(path.strip_prefix('#')?))
                .and_then(|target| target.try_into().ok());
            let inner = || {
                let any = schema.get("anyOf")?.as_array()?.iter();
                let any = any.filter_map(|one| <&Schema>::try_from(one).ok());
                let (null, other): (Vec<_>, Vec<_>) = any.partition(|one| type_of(one) == "null");
                match (null.as_slice(), other.as_slice()) {
                    ([_], [other]) => Some(*other),
                    _ => None,
                }
            };
            if let Some(target) = target {
                schema = target;
            } else if let Some(inner) = inner() {
                optional = true;
                schema = inner;
            } else {
                let types = schema.get("type").and_then(|types| types.as_array());
                let null = types.is_some_and(|types| types.iter().any(|one| one == "null"));
                return (schema, optional || null);
            }
        }
    }

    /// `what` names the value in messages.
    pub fn value(&mut self, mut value: &Value, schema: &'a Schema, what: &str) {
        let (schema, optional) = self.resolved(schema);
        let head = self.word(&value.head);
        match &value.shape {
            Shape::Word if optional && head == "None" => return,
            Shape::Tuple(items) if optional && head == "Some" => {
                if let [inner] = items.as_slice() {
                    value = inner;
                }
            }
            _ => {}
        }
        let choices = choices(schema);
        if !choices.is_empty() {
            return self.choice(value, &choices, what);
        }
        let word = self.word(&value.span);
        let sound = match (type_of(schema), &value.shape) {
            ("integer", Shape::Word) => match integer(word) {
                Some(number) => return self.range(value, number, schema, what),
                None => default_word(schema) == Some(word),
            },
            ("number", Shape::Word) => float(word).is_some(),
            ("boolean", Shape::Word) => matches!(word, "true" | "false"),
            ("string", Shape::Quoted) => true,
            ("array", Shape::List(items)) if bounds(schema).is_none() => {
                return self.items(items, schema, what);
            }
            ("array", Shape::Tuple(items)) if bounds(schema) == Some(items.len()) => {
                return self.items(items, schema, what);
            }
            ("object", _) => return self.object(value, schema, what),
            ("integer" | "number" | "boolean" | "string" | "array", _) => false,
            _ => true,
        };
        if !sound {
            self.wrong(value, schema, what);
        }
    }

    fn items(&mut self, items: &[Value], schema: &'a Schema, what: &str) {
        for (position, item) in items.iter().enumerate() {
            let fixed = schema
                .get("prefixItems")
                .and_then(|items| items.get(position));
            let items = fixed.or_else(|| schema.get("items"));
            if let Some(schema) = items.and_then(|items| items.try_into().ok()) {
                self.value(item, schema, &format!("each value of {what}"));
            }
        }
    }

    fn range(&mut self, value: &Value, number: i128, schema: &Schema, what: &str) {
        let minimum = schema.get("minimum").and_then(|least| least.as_i64());
        let (message, label) = match (minimum.map(i128::from), largest(schema)) {
            (Some(least), _) if number < least => {
                (format!("{what} must be at least {least}"), "too small")
            }
            (_, Some(most)) if number > most => {
                (format!("{what} must be at most {most}"), "too large")
            }
            _ => return,
        };
        let problem = Problem::new(message, value.span.clone());
        self.found.push(problem.label(label));
    }

    /// The value is of another type.
    fn wrong(&mut self, value: &Value, schema: &Schema, what: &str) {
        let word = self.word(&value.span);
        let unquoted = word.trim_matches('"');
        let help = match (type_of(schema), &value.shape) {
            ("integer", Shape::Quoted) if integer(unquoted).is_some() => {
                Some(format!("write `{unquoted}`, without quotes"))
            }
            ("number", Shape::Quoted) if float(unquoted).is_some() => {
                Some(format!("write `{unquoted}`, without quotes"))
            }
            ("boolean", Shape::Quoted) if matches!(unquoted, "true" | "false") => {
                Some(format!("write `{unquoted}`, without quotes"))
            }
            ("array", Shape::Quoted) if bounds(schema).is_none() => {
                self.mended(value, &[("", "]"), ("[", "]")])
            }
            ("array" | "object", Shape::Quoted) => self.mended(value, &[("", ")"), ("(", ")")]),
            ("string", Shape::Word) => Some(format!("write `\"{word}\"`")),
            ("array", Shape::Word) if bounds(schema).is_none() => Some(format!("write `[{word}]`")),
            ("array", Shape::Tuple(items)) if bounds(schema).is_none() && !items.is_empty() => {
                let [first, .., last] = [&items[0], &items[items.len() - 1]];
                let inside = first.span.start..last.span.end;
                Some(format!("write `[{}]`", self.word(&inside)))
            }
            ("array", Shape::List(items)) if bounds(schema) == Some(items.len()) => {
                let inside = value.span.start + 1..value.span.end - 1;
                Some(format!("write `({})`", self.word(&inside)))
            }
            _ => None,
        };
        let message = format!("{what} must be {}", describe(schema));
        let problem = Problem::new(message, value.span.clone());
        self.found
            .push(problem.label(self.found(value)).maybe_help(help));
    }

    /// What was written, in words.
    fn found(&self, value: &Value) -> String {
        let word = self.word(&value.span);
        match &value.shape {
            Shape::Word if integer(word).is_some() => "this is a whole number".to_owned(),
            Shape::Word if float(word).is_some() => "this is a fractional number".to_owned(),
            Shape::Word => "this is a word without quotes".to_owned(),
            Shape::Quoted => match self.text.put_into_quotes(&value.span) {
                Some(typed) => not_ron(typed),
                None => "this is text in quotes".to_owned(),
            },
            Shape::List(_) => "this is a list".to_owned(),
            Shape::Tuple(items) => match items.len() {
                0 | 1 => format!("this is {} in parentheses", counted(items.len(), "value")),
                _ => format!("these are {} in parentheses", counted(items.len(), "value")),
            },
            Shape::Fields(_) => "these are fields in parentheses".to_owned(),
            Shape::Map(_) => "this is a map".to_owned(),
        }
    }

    /// The way out where an override was taken as text for want of these brackets.
    fn mended(&self, value: &Value, brackets: &[(&str, &str)]) -> Option<String> {
        let typed = self.text.put_into_quotes(&value.span)?;
        let written = brackets.iter();
        let mut written = written.map(|(open, close)| format!("{open}{typed}{close}"));
        let sound = written.find(|written| fields::ron(written).is_ok())?;
        Some(format!("write `{sound}`"))
    }

    fn choice(&mut self, value: &Value, choices: &[(&'a str, Option<&'a Schema>)], what: &str) {
        let names = || choices.iter().map(|(name, _)| *name);
        let head = self.word(&value.head);
        let chosen = choices.iter().find(|(name, _)| *name == head);
        let problem = match (chosen, &value.shape) {
            (Some((name, Some(inner))), shape) => {
                let (inner, _) = self.resolved(inner);
                match shape {
                    Shape::Tuple(items) if type_of(inner) != "object" => match items.as_slice() {
                        [item] => return self.value(item, inner, &format!("`{name}`")),
                        _ => return self.wrong(value, inner, &format!("`{name}`")),
                    },
                    _ => return self.object(value, inner, name),
                }
            }
            (Some((_, None)), Shape::Word) => return,
            (Some((name, None)), _) => Problem::new(
                format!("`{name}` has no fields"),
                value.head.end..value.span.end,
            )
            .help(format!("write `{name}` alone")),
            (None, _) if head.is_empty() || is_number(head) => {
                let unquoted = self.word(&value.span).trim_matches('"');
                let meant = names().find(|name| *name == unquoted);
                let meant = meant.map(|name| format!("write `{name}`, without quotes"));
                Problem::new(
                    format!("{what} must be {}", one_of(names())),
                    value.span.clone(),
                )
                .label(self.found(value))
                .maybe_help(meant.or_else(|| self.mended(value, &[("", ")")])))
            }
            (None, _) => Problem::new(format!("{what} cannot be `{head}`"), value.head.clone())
                .label(format!("expected {}", one_of(names())))
                .maybe_help(did_you_mean(head, names())),
        };
        self.found.push(problem);
    }

    /// `owner` is what has the fields, if it has no name in front of its parentheses.
    pub fn object(&mut self, value: &Value, schema: &'a Schema, owner: &str) {
        let properties = schema
            .get("properties")
            .and_then(|fields| fields.as_object());
        let Some(properties) = properties else {
            if !matches!(value.shape, Shape::Map(_)) {
                self.wrong(value, schema, owner);
            }
            return;
        };
        let required = schema.get("required").and_then(|names| names.as_array());
        let required = required.into_iter().flatten();
        let required: Vec<&str> = required.filter_map(|name| name.as_str()).collect();
        let fields = match &value.shape {
            Shape::Fields(fields) => fields.as_slice(),
            Shape::Word if !value.head.is_empty() && !is_number(self.word(&value.head)) => &[],
            Shape::Tuple(items) if items.is_empty() => &[],
            Shape::Tuple(_) if !value.head.is_empty() => {
                let head = self.word(&value.head);
                let first = required.first().copied().unwrap_or("field");
                let message = format!("the values of `{head}` need their names");
                let problem = Problem::new(message, value.head.end..value.span.end);
                let help = format!("write `{head}({first}: ...)`");
                self.found.push(problem.label(self.found(value)).help(help));
                return;
            }
            _ => return self.wrong(value, schema, owner),
        };
        let (name, place) = match self.word(&value.head) {
            "" => (owner.to_owned(), value.span.start..value.span.start + 1),
            head => (format!("`{head}`"), value.head.clone()),
        };
        let open = schema
            .get("additionalProperties")
            .and_then(|more| more.as_bool())
            != Some(false);
        let mut seen: Vec<&Field> = Vec::new();
        // Fields whose names were only misspelt.
        let mut meant: Vec<&str> = Vec::new();
        for field in fields {
            let written = self.word(&field.name);
            let inner = properties
                .get(written)
                .and_then(|inner| inner.try_into().ok());
            if let Some(first) = seen.iter().find(|first| self.word(&first.name) == written) {
                let message = format!("field `{written}` is given twice");
                self.found.push(
                    Problem::new(message, field.name.clone())
                        .label("the second one")
                        .also(first.name.clone(), "the first one")
                        .help("remove one of them"),
                );
            }
            seen.push(field);
            if let Some(inner) = inner {
                self.value(&field.value, inner, &format!("`{written}`"));
            } else if !open {
                let known = || properties.keys().map(String::as_str);
                let message = format!("{name} has no field `{written}`");
                let others = match properties.len() {
                    0 => "it has none".to_owned(),
                    _ => format!("its fields are {}", listed(known())),
                };
                let mut removed = self.kind.iter().flat_map(|kind| kind.removed);
                let problem = Problem::new(message, field.name.clone());
                self.found
                    .push(match removed.find(|(name, _)| *name == written) {
                        Some((_, help)) => problem.label("no longer a field").help(*help),
                        None => {
                            meant.extend(nearest(written, known()));
                            problem
                                .label("unknown field")
                                .help(did_you_mean(written, known()).unwrap_or(others))
                        }
                    });
            }
        }
        for field in required {
            if meant.contains(&field) || seen.iter().any(|seen| self.word(&seen.name) == field) {
                continue;
            }
            let mut inputs = self.kind.iter().flat_map(|kind| kind.inputs);
            let help = match inputs.find(|port| port.name == field) {
                Some(port) => format!(
                    "add `{field}: \"NODE\"`, the name of a node that yields {}",
                    port.carries
                ),
                None => {
                    let inner = properties
                        .get(field)
                        .and_then(|inner| inner.try_into().ok());
                    let what = inner.map(|inner| describe(self.resolved(inner).0));
                    format!("add `{field}: ...`, {}", what.unwrap_or_default())
                }
            };
            self.found.push(
                Problem::new(format!("{name} needs the field `{field}`"), place.clone())
                    .label(format!("`{field}` is missing"))
                    .help(help),
            );
        }
    }
}

/// What is said of an override that had to be put into quotes.
fn not_ron(typed: &str) -> String {
    let why = fields::ron(typed)
        .err()
        .and_then(|error| unpaired(typed, &error));
    let why = why.map_or_else(String::new, |problem| format!(": {}", problem.message));
    format!("not valid RON, treated as a string{why}")
}

/// The type that a schema asks for; of an optional value, that of what it may hold.
fn type_of(schema: &Schema) -> &str {
    let Some(types) = schema.get("type") else {
        return "";
    };
    let several = types.as_array().into_iter().flatten();
    let mut names = several.filter_map(|one| one.as_str());
    let other = names.find(|name| *name != "null");
    types.as_str().or(other).unwrap_or_default()
}

/// The variants of an enum, with what each holds.
fn choices(schema: &Schema) -> Vec<(&str, Option<&Schema>)> {
    let alternatives = schema.get("oneOf").and_then(|list| list.as_array());
    let alternatives = alternatives.into_iter().flatten();
    let alternatives = alternatives.filter_map(|one| <&Schema>::try_from(one).ok());
    let mut choices = Vec::new();
    for one in alternatives.clone().chain([schema]) {
        let several = one.get("enum").and_then(|list| list.as_array());
        let names = one
            .get("const")
            .into_iter()
            .chain(several.into_iter().flatten());
        choices.extend(names.filter_map(|name| Some((name.as_str()?, None))));
    }
    for one in alternatives {
        let held = one.get("properties").and_then(|held| held.as_object());
        let held = held.into_iter().flatten();
        choices.extend(
            held.filter_map(|(name, inner)| Some((name.as_str(), Some(inner.try_into().ok()?)))),
        );
    }
    choices
}

/// How many values an array has, where that is fixed: RON writes those in parentheses.
fn bounds(schema: &Schema) -> Option<usize> {
    let most = schema.get("maxItems")?.as_u64()?;
    usize::try_from(most).ok()
}

/// The largest whole number that fits.
fn largest(schema: &Schema) -> Option<i128> {
    if let Some(most) = schema.get("maximum").and_then(|most| most.as_u64()) {
        return Some(most.into());
    }
    Some(match schema.get("format")?.as_str()? {
        "int32" => i32::MAX.into(),
        "int64" | "int" => i64::MAX.into(),
        "uint32" => u32::MAX.into(),
        "uint64" | "uint" => u64::MAX.into(),
        _ => return None,
    })
}

/// The word that stands for the default of a number.
fn default_word(schema: &Schema) -> Option<&str> {
    schema.get("default")?.as_str()
}

/// What a schema asks for, in words.
fn describe(schema: &Schema) -> String {
    let choices = choices(schema);
    if !choices.is_empty() {
        return one_of(choices.iter().map(|(name, _)| *name));
    }
    let is_input = schema.get("format").is_some_and(|format| format == "input");
    match type_of(schema) {
        "integer" => match default_word(schema) {
            Some(word) => format!("a whole number or `{word}`"),
            None => "a whole number".to_owned(),
        },
        "number" => "a number".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "string" if is_input => "the name of a node, in quotes".to_owned(),
        "string" => "text in quotes".to_owned(),
        "array" => {
            let fixed = schema.get("prefixItems").and_then(|items| items.get(0));
            let items = fixed.or_else(|| schema.get("items"));
            let items = items.and_then(|items| items.try_into().ok());
            let noun = match items.map(type_of) {
                Some("integer") => "whole number",
                Some("number") => "number",
                _ => "value",
            };
            match bounds(schema) {
                Some(count) => format!("{} in `(...)`", counted(count, noun)),
                None => format!("a list of {noun}s in `[...]`"),
            }
        }
        "object" if schema.get("properties").is_none() => "a map in `{...}`".to_owned(),
        "object" => "fields in parentheses".to_owned(),
        _ => "a value".to_owned(),
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("one {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// A whole number as RON writes them.
pub(super) fn integer(word: &str) -> Option<i128> {
    let word = word.replace('_', "");
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(&word)),
    };
    let based = [("0x", 16), ("0o", 8), ("0b", 2)];
    let based = based
        .iter()
        .find_map(|(prefix, base)| Some((digits.strip_prefix(prefix)?, *base)));
    let (digits, base) = based.unwrap_or((digits, 10));
    // `8u32` is a number too.
    let digits = digits.split(['u', 'i']).next().unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    i128::from_str_radix(digits, base)
        .ok()
        .map(|number| sign * number)
}

/// A number as RON writes them.
pub(super) fn float(word: &str) -> Option<f64> {
    let word = word.replace('_', "");
    let word = ["f32", "f64"]
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix))
        .unwrap_or(&word);
    word.parse()
        .ok()
        .or(integer(word).map(|number| number as f64))
}
