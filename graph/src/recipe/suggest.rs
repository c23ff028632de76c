//! What was probably meant by a value that a field cannot have.

use serde_json::Value as Schema;

use super::number::{float, integer, result, without_suffix};
use crate::fields::{Shape, Value};
use crate::schema::{self, Choice, Reader, Shape as Type, type_of};

/// A word without case, `_` and `-`.
fn plain(word: &str) -> String {
    let letters = word.chars().filter(|c| c.is_alphanumeric() || *c == '.');
    letters.collect::<String>().to_lowercase()
}

/// `true` for `True`, `yes` and `1`.
pub(super) fn boolean(word: &str) -> Option<&'static str> {
    match word.to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some("true"),
        "false" | "no" | "off" | "0" => Some("false"),
        _ => None,
    }
}

/// Whether a word means that there is no value, in Python, JSON or YAML.
pub(super) fn is_none(word: &str) -> bool {
    matches!(
        word,
        "None" | "none" | "null" | "Null" | "NULL" | "nil" | "~" | "nullptr"
    )
}

/// Whether a word switches something off, as `False` does for what has no value then.
pub(super) fn is_off(word: &str) -> bool {
    boolean(word) == Some("false") && word != "0"
}

/// `0.5` for `0,5`, `0.01` for `1/100`, `1e-4` for `1e-4f`.
pub(super) fn number(typed: &str) -> Option<String> {
    let plain = || without_suffix(typed).map(str::to_owned);
    decimal(typed).or_else(|| result(typed)).or_else(plain)
}

/// `100` for `1e2` and `2.0`.
pub(super) fn whole(word: &str) -> Option<String> {
    if integer(word).is_some() && !word.contains('e') {
        return None;
    }
    let number = float(word).filter(|number| number.fract() == 0.0 && number.abs() < 1e15)?;
    Some(format!("{number:.0}"))
}

/// `0.5` for `true`, where a field described so is a probability.
pub(super) fn probability(word: &str, doc: &str) -> Option<&'static str> {
    let is_likely = boolean(word).filter(|_| doc.to_lowercase().contains("probability"))?;
    Some(if is_likely == "true" { "0.5" } else { "0.0" })
}

/// `(0.25, 1.0)` for the number `word` where a pair is wanted: up to the second of the `default`, if that is more.
pub(super) fn pair(word: &str, default: Option<&Schema>) -> Option<String> {
    let first = float(word)?;
    let second = default.and_then(|pair| pair.get(1)?.as_f64());
    Some(match second.filter(|second| *second > first) {
        Some(second) => format!("({word}, {second:?})"),
        None => format!("({word}, {word})"),
    })
}

/// `0.5` for `0,5`.
pub(super) fn decimal(typed: &str) -> Option<String> {
    let (before, after) = typed.split_once(',')?;
    let is_digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let before_digits = before.trim_start_matches(['-', '+']);
    (is_digits(before_digits) && is_digits(after)).then(|| format!("{before}.{after}"))
}

/// How a choice is written that `word` means: `Cosine` for `cosine`, `ResNet(depth: 18)` for `resnet18`.
pub(super) fn choice(reader: &Reader, choices: &[Choice], word: &str) -> Option<String> {
    let (typed, word) = (word, plain(word));
    if word.is_empty() {
        return None;
    }
    if let Some(found) = choices.iter().find(|choice| plain(choice.name) == word) {
        return Some(written(reader, found));
    }
    if is_none(&word) && choices.iter().any(|choice| choice.name == "None") {
        return Some("None".to_owned());
    }
    if let Some(found) = longer_name(choices, typed) {
        return Some(written(reader, found));
    }
    let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &word[stem.len()..];
    let found = choices.iter().find(|choice| plain(choice.name) == stem)?;
    let (body, _) = reader.resolve(found.body?);
    let required = schema::fields(body)
        .into_iter()
        .filter(|field| field.required);
    match required.collect::<Vec<_>>().as_slice() {
        [field] if type_of(reader.resolve(field.schema).0) == "integer" && !number.is_empty() => {
            Some(format!("{}({}: {number})", found.name, field.name))
        }
        _ => None,
    }
}

/// The choice that a longer name begins with: `Cosine` of `CosineAnnealingLR` and `cosine_annealing`.
fn longer_name<'a, 'b>(choices: &'b [Choice<'a>], typed: &str) -> Option<&'b Choice<'a>> {
    let begins = |choice: &&Choice| {
        let (name, rest) = typed
            .split_at_checked(choice.name.len())
            .unwrap_or_default();
        let ends_a_word = rest.starts_with(|c: char| c.is_uppercase() || matches!(c, '_' | '-'));
        name.eq_ignore_ascii_case(choice.name) && ends_a_word
    };
    choices.iter().find(begins)
}

/// A choice with what it needs.
pub(super) fn written(reader: &Reader, choice: &Choice) -> String {
    let Some(body) = choice.body else {
        return choice.name.to_owned();
    };
    let (body, _) = reader.resolve(body);
    match Type::of(body) {
        Type::Struct => {
            let required = schema::fields(body)
                .into_iter()
                .filter(|field| field.required);
            let fields: Vec<String> = required
                .map(|field| format!("{}: ...", field.name))
                .collect();
            format!("{}({})", choice.name, fields.join(", "))
        }
        _ => format!("{}(...)", choice.name),
    }
}

/// A struct as it is written: the example of the field's description, or `(mean: ..., std: ...)`.
pub(super) fn struct_written(field: &Schema, body: &Schema) -> String {
    let doc = schema::doc(field);
    let mut quoted = doc.split('`').skip(1).step_by(2);
    if let Some(example) = quoted.find(|text| text.starts_with('(')) {
        return example.to_owned();
    }
    let fields = schema::fields(body).into_iter();
    let some = fields
        .filter(|field| field.required)
        .map(|field| format!("{}: ...", field.name));
    let some: Vec<String> = some.collect();
    format!("({})", some.join(", "))
}

/// `optimizer.lr` for `lr`: the field `name` of a value within a struct, as it is in `value`, or else in the
/// first that has one.
pub(super) fn within(
    reader: &Reader,
    text: &str,
    value: &Value,
    body: &Schema,
    name: &str,
) -> Option<String> {
    let has =
        |body: &Schema| schema::properties(body).is_some_and(|fields| fields.contains_key(name));
    let fields = schema::properties(body)?;
    let found = fields.iter().find(|(field, inner)| {
        let (inner, _) = reader.resolve(inner);
        match Type::of(inner) {
            Type::Struct => has(inner),
            Type::Choice(choices) => {
                let head = value.at(text, field).map(|value| &text[value.head.clone()]);
                let written = choices
                    .iter()
                    .filter(|choice| head.is_none_or(|head| head == choice.name));
                let mut bodies = written.filter_map(|choice| choice.body);
                bodies.any(|body| has(reader.resolve(body).0))
            }
            _ => false,
        }
    });
    found.map(|(field, _)| format!("{field}.{name}"))
}

/// Whether it is a string in single quotes.
pub(super) fn is_single_quoted(value: &Value, word: &str) -> bool {
    matches!(value.shape, Shape::Quoted) && word.starts_with('\'')
}
