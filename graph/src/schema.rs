//! JSON schemas, as schemars derives them from parameters, in the terms of RON. The catalogue
//! (`rsflow nodes`) and the errors of `check` describe types by [`Reader::in_words`].

use serde_json::{Map, Value};

use crate::words::joined;

/// A field of a struct.
pub struct Field<'a> {
    pub name: &'a str,
    pub required: bool,
    pub schema: &'a Value,
}

/// A variant of an enum.
pub struct Choice<'a> {
    pub name: &'a str,
    /// The schema of its parentheses; `None` for a unit variant.
    pub body: Option<&'a Value>,
    pub doc: String,
}

/// A schema by the form of its values in RON.
pub enum Shape<'a> {
    Choice(Vec<Choice<'a>>),
    Struct,
    Tuple(Vec<&'a Value>),
    List(&'a Value),
    Map(&'a Value),
    /// Anything without parts: its JSON type, or "" for any value.
    Plain(&'a str),
}

impl<'a> Shape<'a> {
    /// For a schema without `$ref` and null, as [`Reader::resolve`] returns them.
    pub fn of(schema: &'a Value) -> Self {
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return Shape::Choice(variants.iter().flat_map(choices).collect());
        }
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            return Shape::Choice(choices(schema));
        }
        let length = schema.get("maxItems").and_then(Value::as_u64);
        match (type_of(schema), schema.get("items")) {
            ("array", Some(item)) if length.is_some() && length == minimum_length(schema) => {
                // A Rust array; serde writes it like a tuple.
                Shape::Tuple((0..length.unwrap_or(0)).map(|_| item).collect())
            }
            ("array", Some(item)) => Shape::List(item),
            ("array", None) => {
                let items = schema.get("prefixItems").and_then(Value::as_array);
                Shape::Tuple(items.into_iter().flatten().collect())
            }
            ("object", _) => match schema.get("additionalProperties") {
                Some(value @ Value::Object(_)) => Shape::Map(value),
                _ => Shape::Struct,
            },
            (plain, _) => Shape::Plain(plain),
        }
    }
}

fn minimum_length(schema: &Value) -> Option<u64> {
    schema.get("minItems").and_then(Value::as_u64)
}

/// The JSON type; of a nullable one, the other type.
pub(crate) fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|&name| name != "null")
            .unwrap_or("null"),
        _ => "",
    }
}

/// The variants in one entry of `oneOf`: those without a description share an entry.
fn choices(schema: &Value) -> Vec<Choice<'_>> {
    let unit = |name| Choice {
        name,
        body: None,
        doc: doc(schema),
    };
    if let Some(name) = schema.get("const").and_then(Value::as_str) {
        return vec![unit(name)];
    }
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        let names = names.iter().filter_map(Value::as_str);
        return names.map(unit).collect();
    }
    properties(schema)
        .into_iter()
        .flatten()
        .map(|(name, body)| Choice {
            name,
            body: Some(body),
            doc: doc(schema),
        })
        .collect()
}

pub(crate) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn variants(schema: &Value) -> impl Iterator<Item = &Value> {
    let variants = schema.get("anyOf").and_then(Value::as_array);
    variants.into_iter().flatten()
}

/// The word that a recipe may write for the default of a number, such as `Auto`.
pub(crate) fn default_word(schema: &Value) -> Option<&str> {
    let is_number = matches!(type_of(schema), "integer" | "number");
    schema.get("default").filter(|_| is_number)?.as_str()
}

/// The fields of a struct, required ones first.
pub fn fields(schema: &Value) -> Vec<Field<'_>> {
    let required = schema.get("required").and_then(Value::as_array);
    let mut fields: Vec<Field> = properties(schema)
        .into_iter()
        .flatten()
        .map(|(name, schema)| Field {
            name,
            required: required.is_some_and(|required| required.iter().any(|r| r == name)),
            schema,
        })
        .collect();
    fields.sort_by_key(|field| !field.required);
    fields
}

/// The description of a field or a type, one line for each paragraph.
pub fn doc(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    let paragraphs: Vec<String> = text
        .unwrap_or("")
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n")
}

/// Resolves references within a kind's schema.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The schema that holds the definitions.
    pub root: &'a Value,
}

impl<'a> Reader<'a> {
    /// Follows `$ref` and takes null out of a schema; true if the value may be null.
    pub fn resolve(&self, mut schema: &'a Value) -> (&'a Value, bool) {
        let mut nullable = false;
        loop {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let target = reference.and_then(|path| self.root.pointer(path.strip_prefix('#')?));
            let variants: Vec<&Value> = variants(schema).collect();
            let some = variants.iter().copied();
            let some: Vec<&Value> = some.filter(|one| type_of(one) != "null").collect();
            match (target, some.as_slice()) {
                (Some(target), _) => schema = target,
                (None, [some]) => {
                    nullable |= variants.len() > 1;
                    schema = some;
                }
                _ => {
                    let names = schema.get("type").and_then(Value::as_array);
                    nullable |= names.is_some_and(|names| names.iter().any(|name| name == "null"));
                    return (schema, nullable);
                }
            }
        }
    }

