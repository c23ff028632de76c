//! A JSON schema, as schemars derives it, in the words of one who writes RON.

use serde_json::{Map, Value};

/// Values that need more words than fit into the table of parameters.
pub(super) struct Section<'a> {
    /// The fields that take such values, as `--set` names them.
    pub(super) fields: Vec<String>,
    /// Which of the choices this is about; `None`: all of them.
    pub(super) choice: Option<&'a str>,
    /// What the values look like.
    pub(super) schema: &'a Value,
}

/// A field of a struct.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) required: bool,
    pub(super) schema: &'a Value,
}

/// A variant of an enum.
pub(super) struct Choice<'a> {
    pub(super) name: &'a str,
    /// What stands in its parentheses.
    pub(super) body: Option<&'a Value>,
    pub(super) doc: String,
}

/// A schema, by what its values look like in RON.
pub(super) enum Shape<'a> {
    Choice(Vec<Choice<'a>>),
    Struct,
    Tuple(Vec<&'a Value>),
    List(&'a Value),
    Map(&'a Value),
    /// Anything without parts: the name of its JSON type.
    Plain(&'a str),
}

impl<'a> Shape<'a> {
    /// `schema` has no `$ref` and is not nullable: [`Reader::resolve`] sees to that.
    pub(super) fn of(schema: &'a Value) -> Self {
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return Shape::Choice(variants.iter().flat_map(choices).collect());
        }
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            return Shape::Choice(choices(schema));
        }
        let length = schema.get("maxItems").and_then(Value::as_u64);
        match (type_of(schema), schema.get("items")) {
            ("array", Some(item)) if length.is_some() && length == minimum_length(schema) => {
                // A Rust array; serde writes it as it writes a tuple.
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
fn type_of(schema: &Value) -> &str {
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

/// The variants that one entry of `oneOf` stands for: those without description share one.
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

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn is_nullable(schema: &Value) -> bool {
    let names = schema.get("type").and_then(Value::as_array);
    let variants = schema.get("anyOf").and_then(Value::as_array);
    names.is_some_and(|names| names.iter().any(|name| name == "null"))
        || variants.is_some_and(|variants| variants.iter().any(|v| type_of(v) == "null"))
}

/// The fields of a struct, those that must be given first.
pub(super) fn fields(schema: &Value) -> Vec<Field<'_>> {
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

/// The description of a field or a type, as paragraphs without line breaks of their own.
pub(super) fn doc(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    let paragraphs: Vec<String> = text
        .unwrap_or("")
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n")
}

/// Reads a kind's schema.
pub(super) struct Reader<'a> {
    pub(super) root: &'a Value,
}

impl<'a> Reader<'a> {
    /// What a `$ref` stands for and what may be null, if so.
    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        loop {
            let next = if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                let pointer = reference.trim_start_matches('#');
                self.root.pointer(pointer)
            } else {
                let variants = schema.get("anyOf").and_then(Value::as_array);
                variants.and_then(|variants| variants.iter().find(|v| type_of(v) != "null"))
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
    }

    pub(super) fn is_input(&self, schema: &'a Value) -> bool {
        let format = self.resolve(schema).get("format");
        format.is_some_and(|format| format == "input")
    }

    /// A type, as short as can be.
    pub(super) fn in_words(&self, schema: &'a Value) -> String {
        let words = self.in_words_if_some(self.resolve(schema));
        if is_nullable(schema) {
            format!("{words} or None")
        } else {
            words
        }
    }

    fn in_words_if_some(&self, schema: &'a Value) -> String {
        match Shape::of(schema) {
            Shape::Choice(choices) => {
                let words: Vec<String> = choices
                    .iter()
                    .map(|choice| self.choice_in_words(choice))
                    .collect();
                match &words[..] {
                    [only] => only.clone(),
                    _ => format!("one of: {}", words.join(", ")),
                }
            }
            Shape::Struct | Shape::Tuple(_) => self.body_in_words(schema),
            Shape::List(item) => match self.in_words(item) {
                plain if matches!(&plain[..], "integer" | "number" | "text") => {
                    format!("list of {plain}s")
                }
                words => format!("list of {words}"),
            },
            Shape::Map(value) => format!("{{text: {}}}", self.in_words(value)),
            Shape::Plain(name @ ("integer" | "number")) => bounded(name, schema),
            Shape::Plain("boolean") => "true or false".to_owned(),
            Shape::Plain("string") if is_character(schema) => "character".to_owned(),
            Shape::Plain("string") => "text".to_owned(),
            Shape::Plain("null") => "()".to_owned(),
            Shape::Plain("") => "any value".to_owned(),
            Shape::Plain(other) => other.to_owned(),
        }
    }

    pub(super) fn choice_in_words(&self, choice: &Choice<'a>) -> String {
        match choice.body {
            None => choice.name.to_owned(),
            Some(body) => format!("{}{}", choice.name, self.body_in_words(self.resolve(body))),
        }
    }

    /// What stands behind a variant's name: always in parentheses.
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

    /// A value as RON writes it.
    pub(super) fn ron(&self, schema: &'a Value, value: &Value) -> String {
        let schema = self.resolve(schema);
        match (Shape::of(schema), value) {
            (Shape::Plain("null"), Value::Null) => "()".to_owned(),
            (_, Value::Null) => "None".to_owned(),
            (Shape::Choice(_), Value::String(name)) => name.clone(),
            (Shape::Choice(choices), Value::Object(map)) => map
                .iter()
                .map(|(name, value)| {
                    let choice = choices.iter().find(|choice| choice.name == name);
                    let body = choice.and_then(|choice| choice.body);
                    let body = body.map_or_else(|| value.to_string(), |body| self.ron(body, value));
                    // A struct and a tuple bring their parentheses.
                    if body.starts_with('(') {
                        format!("{name}{body}")
                    } else {
                        format!("{name}({body})")
                    }
                })
                .collect(),
            (Shape::Plain(_), Value::String(text)) if is_character(schema) => {
                text.chars().map(|c| format!("{c:?}")).collect()
            }
            (Shape::Tuple(items), Value::Array(values)) => {
                let parts = items.into_iter().zip(values);
                format!(
                    "({})",
                    joined(parts.map(|(item, value)| self.ron(item, value)))
                )
            }
            (Shape::List(item), Value::Array(values)) => {
                format!(
                    "[{}]",
                    joined(values.iter().map(|value| self.ron(item, value)))
                )
            }
            (Shape::Struct, Value::Object(map)) => {
                // In the order of the fields, not of the map.
                let fields = fields(schema);
                let parts = fields.iter().filter_map(|field| {
                    let value = self.ron(field.schema, map.get(field.name)?);
                    Some(format!("{}: {value}", field.name))
                });
                format!("({})", joined(parts))
            }
            (Shape::Map(item), Value::Object(map)) => {
                let parts = map.iter();
                let parts = parts.map(|(key, value)| format!("{key:?}: {}", self.ron(item, value)));
                format!("{{{}}}", joined(parts))
            }
            // Numbers, booleans and text are the same in both languages.
            _ => value.to_string(),
        }
    }

    /// Adds the sections that explain `schema`, the type of the field `path`.
    pub(super) fn collect(&self, schema: &'a Value, path: &str, sections: &mut Vec<Section<'a>>) {
        let schema = self.resolve(schema);
        match Shape::of(schema) {
            Shape::Choice(choices) => {
                let explained = choices.iter().any(|choice| !choice.doc.is_empty());
                let new = !explained || self.is_new(schema, None, path, sections);
                for choice in choices {
                    let Some(body) = choice.body.map(|body| self.resolve(body)) else {
                        continue;
                    };
                    if let Shape::Struct = Shape::of(body) {
                        self.collect_fields(body, Some(choice.name), path, sections);
                    } else if new {
                        self.collect(body, path, sections);
                    }
                }
            }
            Shape::Struct => self.collect_fields(schema, None, path, sections),
            Shape::Tuple(items) => {
                for item in items {
                    self.collect(item, path, sections);
                }
            }
            Shape::List(item) | Shape::Map(item) => self.collect(item, path, sections),
            Shape::Plain(_) => {}
        }
    }

    fn collect_fields(
        &self,
        schema: &'a Value,
        choice: Option<&'a str>,
        path: &str,
        sections: &mut Vec<Section<'a>>,
    ) {
        if self.is_new(schema, choice, path, sections) {
            for field in fields(schema) {
                self.collect(field.schema, &format!("{path}.{}", field.name), sections);
            }
        }
    }

    /// Adds a section, unless another field has brought it; then adds the field to it. True if
    /// it is new: then what it leads to must be looked at.
    fn is_new(
        &self,
        schema: &'a Value,
        choice: Option<&'a str>,
        path: &str,
        sections: &mut Vec<Section<'a>>,
    ) -> bool {
        let told = sections
            .iter_mut()
            .find(|section| std::ptr::eq(section.schema, schema) && section.choice == choice);
        match told {
            Some(section) => {
                if !section.fields.iter().any(|field| field == path) {
                    section.fields.push(path.to_owned());
                }
                false
            }
            None => {
                sections.push(Section {
                    fields: vec![path.to_owned()],
                    choice,
                    schema,
                });
                true
            }
        }
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn is_character(schema: &Value) -> bool {
    schema.get("maxLength").and_then(Value::as_u64) == Some(1)
}

/// A type of number with its bounds, but those of its machine type.
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
