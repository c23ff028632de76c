//! Values that serde refuses, validated again against their JSON schema: every error, each at its
//! place.

use std::ops::Range;

use serde_json::Value as Schema;

use super::names::OTHER_NAMES;
use super::number::{float, integer, is_number};
use super::read::is_name;
use super::suggest;
use super::syntax::unpaired;
use crate::fields::{self, Field, Shape, Value};
use crate::node::Kind;
use crate::problem::Problem;
use crate::schema::{
    Choice, Reader, Shape as Type, default_word, doc, fields as fields_of, is_character,
    properties, type_of, with_article,
};
use crate::text::Text;
use crate::words::{did_you_mean, listed, nearest, one_of};

/// Finds what a schema does not allow. Only for values that serde has refused.
pub(super) struct Validator<'a> {
    text: &'a Text,
    reader: Reader<'a>,
    kind: Option<&'static Kind>,
    pub found: Vec<Problem>,
}

impl<'a> Validator<'a> {
    pub fn new(text: &'a Text, root: &'a Schema, kind: Option<&'static Kind>) -> Self {
        Validator {
            text,
            reader: Reader { root },
            kind,
            found: Vec::new(),
        }
    }

    fn word(&self, span: &Range<usize>) -> &'a str {
        &self.text.resolved()[span.clone()]
    }

    /// `what` names the value in messages.
    pub fn value(&mut self, mut value: &Value, schema: &'a Schema, what: &str) {
        let whole_schema = schema;
        let (schema, optional) = self.reader.resolve(schema);
        let head = self.word(&value.head);
        if is_name(self.text.resolved(), value) {
            return;
        }
        match &value.shape {
            Shape::Word if optional && head == "None" => return,
            Shape::Tuple(items) if optional && head == "Some" => {
                if let [inner] = items.as_slice() {
                    value = inner;
                }
            }
            _ => {}
        }
        let word = self.word(&value.span);
        let valid = match (Type::of(schema), &value.shape) {
            (Type::Choice(choices), _) => {
                let nothing = self.nothing_meant(value, whole_schema);
                return self.choice(value, schema, &choices, what, nothing);
            }
            (Type::Plain("integer"), Shape::Word) => match integer(word) {
                Some(number) => return self.range(value, number, schema, what),
                None => default_word(schema) == Some(word),
            },
            (Type::Plain("number"), Shape::Word) => float(word).is_some(),
            (Type::Plain("boolean"), Shape::Word) => matches!(word, "true" | "false"),
            (Type::Plain("string"), Shape::Quoted) => {
                is_character(schema) || !suggest::is_single_quoted(value, word)
            }
            (Type::List(item), Shape::List(values)) => {
                for value in values {
                    self.value(value, item, &format!("each value of {what}"));
                }
                return;
            }
            (Type::Tuple(items), Shape::Tuple(values)) if items.len() == values.len() => {
                for (value, item) in values.iter().zip(items) {
                    self.value(value, item, &format!("each value of {what}"));
                }
                return;
            }
            // What a struct is called nobody writes: another word is meant as its value.
            (Type::Struct, Shape::Word) if !word.starts_with(|c: char| c.is_uppercase()) => false,
            (Type::Struct, Shape::Word)
                if optional && (suggest::is_none(word) || suggest::is_off(word)) =>
            {
                false
            }
            (Type::Struct | Type::Map(_), _) => return self.object(value, schema, what),
            (Type::Plain("integer" | "number" | "boolean" | "string"), _) => false,
            (Type::List(_) | Type::Tuple(_), _) => false,
            (Type::Plain(_), _) => true,
        };
        if !valid {
            self.type_mismatch(value, whole_schema, what);
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

    fn type_mismatch(&mut self, value: &Value, schema: &'a Schema, what: &str) {
        let help = self.meant(value, schema);
        let message = format!("{what} must be {}", self.type_in_words(schema));
        let problem = Problem::new(message, value.span.clone());
        self.found
            .push(problem.label(self.found(value)).maybe_help(help));
    }

    /// Help: how what was probably meant is written.
    fn meant(&self, value: &Value, schema: &'a Schema) -> Option<String> {
        let word = self.word(&value.span);
        let unquoted = word.trim_matches(['"', '\'']);
        let without_quotes = |written: &str| match self.is_quoted(value) {
            true => Some(format!("write `{written}`, without quotes")),
            false => Some(format!("write `{written}`")),
        };
        if let Some(name) = self.let_name(value) {
            return without_quotes(&name);
        }
        if let Some(help) = self.nothing_meant(value, schema) {
            return Some(help);
        }
        match (Type::of(self.reader.resolve(schema).0), &value.shape) {
            (Type::Plain("integer"), Shape::Quoted) if integer(unquoted).is_some() => {
                without_quotes(unquoted)
            }
            (Type::Plain("integer"), Shape::Quoted | Shape::Word) => {
                let number = || suggest::number(unquoted).filter(|it| integer(it).is_some());
                let whole = suggest::whole(unquoted).or_else(number);
                whole.and_then(|number| without_quotes(&number))
            }
            (Type::Plain("number"), Shape::Quoted) if float(unquoted).is_some() => {
                without_quotes(unquoted)
            }
            (Type::Plain("number"), Shape::Quoted) => {
                suggest::number(unquoted).and_then(|number| without_quotes(&number))
            }
            (Type::Plain("number"), Shape::Word) => {
                let number = suggest::number(unquoted);
                let number = number.as_deref();
                let number = number.or_else(|| suggest::probability(unquoted, &doc(schema)));
                number.and_then(without_quotes)
            }
            (Type::Plain("boolean"), Shape::Quoted | Shape::Word) => {
                suggest::boolean(unquoted).and_then(without_quotes)
            }
            (Type::List(_), Shape::Quoted) => self.bracketed(value, &[("", "]"), ("[", "]")]),
            (Type::Struct, Shape::Quoted | Shape::Word | Shape::Map(_)) => {
                let written = suggest::struct_written(schema, self.reader.resolve(schema).0);
                let bracketed = self.bracketed(value, &[("", ")"), ("(", ")")]);
                bracketed.or_else(|| Some(format!("write `{written}`")))
            }
            (Type::Tuple(_) | Type::Map(_), Shape::Quoted) => {
                self.bracketed(value, &[("", ")"), ("(", ")")])
            }
            (Type::Plain("string"), Shape::Word | Shape::Quoted) => {
                Some(format!("write `\"{unquoted}\"`"))
            }
            (Type::List(_), Shape::Word) => Some(format!("write `[{word}]`")),
            (Type::List(_), Shape::Tuple(items)) if !items.is_empty() => {
                let [first, .., last] = [&items[0], &items[items.len() - 1]];
                let inside = first.span.start..last.span.end;
                Some(format!("write `[{}]`", self.word(&inside)))
            }
            (Type::Tuple(types), Shape::Word) if types.len() == 2 => {
                let pair = suggest::pair(word, schema.get("default"));
                pair.map(|pair| format!("write `{pair}`"))
            }
            (Type::Tuple(types), Shape::List(items)) if types.len() == items.len() => {
                let inside = value.span.start + 1..value.span.end - 1;
                Some(format!("write `({})`", self.word(&inside)))
            }
            _ => None,
        }
    }

    /// Help where a word says that there is no value: `None` where the field takes it, else its default.
    fn nothing_meant(&self, value: &Value, schema: &'a Schema) -> Option<String> {
        let word = self.word(&value.span).trim_matches(['"', '\'']);
        let (inner, optional) = self.reader.resolve(schema);
        let kind = Type::of(inner);
        let has_none = |choices: &[Choice]| choices.iter().any(|it| it.name == "None");
        let takes_none = optional || matches!(&kind, Type::Choice(all) if has_none(all));
        let is_text = matches!(kind, Type::Plain("string"));
        let is_off = suggest::is_off(word) && !is_text && !matches!(kind, Type::Plain("boolean"));
        if takes_none && (suggest::is_none(word) || is_off) {
            let quotes = if self.is_quoted(value) {
                ", without quotes"
            } else {
                ""
            };
            return Some(format!("write `None`{quotes}"));
        }
        if is_text || !suggest::is_none(word) {
            return None;
        }
        Some(match schema.get("default")? {
            Schema::String(word) => format!("leave it out for its default, `{word}`"),
            default @ (Schema::Number(_) | Schema::Bool(_)) => {
                format!("leave it out for its default, `{default}`")
            }
            _ => "leave it out for its default".to_owned(),
        })
    }

    /// Whether it was written as a string, not as a word that was taken for one.
    fn is_quoted(&self, value: &Value) -> bool {
        let is_word = self.text.typed_without_quotes(&value.span).is_some()
            || self.text.is_spelling(&value.span);
        matches!(value.shape, Shape::Quoted) && !is_word
    }

    /// `$name` for `name` and `"$name"`, if `let` has it.
    fn let_name(&self, value: &Value) -> Option<String> {
        let word = self.word(&value.span).trim_matches('"');
        let name = word.strip_prefix('$').unwrap_or(word);
        let is_plain = matches!(value.shape, Shape::Word | Shape::Quoted);
        let is_known = self.text.let_names().iter().any(|known| known == name);
        (is_plain && is_known).then(|| format!("${name}"))
    }

    fn type_in_words(&self, schema: &'a Schema) -> String {
        with_article(&self.reader.in_words(schema))
    }

    /// What was written, in words.
    fn found(&self, value: &Value) -> String {
        let word = self.word(&value.span);
        match &value.shape {
            Shape::Word if integer(word).is_some() => "this is an integer".to_owned(),
            Shape::Word if float(word).is_some_and(|number| number.fract() == 0.0) => {
                "this is not written as an integer".to_owned()
            }
            Shape::Word if float(word).is_some() => "this is a number with a fraction".to_owned(),
            Shape::Word => "this is a word without quotes".to_owned(),
            Shape::Quoted if word.starts_with('\'') => "this is in single quotes".to_owned(),
            Shape::Quoted => match self.text.typed_without_quotes(&value.span) {
                Some(typed) => not_ron(typed),
                None if self.text.is_spelling(&value.span) => {
                    "this is a word without quotes".to_owned()
                }
                None => "this is a string".to_owned(),
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

    /// Help where an override was taken as a string because brackets are missing: for `a.sizes=64,32`
    /// or `a.sizes=[64,32` it is `[64,32]`, for `net.network=ResNet(depth: 18` the same with `)`. The
    /// first of `brackets` that makes what was typed valid RON is used.
    fn bracketed(&self, value: &Value, brackets: &[(&str, &str)]) -> Option<String> {
        let typed = self.text.typed_without_quotes(&value.span)?;
        let written = brackets.iter();
        let mut written = written.map(|(open, close)| format!("{open}{typed}{close}"));
        let valid = written.find(|written| fields::ron(written).is_ok())?;
        Some(format!("write `{valid}`"))
    }

    /// `nothing` is the help where no value is meant.
    fn choice(
        &mut self,
        value: &Value,
        schema: &'a Schema,
        choices: &[Choice<'a>],
        what: &str,
        nothing: Option<String>,
    ) {
        let names = || choices.iter().map(|choice| choice.name);
        let head = self.word(&value.head);
        let chosen = choices.iter().find(|choice| choice.name == head);
        let chosen = chosen.map(|choice| (choice.name, choice.body));
        let problem = match (chosen, &value.shape) {
            (Some((name, Some(inner))), shape) => {
                let (inner, _) = self.reader.resolve(inner);
                match shape {
                    Shape::Word if is_complete(inner) => {
                        let problem =
                            Problem::new(format!("`{name}` needs parentheses"), value.head.clone());
                        problem.help(format!("write `{name}()`"))
                    }
                    Shape::Word if type_of(inner) != "object" => {
                        let words = self.type_in_words(inner);
                        let message = format!("`{name}` needs {words} in parentheses");
                        let problem = Problem::new(message, value.head.clone());
                        problem.help(format!("write `{name}(...)`"))
                    }
                    Shape::Tuple(items) if type_of(inner) != "object" => match items.as_slice() {
                        [item] => return self.value(item, inner, &format!("`{name}`")),
                        _ => return self.type_mismatch(value, inner, &format!("`{name}`")),
                    },
                    _ => return self.object(value, inner, name),
                }
            }

            (Some((_, None)), Shape::Word) => return,
            (Some((name, None)), _) => Problem::new(
                format!("`{name}` has no fields"),
                value.head.end..value.span.end,
            )
            .help(format!("write `{name}`")),
            (None, _) if head.is_empty() || is_number(head) => {
                let word = self.word(&value.span);
                let meant = match &value.shape {
                    Shape::Quoted => {
                        let quoted = self.is_quoted(value);
                        let word = word.trim_matches('"');
                        nothing.or_else(|| self.choice_meant(value, choices, word, quoted))
                    }
                    Shape::Map(_) => Some("write `NAME(FIELD: VALUE)`, without braces".to_owned()),
                    _ => None,
                };
                Problem::new(
                    format!("{what} must be {}", self.type_in_words(schema)),
                    value.span.clone(),
                )
                .label(self.found(value))
                .maybe_help(meant.or_else(|| self.bracketed(value, &[("", ")")])))
            }
            (None, _) => Problem::new(format!("{what} cannot be `{head}`"), value.head.clone())
                .label(format!("expected {}", one_of(names())))
                .maybe_help(nothing.or_else(|| self.choice_meant(value, choices, head, false))),
        };
        self.found.push(problem);
    }

    /// Help: the choice that `word` means.
    fn choice_meant(
        &self,
        value: &Value,
        choices: &[Choice<'a>],
        word: &str,
        is_quoted: bool,
    ) -> Option<String> {
        let suffix = if is_quoted { ", without quotes" } else { "" };
        let meant = match self.let_name(value) {
            Some(name) => Some(name),
            None if !matches!(value.shape, Shape::Word | Shape::Quoted) => None,
            None => suggest::choice(&self.reader, choices, word),
        };
        let nearest = || did_you_mean(word, choices.iter().map(|choice| choice.name));
        meant
            .map(|meant| format!("write `{meant}`{suffix}"))
            .or_else(nearest)
    }

    /// `owner` names what has the fields where no name is in front of the parentheses.
    pub fn object(&mut self, value: &Value, schema: &'a Schema, owner: &str) {
        let Some(properties) = properties(schema) else {
            if !matches!(value.shape, Shape::Map(_)) {
                self.type_mismatch(value, schema, owner);
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
                let message = format!("the fields of `{head}` must be named");
                let problem = Problem::new(message, value.head.end..value.span.end);
                let help = format!("write `{head}({first}: ...)`");
                self.found.push(problem.label(self.found(value)).help(help));
                return;
            }
            _ => return self.type_mismatch(value, schema, owner),
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
        // Known fields that a misspelt name is near to.
        let mut meant: Vec<&str> = Vec::new();
        for field in fields {
            let written = self.word(&field.name);
            let inner = properties.get(written);
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
                let others = match (properties.len(), self.kind) {
                    (0, _) => "it has no fields".to_owned(),
                    (MANY.., Some(kind)) if owner == kind.name => {
                        format!("`rsflow nodes {owner}` lists its fields")
                    }
                    _ => format!("its fields are {}", listed(known())),
                };
                let text = self.text.resolved();
                let inside = suggest::within(&self.reader, text, value, schema, written);
                let inside = inside.map(|path| format!("did you mean `{path}`?"));
                let mut removed = self.kind.iter().flat_map(|kind| kind.removed);
                let problem = Problem::new(message, field.name.clone());
                self.found
                    .push(match removed.find(|(name, _)| *name == written) {
                        Some((_, help)) => problem.label("no longer a field").help(*help),
                        None => {
                            // Never a name that the kind does not have.
                            let other = OTHER_NAMES.iter().find(|(name, _)| *name == written);
                            let other = other.filter(|(_, ours)| properties.contains_key(*ours));
                            if let Some((_, ours)) = other {
                                meant.push(ours);
                            }
                            let other = other.map(|(_, ours)| format!("did you mean `{ours}`?"));
                            let near = nearest(written, known());
                            meant.extend(near.filter(|_| inside.is_none()));
                            problem.label("unknown field").help(
                                other
                                    .or(inside)
                                    .or_else(|| did_you_mean(written, known()))
                                    .unwrap_or(others),
                            )
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
                    let inner = properties.get(field);
                    let what = inner.map(|inner| self.type_in_words(inner));
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

/// More fields than a message lists.
const MANY: usize = 20;

/// Whether it is a struct all of whose fields have defaults.
fn is_complete(schema: &Schema) -> bool {
    matches!(Type::of(schema), Type::Struct)
        && fields_of(schema).iter().all(|field| !field.required)
}

/// The label of an override that is not RON and was put into quotes.
fn not_ron(typed: &str) -> String {
    let why = fields::ron(typed)
        .err()
        .and_then(|error| unpaired(typed, &error));
    let why = why.map_or_else(String::new, |problem| format!(": {}", problem.message));
    format!("not valid RON, treated as a string{why}")
}

/// The largest integer allowed: the schema's maximum, or that of the machine type.
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

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("one {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