    pub fn is_input(&self, schema: &'a Value) -> bool {
        is_input(self.resolve(schema).0)
    }

    /// A type in a few words, without an article.
    pub fn in_words(&self, schema: &'a Value) -> String {
        let (schema, nullable) = self.resolve(schema);
        let mut words = vec![self.some_in_words(schema)];
        words.extend(default_word(schema).map(str::to_owned));
        words.extend(nullable.then(|| "None".to_owned()));
        joined(&words, "or")
    }

    fn some_in_words(&self, schema: &'a Value) -> String {
        match Shape::of(schema) {
            Shape::Choice(choices) => {
                let words = choices.iter().map(|choice| self.choice_in_words(choice));
                let words: Vec<String> = words.collect();
                match &words[..] {
                    [only] => only.clone(),
                    _ => format!("one of: {}", words.join(", ")),
                }
            }
            Shape::Struct | Shape::Tuple(_) => self.body_in_words(schema),
            Shape::List(item) => match self.in_words(item) {
                plain if matches!(&plain[..], "integer" | "number" | "string") => {
                    format!("list of {plain}s")
                }
                words => format!("list of {words}"),
            },
            Shape::Map(value) => format!("map {{string: {}}}", self.in_words(value)),
            Shape::Plain(name @ ("integer" | "number")) => bounded(name, schema),
            Shape::Plain("boolean") => "true or false".to_owned(),
            Shape::Plain("string") if is_input(schema) => "node name".to_owned(),
            Shape::Plain("string") if is_character(schema) => "character".to_owned(),
            Shape::Plain("null") => "()".to_owned(),
            Shape::Plain("") => {
                let words: Vec<String> = variants(schema).map(|one| self.in_words(one)).collect();
                match words.is_empty() {
                    true => "any value".to_owned(),
                    false => joined(&words, "or"),
                }
            }
            Shape::Plain(other) => other.to_owned(),
        }
    }

    pub fn choice_in_words(&self, choice: &Choice<'a>) -> String {
        match choice.body {
            None => choice.name.to_owned(),
            Some(body) => format!(
                "{}{}",
                choice.name,
                self.body_in_words(self.resolve(body).0)
            ),
        }
    }

    /// What follows a variant's name, in parentheses.
    fn body_in_words(&self, schema: &'a Value) -> String {
        let parts: Vec<String> = match Shape::of(schema) {
            Shape::Struct => {
                let fields = fields(schema).into_iter();
                fields.map(|field| field.name.to_owned()).collect()
            }
            Shape::Tuple(items) => items.into_iter().map(|item| self.in_words(item)).collect(),
            Shape::Plain("null") => Vec::new(),
            _ => vec![self.in_words(schema)],
        };
        format!("({})", parts.join(", "))
    }
}

/// The words of [`Reader::in_words`] as a part of a sentence: "an integer", "a list of strings".
pub fn with_article(words: &str) -> String {
    let first = words.split([' ', ',']).next().unwrap_or_default();
    let article = match first {
        "integer" => "an ",
        "number" | "string" | "character" | "list" | "map" | "node" => "a ",
        _ => "",
    };
    format!("{article}{words}")
}

fn is_input(schema: &Value) -> bool {
    schema.get("format").is_some_and(|format| format == "input")
}

pub fn is_character(schema: &Value) -> bool {
    schema.get("maxLength").and_then(Value::as_u64) == Some(1)
}

/// A number with its bounds, except those of its machine type.
fn bounded(name: &str, schema: &Value) -> String {
    let (lowest, highest) = match schema.get("format").and_then(Value::as_str).unwrap_or("") {
        "int8" => (Some(-128.0), Some(127.0)),
        "int16" => (Some(-32_768.0), Some(32_767.0)),
        "uint8" => (Some(0.0), Some(255.0)),
        "uint16" => (Some(0.0), Some(65_535.0)),
        format if format.starts_with("uint") => (Some(0.0), None),
        _ => (None, None),
    };
    let bound = |key, known: Option<f64>| {
        let bound = schema.get(key)?;
        (bound.as_f64() != known).then_some(bound)
    };
    match (bound("minimum", lowest), bound("maximum", highest)) {
        (Some(least), Some(most)) => format!("{name} from {least} to {most}"),
        (Some(least), None) => format!("{name}, at least {least}"),
        (None, Some(most)) => format!("{name}, at most {most}"),
        (None, None) => name.to_owned(),
    }
}
